"""Rules 14-20: who a sandbox is to the host, its file system, and that nothing writable is shared."""

from __future__ import annotations

import json as small_package
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from attacker import Box

from pytest_airlock.errors import SandboxBusy
from pytest_airlock.providers.base import ResolvedMount
from pytest_airlock.providers.namespaces import NamespacesProvider

#: A directory of the image with a few files, wherever this interpreter has it.
IMAGE_DIRECTORY = os.path.dirname(small_package.__file__)


def id_ranges(pid: int) -> list[range]:
    """Host ids that exist in a process' user name space, as the reader's own name space counts them."""
    rows = [line.split() for line in Path(f"/proc/{pid}/uid_map").read_text().splitlines()]
    return [range(int(first), int(first) + int(count)) for _, first, count in rows]


def subordinate(name: str | None = None) -> list[range]:
    """Ranges of subuid(5) and subgid(5), of one user or of all."""
    found = []
    for path in map(Path, ("/etc/subuid", "/etc/subgid")):
        for line in path.read_text().splitlines() if path.exists() else ():
            owner, first, count = line.split(":")
            if name in (None, owner):
                found.append(range(int(first), int(first) + int(count)))
    return found


def overlap(one: range, other: range) -> bool:
    return max(one.start, other.start) < min(one.stop, other.stop)


def inside(one: range, other: range) -> bool:
    return other.start <= one.start and one.stop <= other.stop


# ---------------------------------------------------------------------- 14: ids


def test_rule14_root_inside_is_nobody_of_the_host(make_box: Callable[..., Box], mode: str) -> None:
    boxes = make_box(), make_box()
    ids = [id_ranges(box.init) for box in boxes]
    if mode == "root":
        ((first,), (second,)) = ids
        assert not overlap(first, second)
        assert not any(overlap(mine, other) for mine in (first, second) for other in subordinate())
        assert not any(entry.pw_uid in mine for entry in pwd.getpwall() for mine in (first, second))
        own = [range(int(word[0]), int(word[0]) + int(word[2])) for word in _rows("/proc/self/uid_map")]
        assert all(any(inside(mine, extent) for extent in own) for mine in (first, second))
        assert len(first) == len(second) == 65_536
    else:
        me = range(os.getuid(), os.getuid() + 1)
        mine = [me, *subordinate(pwd.getpwuid(os.getuid()).pw_name)] if mode == "range" else [me]
        assert all(any(inside(one, given) for given in mine) for ranges in ids for one in ranges)
        assert sum(map(len, ids[0])) == (65_536 if mode == "range" else 1)


def _rows(path: str) -> list[list[str]]:
    return [line.split() for line in Path(path).read_text().splitlines()]


def test_rule14_the_lease_of_a_range_goes_with_its_holder(mode: str) -> None:
    other = NamespacesProvider()
    try:
        first, second = Box(other, "first"), Box(other, "second")
        names = {f"@airlock-ids-{id_ranges(box.init)[0].start}" for box in (first, second)}
        assert names & _leases() == (names if mode == "root" else set())
        freed = id_ranges(second.init)
        second.delete()
        third = Box(other, "third")
        assert id_ranges(third.init) == freed, "a range that is free again is used again"
    finally:
        other.close()
    assert not names & _leases()


def _leases() -> set[str]:
    return {row[-1] for row in _rows("/proc/net/unix") if row[-1].startswith("@airlock-ids-")}


def test_rule14_what_a_command_writes_belongs_to_ids_of_the_sandbox(box: Box, users: tuple[str, ...]) -> None:
    for user, uid in zip(users, (0, 1000)[: len(users)], strict=True):
        assert box.run("touch /tmp/$(id -u); stat -c %u /tmp/$(id -u)", user=user).out == f"{uid}\n"


# ---------------------------------------------------------------------- 15-17: overlays

