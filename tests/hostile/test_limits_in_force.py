"""Every limit of a sandbox stops what goes beyond it, and what ends a command is told as what it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attacker import PATIENCE, Box

from pytest_airlock.errors import SandboxDied, UnsupportedFeature
from pytest_airlock.providers.base import Absence, Command, Exit, Features, ProviderSpec
from pytest_airlock.providers.namespaces import NamespacesProvider, client, features
from pytest_airlock.providers.namespaces.engine import cgroup_tree, protocol
from pytest_airlock.providers.namespaces.process import NamespaceProcess

MIB = 1024**2
CAP_SYS_RESOURCE = 24
HOG = "held = []\nwhile True: held.append(bytearray(1 << 20))"


def outcome(box: Box, command: str | list[str], **words: Any) -> Exit:
    """How a command ends, streams unread."""
    process = box.spawn(command, stdout="null", stderr="null", **words)
    return process.wait(PATIENCE)


@pytest.fixture
def memory_box(make_box: Callable[..., Box], provider: NamespacesProvider) -> Callable[..., Box]:
    """A sandbox with a cap on its memory."""
    if "memory" not in provider.probe():
        pytest.skip("no control group of this host can cap memory for this user")
    return lambda **words: make_box(**{"memory": 64 * MIB, **words})


def group_file(box: Box, controller: str, version_1: str, version_2: str) -> str:
    """A file of the group that the first process of the sandbox is in, by its name in either version."""
    groups = {}
    for line in Path(f"/proc/{box.init}/cgroup").read_text().splitlines():
        _number, names, path = line.split(":", 2)
        groups.update(dict.fromkeys(names.split(","), path))
    key, name = (controller, version_1) if controller in groups else ("", version_2)
    assert "/airlock-" in groups[key]
    return Path(cgroup_tree._directory(cgroup_tree._mounts(""), key, groups[key]), name).read_text()


# ---------------------------------------------------------------------- memory, and who dies for it


def test_memory_without_a_control_group_is_refused_and_never_another_limit_in_its_place(
    provider: NamespacesProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = provider.probe()
    absent = {**real.absent, "memory": Absence("no such control group", "the fix")}
    monkeypatch.setattr(provider, "_features", Features(real.present - {"memory"}, absent))
    with pytest.raises(UnsupportedFeature) as caught:
        provider.create(ProviderSpec("uncapped", memory=MIB, required=frozenset({"memory"})))
    assert (caught.value.feature, caught.value.hint) == ("memory", "the fix")


def test_a_command_killed_for_want_of_memory_is_told_apart_from_a_killed_one(memory_box: Callable[..., Box]) -> None:
    box = memory_box()
    hog = [sys.executable, "-I", "-c", HOG]
    assert (outcome(box, hog).returncode, outcome(box, hog).oom_killed) == (-signal.SIGKILL, True)
    below_a_shell = outcome(box, f"{sys.executable} -I -c '{HOG}'; exit $?")
    assert (below_a_shell.returncode, below_a_shell.oom_killed) == (128 + signal.SIGKILL, True)
    killed = outcome(box, "kill -9 $$")
    assert (killed.returncode, killed.oom_killed) == (-signal.SIGKILL, False)
    assert box.run("echo well").out == "well\n"


def test_what_was_killed_before_or_beside_a_command_is_not_put_down_to_it(memory_box: Callable[..., Box]) -> None:
    box = memory_box()
    waiting = box.spawn("echo; exec sleep 1000")
    assert waiting.stdout.readline() == b"\n"
    assert outcome(box, [sys.executable, "-I", "-c", HOG]).oom_killed
    assert not outcome(box, "kill -9 $$").oom_killed
    waiting.send_signal(signal.SIGKILL)
    end = waiting.wait(PATIENCE)
    assert (end.returncode, end.oom_killed) == (-signal.SIGKILL, False)


@pytest.mark.parametrize("user", ["root", "airlock"])
def test_the_sandbox_outlives_many_small_commands_that_take_all_memory(
    memory_box: Callable[..., Box], user: str
) -> None:
    """Each of them is smaller than PID 1; without scores the killer takes who is largest."""
    box = memory_box(memory=48 * MIB, user=user)
    script = """