#: argv: a directory to mount an overlay on. There, idmapped mounts are EINVAL.
ON_AN_OVERLAY = """
import os, sys
from pytest_airlock.providers.namespaces.engine import syscalls
from pytest_airlock.providers.namespaces import NamespacesProvider
from pytest_airlock.providers.base import Command, ProviderSpec, ResolvedMount
top = sys.argv[1]
syscalls.unshare(syscalls.CLONE_NEWNS)
syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
syscalls.mount("tmpfs", top, "tmpfs")
for name in ("lower/deep", "upper", "work", "merged"):
    os.makedirs(f"{top}/{name}")
open(f"{top}/lower/deep/file", "w").write("host\\n")
syscalls.mount("overlay", f"{top}/merged", "overlay", 0, f"lowerdir={top}/lower,upperdir={top}/upper,workdir={top}/work")
provider = NamespacesProvider()
handle = provider.create(ProviderSpec("box", mounts=(ResolvedMount(f"{top}/merged", "/mnt/x", "cow"),)))
provider.start(handle)
script = "cd /mnt/x/deep && cat file && echo new > new && rm file && ls && cd .. && rm -r deep && mkdir deep && ls -A deep"
process = provider.spawn(handle, Command(("/bin/sh", "-ec", script), stderr="stdout"))
print(process.stdout.read().decode(), process.wait(60).returncode, os.listdir(f"{top}/merged/deep"))
process.close()
provider.close()
"""


def test_rule15_on_an_overlay_directories_of_its_own_stand_in_for_the_shift(tmp_path: Path, mode: str) -> None:
    command = [sys.executable, "-c", ON_AN_OVERLAY, str(tmp_path)]
    if mode != "root":
        # An overlay can be mounted in a user name space only, and there nothing is shifted.
        command = ["/usr/bin/unshare", "--user", "--map-root-user", *command]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("host\nnew\n 0 ['file']\n", "")


def test_rule15_what_belongs_to_the_hosts_root_can_be_replaced_inside(box: Box) -> None:
    result = box.run(
        "cd /usr/lib && mkdir x && echo 1 > x/y && cd /usr/bin && rm env && echo '#!/bin/sh' > env && cat env"
    )
    assert result == (0, "#!/bin/sh\n", "")
    assert os.path.getsize("/usr/bin/env") > 20
    assert not os.path.exists("/usr/lib/x")


@pytest.fixture
def share(tmp_path: Path) -> Path:
    tree = tmp_path / "share"
    (tree / "lower/deep").mkdir(parents=True)
    (tree / "lower/file").write_text("1\n")
    (tree / "lower/deep/file").write_text("2\n")
    return tree


def cow(source: Path) -> tuple[ResolvedMount, ...]:
    return (ResolvedMount(str(source), str(source), "cow"),)


def test_rule16_a_lower_directory_can_be_removed_and_made_again(make_box: Callable[..., Box], share: Path) -> None:
    box = make_box(mounts=cow(share))
    for path in (f"{share}/lower", IMAGE_DIRECTORY):
        result = box.run(f"rm -rf {path} && test ! -e {path} && mkdir {path} && ls -A {path} && echo x > {path}/new")
        assert result == (0, "", "")
        assert box.run(f"ls -A {path}").out == "new\n", "nothing of the old shines through"
    assert (share / "lower/file").read_text() == "1\n"
    assert "decoder.py" in os.listdir(IMAGE_DIRECTORY)


def test_rule17_a_lower_directory_moves_by_mv_and_not_by_rename(make_box: Callable[..., Box], share: Path) -> None:
    box = make_box(mounts=cow(share))
    answer = box.attack(
        f"""
for name, path in (("mount", {str(share / "lower")!r}), ("image", {IMAGE_DIRECTORY!r})):
    answer[name] = tried(os.rename, path, path + "2")
    os.mkdir(path + "3")
    answer[name + ", own"] = tried(os.rename, path + "3", path + "4")
"""
    )
    assert answer == {"mount": "EXDEV", "mount, own": "ok", "image": "EXDEV", "image, own": "ok"}
    for path, file in ((f"{share}/lower", "deep/file"), (IMAGE_DIRECTORY, "decoder.py")):
        content = box.run(f"cat {path}/{file}").out
        assert content
        assert box.run(f"mv {path} {path}5 && test ! -e {path}") == (0, "", "")
        assert box.run(f"cat {path}5/{file}").out == content
    assert sorted(os.listdir(share)) == ["lower"]


# ---------------------------------------------------------------------- 18: a host that changes


def test_rule18_the_next_sandbox_sees_the_host_as_it_is_then(make_box: Callable[..., Box], share: Path) -> None:
    make_box(mounts=cow(share))
    (share / "lower/file").write_text("changed\n")
    (share / "later/deep").mkdir(parents=True)
    (share / "lower/deep/file").unlink()
    (share / "lower/deep").rmdir()
    box = make_box(mounts=cow(share))
    assert box.run(f"cd {share} && cat lower/file && find . | sort").out.split() == [
        *("changed", ".", "./later", "./later/deep", "./lower", "./lower/file")
    ]
    assert box.run(f"touch {share}/later/deep/x {share}/later/y") == (0, "", "")


# ---------------------------------------------------------------------- 19: snapshots


def test_rule19_a_snapshot_names_the_processes_that_are_in_its_way(box: Box, provider: NamespacesProvider) -> None:
    writer = box.python(
        "held = open('/root/open', 'w'); libc.prctl(15, b'writer'); print('ready', flush=True); signal.pause()"
    )
    with pytest.raises(SandboxBusy) as caught:
        provider.snapshot(box.handle)
    assert caught.value.processes == ((writer.pid, "writer"),)
    assert writer.poll() is None, "nobody was harmed"
    snapshot = provider.snapshot(box.handle, stop=True)
    writer.close()
    assert box.run("test -f /root/open; ls /proc | grep -c '^[0-9]'") == (0, "4\n", ""), "the first one, sh, ls, grep"
    provider.reset(box.handle, snapshot)
    assert box.run("test -f /root/open").returncode == 0


def test_rule19_a_name_from_inside_is_bounded_and_harmless(box: Box, provider: NamespacesProvider) -> None:
    process = box.python("libc.prctl(15, b') Z 1 \\x1b[2J\\xff'); print('ready', flush=True); signal.pause()")
    with pytest.raises(SandboxBusy) as caught:
        provider.snapshot(box.handle)
    process.kill_tree()
    process.close()
    ((pid, name),) = caught.value.processes
    assert pid == process.pid
    assert name == ") Z 1 \x1b[2J\\xff"


# ---------------------------------------------------------------------- 20: nothing writable is shared

#: Leave a mark wherever something can be written, in files and in memory; said are the places that took one.
LEAVE = """
places = sorted({line.split()[4] for line in open("/proc/self/mountinfo")} | {"/tmp", "/var/tmp", "/run", "/root", "/"})
for place in places:
    if os.path.isdir(place):
        answer[place] = tried(os.open, place + "/left-mark", os.O_CREAT | os.O_WRONLY, 0o666)
    else:
        answer[place] = wrote(place, b"left-mark") if not place.startswith("/dev/") else "device"
    tried(os.chmod, place, 0o1777)
shm = libc.shmget(0x4D41524B, 4096, 0o1666)
answer["shmget"] = shm >= 0
answer["semget"] = libc.semget(0x4D41524B, 1, 0o1666) >= 0
answer["msgget"] = libc.msgget(0x4D41524B, 0o1666) >= 0
answer["mq"] = libc.syscall(ctypes.c_long(numbers["mq_open"]), b"left-mark", os.O_CREAT | os.O_RDWR, 0o666, None) >= 0
"""
LOOK = """
places = sorted({line.split()[4] for line in open("/proc/self/mountinfo")} | {"/tmp", "/var/tmp", "/run", "/root", "/"})
answer["marks"] = [place for place in places if os.path.lexists(place + "/left-mark")]
answer["texts"] = [place for place in places if os.path.isfile(place) and b"left-mark" in open(place, "rb").read(1 << 16)]
answer["sysv"] = [name for name in ("shm", "sem", "msg") if len(open(f"/proc/sysvipc/{name}").readlines()) > 1]
answer["pts"] = sorted(os.listdir("/dev/pts"))
answer["names"] = [line for line in open("/proc/net/unix") if "left-mark" in line]
"""
CLEAN = {"marks": [], "texts": [], "sysv": [], "pts": ["ptmx"], "names": []}
#: Holds what lives as long as its holder.
HOLD = """
sock = socket.socket(socket.AF_UNIX); sock.bind("\\0left-mark"); sock.listen()
pty = os.openpty()
file = open("/dev/shm/left-mark-unlinked", "w+"); os.unlink("/dev/shm/left-mark-unlinked")
print("ready", flush=True)
signal.pause()
"""