import os
held = []
for _ in range(40):
    if os.fork() == 0:
        while True: held.append(bytearray(1 << 16))
for _ in range(40): os.wait()
"""
    outcome(box, [sys.executable, "-I", "-S", "-c", script])
    assert int(_count(group_file(box, "memory", "memory.oom_control", "memory.events"), "oom_kill")) > 10
    assert box.run("echo well").out == "well\n"


def _count(text: str, name: str) -> str:
    return next(line.split()[1] for line in text.splitlines() if line.split()[0] == name)


def test_files_count_as_memory_and_leave_a_rest_for_the_first_process(memory_box: Callable[..., Box]) -> None:
    box = memory_box()
    filled = box.run("dd if=/dev/zero of=/dev/shm/x bs=1M")
    assert "No space left" in filled.err, "a full disk is an error of the command, not the end of it"
    assert int(group_file(box, "memory", "memory.usage_in_bytes", "memory.current")) > 31 * MIB
    assert outcome(box, [sys.executable, "-I", "-c", HOG]).oom_killed
    assert box.run("rm /dev/shm/x; echo well").out == "well\n"


def test_a_disk_larger_than_the_memory_is_had_where_it_is_asked_for_and_ends_in_the_cap(
    memory_box: Callable[..., Box],
) -> None:
    box = memory_box(disk=256 * MIB, required=frozenset({"disk", "memory"}))
    try:
        end = outcome(box, "exec dd if=/dev/zero of=/tmp/x bs=1M count=200")
    except SandboxDied as died:
        end = None
        told = str(died)
    assert "memory" in told if end is None else end.oom_killed


def test_who_gives_the_score_up_puts_his_own_sandbox_at_risk_and_is_told_so(memory_box: Callable[..., Box]) -> None:
    box, neighbour = (memory_box(disk=256 * MIB, required=frozenset({"disk", "memory"})) for _ in range(2))
    with pytest.raises(SandboxDied, match="killed for its memory limit"):
        outcome(box, "echo 0 >/proc/self/oom_score_adj; exec dd if=/dev/zero of=/tmp/x bs=1M count=200")
    assert neighbour.run("echo well").out == "well\n"


def test_commands_die_before_the_first_process_and_before_the_hosts(box: Box, users: tuple[str, ...]) -> None:
    script = """
answer["own"] = open("/proc/self/oom_score_adj").read().strip()
answer["first"] = open("/proc/1/oom_score_adj").read().strip()
answer["protect"] = wrote("/proc/self/oom_score_adj", b"-1")
answer["lower"] = wrote("/proc/self/oom_score_adj", answer["first"].encode())
"""
    for user in users:
        answer = box.attack(script, user=user)
        assert answer == {"own": "1000", "first": "900", "protect": "EACCES", "lower": "ok"}


def test_no_protection_of_the_host_against_the_killer_is_handed_on() -> None:
    """A service of the host may be exempt; a sandbox that could be, too, would have the host killed in its place."""
    if not _capable(CAP_SYS_RESOURCE):
        pytest.skip("this user may protect no process from the killer (no CAP_SYS_RESOURCE)")
    code = """
from pytest_airlock.providers.base import Command, ProviderSpec
from pytest_airlock.providers.namespaces import NamespacesProvider
with open("/proc/self/oom_score_adj", "w") as file:
    file.write("-500")
provider = NamespacesProvider()
handle = provider.create(ProviderSpec("protected"))
provider.start(handle)
script = "cat /proc/1/oom_score_adj; echo -500 >/proc/self/oom_score_adj || echo refused"
process = provider.spawn(handle, Command(("/bin/sh", "-c", script), stderr="null", cwd="/"))
print(process.stdout.read().decode())
process.close()
provider.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["900", "refused"], done.stderr