def test_rule20_neither_a_sibling_nor_the_next_generation_sees_what_was_left(
    make_box: Callable[..., Box], provider: NamespacesProvider
) -> None:
    first, second = make_box(), make_box()
    snapshot = provider.snapshot(first.handle)
    left = first.attack(LEAVE)
    first.python(HOLD)
    for place in ("/", "/dev/mqueue", "/dev/shm", "/run", "/tmp", "/usr"):
        assert left[place] == "ok", "a mark was left there"
    assert left["shmget"]
    assert left["semget"]
    assert left["msgget"]
    assert left["mq"]
    assert first.attack(LOOK) != CLEAN, "the marks can be found"
    assert second.attack(LOOK) == CLEAN
    assert make_box().attack(LOOK) == CLEAN
    provider.reset(first.handle, snapshot)
    assert first.attack(LOOK) == CLEAN


def test_rule20_the_device_tree_and_the_masks_take_nothing(box: Box, users: tuple[str, ...]) -> None:
    script = """
answer["create"] = {tried(os.mkdir, f"{place}/x") for place in ("/dev", "/proc/acpi", "/proc/sys", "/proc/fs")}
answer["modes"] = {tried(os.chmod, path, 0o777) for path in ("/dev", "/dev/null", "/dev/tty", "/proc/acpi", "/proc/keys")}
answer["times"] = {tried(os.utime, path, (1, 1)) for path in ("/dev", "/dev/null", "/dev/tty", "/proc/acpi", "/proc/keys")}
answer["attributes"] = {tried(os.setxattr, path, "user.x", b"1") for path in ("/dev", "/dev/null", "/proc/acpi")}
answer["remove"] = {tried(os.unlink, path) for path in ("/dev/null", "/dev/fd", "/dev/ptmx")}
answer = {name: sorted(codes) for name, codes in answer.items()}
"""
    for user in users:
        answer = box.attack(script, user=user)
        for codes in answer.values():
            assert set(codes) <= {"EROFS", "EPERM", "EACCES", "EBUSY", "ENOENT"}, answer


def test_rule20_touching_a_device_leaves_no_time_on_the_hosts_node(box: Box) -> None:
    before = {name: os.stat(f"/dev/{name}").st_mtime_ns for name in ("zero", "full", "random")}
    box.run("touch /dev/zero /dev/full /dev/random")
    assert {name: os.stat(f"/dev/{name}").st_mtime_ns for name in before} == before


LOCK = """
import fcntl
paths = [path for path in PATHS if os.path.exists(path)]
held = [os.open(path, os.O_RDONLY) for path in paths]
answer.update({path: tried(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB) for path, fd in zip(paths, held)})
"""


@pytest.mark.parametrize(
    "paths",
    [
        (
            "/",
            "/usr",
            "/etc/passwd",
            "/usr/bin/env",
            "/tmp",
            "/proc",
            "/proc/version",
            "/dev/pts",
            "/dev/shm",
            "/dev/mqueue",
        ),
        ("/proc/acpi", "/proc/keys"),
    ],
    ids=["files", "what hides things"],
)
def test_rule20_a_lock_in_one_sandbox_is_not_felt_in_another(
    make_box: Callable[..., Box], paths: tuple[str, ...]
) -> None:
    lock = LOCK.replace("PATHS", repr(paths))
    first, second = make_box(), make_box()
    first.python(f"{lock}\nprint('ready', flush=True)\nsignal.pause()")
    answer = second.attack(lock)
    assert len(answer) > 1
    assert {path for path, code in answer.items() if code != "ok"} == set()


def test_rule20_keyrings_are_out_of_reach(box: Box, users: tuple[str, ...]) -> None:
    script = """
answer["add_key"] = call("add_key", b"user", b"mark", b"x", 1, -3)
answer["join"] = call("keyctl", 1, 0)
answer["describe"] = call("keyctl", 6, -3, 0, 0)
answer["request"] = call("request_key", b"user", b"mark", 0, -3)
answer["listed"] = open("/proc/keys").read()
"""
    for user in users:
        answer = box.attack(script, user=user)
        assert answer.pop("listed") == ""
        assert set(answer.values()) == {"EPERM"}