def _capable(capability: int) -> bool:
    status = Path("/proc/self/status").read_text().splitlines()
    return bool(int(next(line.split()[1] for line in status if line.startswith("CapEff:")), 16) >> capability & 1)


# ---------------------------------------------------------------------- address space, files, processors


def test_an_address_space_is_a_cap_for_each_process_and_for_no_more(make_box: Callable[..., Box]) -> None:
    script = """
import mmap, resource
def take(size):
    try:
        return len(mmap.mmap(-1, size))
    except OSError as error:
        return errno.errorcode[error.errno]
answer["beyond"] = take(256 << 20)
read, write = os.pipe()
for _ in range(3):
    if os.fork() == 0:
        os.write(write, b"%d " % take(96 << 20))
        os._exit(0)
for _ in range(3): os.wait()
answer["together"] = os.read(read, 100).decode().split()
try:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))
except ValueError as error:
    answer["raise"] = str(error)
"""
    capped, free = make_box(address_space=192 * MIB), make_box()
    assert "address_space" in capped.handle.enforced
    assert "address_space" not in free.handle.enforced
    together = [str(96 * MIB)] * 3
    assert capped.attack(script) == {
        "beyond": "ENOMEM",
        "together": together,
        "raise": "not allowed to raise maximum limit",
    }
    assert free.attack(script) == {"beyond": 256 * MIB, "together": together}


def test_the_least_address_space_is_enough_for_the_first_process(
    make_box: Callable[..., Box], provider: NamespacesProvider
) -> None:
    box = make_box(address_space=64 * MIB)
    jobs = [box.spawn("exec sleep 1000", stdout="null", stderr="null") for _ in range(200)]
    provider.write(box.handle, "/tmp/x", b"x" * (20 * MIB))
    assert len(provider.read(box.handle, "/tmp/x", limit=20 * MIB)) == 20 * MIB
    for job in jobs[:3]:
        job.kill_tree()
    assert box.run("echo well").out == "well\n"


def test_nobody_opens_more_files_than_he_may(box: Box, users: tuple[str, ...]) -> None:
    script = """
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
answer["raise"] = "refused"
try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard + 1))
    answer["raise"] = "ok"
except ValueError:
    pass
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
count = 3
while (code := tried(os.dup, 0)) == "ok": count += 1
answer.update(code=code, all=count == hard, bounded=count <= 65_536)
"""
    for user in users:
        assert box.attack(script, user=user) == {
            "raise": "refused",
            "code": "EMFILE",
            "all": True,
            "bounded": True,
        }


def test_processors_are_a_quota_where_there_is_a_group_else_a_choice_of_them(
    make_box: Callable[..., Box], provider: NamespacesProvider
) -> None:
    box = make_box(cpu=1)
    assert "cpu" in box.handle.enforced
    allowed = box.attack("answer = sorted(os.sched_getaffinity(0))")
    if not any(note.startswith("cgroup cpu limits") for note in provider.probe().notes):
        assert len(allowed) == 1
        assert box.attack("answer = tried(os.sched_setaffinity, 0, range(os.cpu_count()))") == "EPERM"
        return
    assert len(allowed) == len(os.sched_getaffinity(0))
    command = box.python("print('ready', flush=True); signal.pause()")
    assert group_file(box, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "100000", "microseconds of each 100,000"
    assert len(group_file(box, "cpu", "tasks", "cgroup.procs").split()) == 2, "its first process and the command"
    command.kill_tree()


# ---------------------------------------------------------------------- control groups of version 2

#: For the fork server: groups are made in the version 2 hierarchy, without limits where no controller is handed down to it.
UNIFIED = """
from engine import cgroup_tree as tree, cgroups, syscalls
def create(name, *, prefix="", **limits):
    path = tree._directory(tree._mounts(prefix), "", tree._own(prefix)[""])
    path = f"{path.removesuffix('/' + tree.LEAF)}/{cgroups._stem(prefix)}{name}"
    tree.mkdir(prefix + path)
    return cgroups.Group((cgroups.Place(path, 2),), None, prefix)
cgroups.create = create
"""


@pytest.mark.parametrize("clone3", [True, False], ids=["clone3", "no clone3"])
def test_a_sandbox_is_born_in_a_group_of_version_2_and_takes_it_along(
    monkeypatch: pytest.MonkeyPatch, *, clone3: bool
) -> None:
    own = cgroup_tree._own("").get("", "")
    place = cgroup_tree._directory(cgroup_tree._mounts(""), "", own)
    if not place or not os.access(f"{place}/cgroup.procs", os.W_OK):
        pytest.skip("no version 2 hierarchy is mounted in which this user may make groups")
    patched = UNIFIED if clone3 else f"{UNIFIED}\nsyscalls.has_clone3 = lambda: False\n"
    first, last = client._BOOT.rsplit("; from ", 1)
    monkeypatch.setattr(client, "_BOOT", f"{first}\n{patched}\nfrom {last}")
    provider = NamespacesProvider()
    try:
        found = provider.probe()
        limited = Features(found.present, found.absent, (*found.notes, "cgroup memory limits"))
        monkeypatch.setattr(provider, "_features", limited)
        box = Box(provider, "unified", memory=64 * MIB)
        path = next(
            line.removeprefix("0::")
            for line in Path(f"/proc/{box.init}/cgroup").read_text().splitlines()
            if line.startswith("0::")
        )
        assert "/airlock-" in path
        box.python("print('ready', flush=True); signal.pause()")
        group = Path(place + path.removeprefix(own.rstrip("/")))
        assert len((group / "cgroup.procs").read_text().split()) == 2
        assert box.run("cat /proc/self/cgroup").out.splitlines()[-1] == "0::/", "inside it is the root of all"
        box.delete()
        assert not group.exists()
    finally:
        provider.close()


# ---------------------------------------------------------------------- Landlock


def with_directory(box: Box, directory: str, script: str) -> Any:
    """Run Python in the sandbox with a directory of the host as its standard input: a leak that never may happen."""
    life = box.provider._boxes[box.name].living()
    words = ("-I", "-c", f"import errno, json, os\nanswer = {{}}\n{script}\nprint(json.dumps(answer))")
    shell = ("/bin/sh", "-c", 'exec 7<&0 </dev/null; exec "$@"', "sh")  # Python refuses a directory there
    command = Command((*shell, sys.executable, *words), tuple(box.provider.environ(box.handle).items()))
    request = box.provider._boxes[box.name].request(command)
    read, write = os.pipe2(os.O_CLOEXEC)
    leaked = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        stdio = protocol.PIPE | protocol.PIPE << 2 | protocol.MERGE << 4
        channel = life.ask(request._replace(stdio=stdio), (leaked, write))
    finally:
        os.close(leaked)
        os.close(write)
    process = NamespaceProcess(life, channel, (None, os.fdopen(read, "rb", buffering=0), None))
    box.spawned.append(process)
    process.started(command)
    assert process.stdout is not None
    text = process.stdout.read()
    assert process.wait(PATIENCE).returncode == 0, text
    return json.loads(text)


def test_a_leaked_directory_of_the_host_leads_nowhere(
    make_box: Callable[..., Box], provider: NamespacesProvider, tmp_path: Path
) -> None:
    """Where Landlock has no file rules, in a sandbox with nested name spaces, it does."""
    if "landlock" not in provider.probe():
        pytest.skip("this kernel has no Landlock")
    (tmp_path / "secret").write_text("secret")
    for path in (tmp_path, *list(tmp_path.parents)[:-2]):
        if path.stat().st_uid == os.getuid():
            path.chmod(path.stat().st_mode | 0o005)
    script = """
for name, path in {"file": "secret", "up": "..", "root": "../../../../../../../../etc/passwd"}.items():
    try:
        os.close(os.open(path, os.O_RDONLY, dir_fd=7))
        answer[name] = "ok"
    except OSError as error:
        answer[name] = errno.errorcode[error.errno]
"""
    box, nested = make_box(), make_box(nested=True)
    assert "landlock" in box.handle.enforced
    assert "landlock" not in nested.handle.enforced
    assert set(with_directory(box, str(tmp_path), script).values()) == {"EACCES"}
    assert set(with_directory(nested, str(tmp_path), script).values()) == {"ok"}


def test_landlock_hinders_no_ordinary_use_of_files(box: Box, users: tuple[str, ...]) -> None:
    """Its own root is open altogether: moves between directories, links, queues, memory files and pipes by name."""
    script = """
import mmap
os.makedirs("/tmp/a/b"); os.makedirs("/tmp/c")
open("/tmp/a/file", "w").close()
answer["move"] = tried(os.rename, "/tmp/a/file", "/tmp/c/file")
answer["move a directory"] = tried(os.rename, "/tmp/a", "/tmp/c/a")
answer["link"] = tried(os.link, "/tmp/c/file", "/tmp/c/a/b/file")
answer["truncate"] = tried(os.truncate, "/tmp/c/file", 10)
unnamed = os.open("/tmp", os.O_TMPFILE | os.O_RDWR)
answer["give it a name"] = tried(os.link, str(unnamed), "/tmp/named", src_dir_fd=os.open("/proc/self/fd", os.O_RDONLY))
answer["memfd by name"] = tried(os.open, f"/proc/self/fd/{os.memfd_create('x')}", os.O_RDWR)
answer["pipe by name"] = tried(os.open, f"/proc/self/fd/{os.pipe()[1]}", os.O_WRONLY)
os.chdir("/tmp/c/a/b"); os.unlink("file"); os.rmdir("/tmp/c/a/b")
answer["in a directory that is gone"] = tried(os.open, ".", os.O_RDONLY)
attributes = struct.pack("=8q", 0, 10, 64, 0, 0, 0, 0, 0)
answer["queue"] = call("mq_open", b"q", os.O_CREAT | os.O_RDWR, 0o600, attributes)
answer["queue as a file"] = tried(os.open, "/dev/mqueue/q", os.O_RDONLY)
answer["queue again"] = call("mq_unlink", b"q")
answer["terminal"] = tried(os.openpty)
answer["name space file"] = tried(os.open, "/proc/self/ns/mnt", os.O_RDONLY)
server = socket.socket(socket.AF_UNIX); server.bind("\\0own"); server.listen()
answer["abstract socket"] = tried(socket.socket(socket.AF_UNIX).connect, "\\0own")
child = os.fork()
if not child: signal.pause()
answer["signal"] = tried(os.kill, child, 9)
import shutil; shutil.rmtree("/tmp/c")
os.unlink("/tmp/named")
"""
    for user in users:
        assert set(box.attack(script, user=user).values()) == {"ok"}


# ---------------------------------------------------------------------- system calls


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x32 is an interface of x86-64")
def test_a_call_by_x32_numbers_kills_the_caller(box: Box) -> None:
    """The same call with bit 30 set would pass a filter that knows the other numbers only."""
    script = "import ctypes; ctypes.CDLL(None).syscall(ctypes.c_long(39 | 1 << 30))"  # getpid
    assert box.run([sys.executable, "-I", "-c", script]).returncode == -signal.SIGSYS
    assert box.run([sys.executable, "-I", "-c", script.replace(" | 1 << 30", "")]).returncode == 0


def test_a_call_that_nobody_knows_is_not_there(box: Box) -> None:
    assert box.attack("numbers['new'] = 1000; answer = call('new')") == "ENOSYS"
    assert set(features.found({**_report(box), "landlock": 0}).present) >= {"syscall_filter"}


def _report(box: Box) -> dict[str, Any]:
    assert box.provider._engine is not None
    return box.provider._engine.found
