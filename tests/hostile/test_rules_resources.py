"""Rules 23 and 24: what a sandbox can use up, and that its neighbours and the host do not feel it."""

from __future__ import annotations

import errno
import json
import re
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from attacker import Box

from pytest_airlock.errors import SandboxDied, UnsupportedFeature
from pytest_airlock.providers.base import ProviderSpec, ResolvedMount
from pytest_airlock.providers.namespaces import NamespacesProvider
from pytest_airlock.providers.namespaces.client import StepFailed
from pytest_airlock.providers.namespaces.engine.world import View, World
from pytest_airlock.providers.namespaces.limits import PROCESSES

MIB = 1024**2

# ---------------------------------------------------------------------- 23: what is a cap and what is not


def test_rule23_memory_is_a_feature_of_control_groups_only(provider: NamespacesProvider) -> None:
    assert provider._engine is not None
    means = provider._engine.found["cgroups"].get("memory", {"usable": False})
    assert ("memory" in provider.probe()) == means["usable"]
    spec = ProviderSpec("capped", memory=64 * MIB, required=frozenset({"memory"}))
    if not means["usable"]:
        with pytest.raises(UnsupportedFeature) as caught:
            provider.create(spec)
        assert caught.value.feature == "memory"
        assert caught.value.why
        return
    handle = provider.create(spec)
    try:
        assert "memory" in handle.enforced
    finally:
        provider.delete(handle)


def test_rule23_a_memory_cap_holds_what_an_address_space_limit_does_not(
    make_box: Callable[..., Box], provider: NamespacesProvider
) -> None:
    """A memfd, a file in /dev/shm and one in /tmp count as well; where there is no cap, none is claimed."""
    capped = "memory" in provider.probe()
    for where in ("os.memfd_create('x')", "os.open('/dev/shm/x', 66)", "os.open('/tmp/x', 66)"):
        box = make_box(memory=96 * MIB)
        assert ("memory" in box.handle.enforced) == capped
        script = (
            f"answer['wrote'] = 0\nfd = {where}\nfor _ in range(200): answer['wrote'] += os.write(fd, bytes(1 << 20))"
        )
        if capped:
            with pytest.raises((SandboxDied, AssertionError)):
                box.attack(script)
        else:
            assert box.attack(script)["wrote"] == 200 * MIB


BOMB = """
import _thread
_thread.stack_size(32768)
never = _thread.allocate_lock()
never.acquire()
answer["count"] = 0
try:
    while answer["count"] < 100_000:
        _thread.start_new_thread(never.acquire, ())
        answer["count"] += 1
except RuntimeError:
    pass
answer["fork"] = tried(os.posix_spawn, "/bin/true", ["true"], {})
print("ready", flush=True)
print(json.dumps(answer), flush=True)
signal.pause()
"""


@pytest.mark.parametrize("user", ["root", "airlock"])
def test_rule23_a_bomb_ends_in_its_sandbox_and_nobody_else_feels_it(make_box: Callable[..., Box], user: str) -> None:
    """Threads count as processes do (RLIMIT_NPROC) and are cheap; root of the host would be exempt, root inside is not."""
    box, neighbour = make_box(user=user), make_box(user=user)
    bomb = box.python(BOMB, user=user)
    answer = json.loads(bomb.stdout.readline())
    assert PROCESSES - 20 < answer["count"] <= PROCESSES
    assert answer["fork"] == "EAGAIN"
    assert neighbour.run("for i in 1 2 3 4 5; do /bin/true & done; wait; echo $?").out == "0\n"
    assert subprocess.run(["/bin/true"], check=False).returncode == 0, "the host's user forks on"
    bomb.kill_tree()
    assert box.run("echo again").out == "again\n"


# ---------------------------------------------------------------------- 24: bounded by default

FILL = """
def fill(path):
    chunk, total = bytes(1 << 20), 0
    try:
        with open(path, "wb", buffering=0) as file:
            while True:
                total += file.write(chunk)
    except OSError as error:
        return errno.errorcode[error.errno], total
"""


@pytest.mark.parametrize("where", ["/tmp", "/dev/shm", "/root", "/usr/lib", "/run", "/var/tmp"])
def test_rule24_the_disk_is_bounded_and_a_full_one_is_no_obstacle(
    make_box: Callable[..., Box], provider: NamespacesProvider, where: str
) -> None:
    box = make_box(disk=16 * MIB)
    assert "disk" in box.handle.enforced
    snapshot = provider.snapshot(box.handle)
    code, total = box.attack(f"{FILL}\nanswer = fill({where!r} + '/big')")
    assert code == "ENOSPC"
    assert 8 * MIB < total <= 16 * MIB
    assert box.attack(f"{FILL}\nanswer = fill('/tmp/more')")[0] == "ENOSPC", "it is one disk"
    assert box.run("echo full").out == "full\n"
    with pytest.raises(OSError, match="No space left"):
        provider.write(box.handle, "/tmp/from-outside", bytes(MIB))
    provider.reset(box.handle, snapshot)
    assert box.run(f"test ! -e {where}/big && echo x > /tmp/x && cat /tmp/x") == (0, "x\n", "")


def test_rule24_a_full_sandbox_can_be_kept_and_brought_back(
    make_box: Callable[..., Box], provider: NamespacesProvider
) -> None:
    box = make_box(disk=16 * MIB)
    box.attack(f"{FILL}\nanswer = fill('/tmp/big')")
    full = provider.snapshot(box.handle)
    assert box.run("stat -c %s /tmp/big").returncode == 0
    box.run("rm /tmp/big")
    provider.reset(box.handle, full)
    assert box.run("test -s /tmp/big").returncode == 0


@pytest.mark.parametrize("where", ["/tmp", "/dev/shm"])
def test_rule24_inodes_are_bounded(make_box: Callable[..., Box], provider: NamespacesProvider, where: str) -> None:
    box = make_box(disk=16 * MIB)
    snapshot = provider.snapshot(box.handle)
    answer = box.attack(
        f"""
count, code = 0, "ok"
while code == "ok" and count < 100_000:
    code = tried(os.mknod, {where!r} + f"/{{count}}", 0o100644)
    count += 1
answer.update(code=code, count=count)
"""
    )
    assert answer["code"] == "ENOSPC"
    assert 1000 < answer["count"] <= 16 * MIB // 4096
    assert box.run("echo full").out == "full\n"
    provider.reset(box.handle, snapshot)
    assert box.run(f"touch {where}/x").returncode == 0


def test_rule24_without_a_wish_the_disk_is_a_share_of_what_the_machine_has(box: Box) -> None:
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(facts["MemAvailable"].split()[0]) * 1024
    size, inodes = map(int, box.run("stat -f -c '%b %c' /dev/shm").out.split())
    block = int(box.run("stat -f -c %S /dev/shm").out)
    # Twice: what is available has changed since.
    assert 64 * MIB <= size * block <= max(64 * MIB, available // 2)
    assert inodes <= 1_000_000


#: name -> takes as much as there is; the same again must work elsewhere.
TAKE = {
    "inotify": """
while (fd := libc.inotify_init1(0)) >= 0 and fd < limit:
    answer["count"] = answer.get("count", 0) + 1
""",
    "mqueue": """
attributes = struct.pack("=8q", 0, 10, 8192, 0, 0, 0, 0, 0)
while libc.syscall(ctypes.c_long(numbers["mq_open"]), b"q%d" % answer.get("count", 0), os.O_CREAT | os.O_RDWR, 0o600, attributes) >= 0:
    answer["count"] = answer.get("count", 0) + 1
""",
    "locked memory": """
import mmap
held = []
while answer.get("count", 0) < 10_000:
    memory = mmap.mmap(-1, 1 << 16)
    if call("mlock", ctypes.addressof(ctypes.c_char.from_buffer(memory)), 1 << 16) != "ok":
        break
    held.append(memory)
    answer["count"] = answer.get("count", 0) + 1
""",
    "timers": """
timer = ctypes.c_int()
while libc.syscall(ctypes.c_long(numbers["timer_create"]), 1, None, ctypes.byref(timer)) >= 0 and answer.get("count", 0) < 1_000_000:
    answer["count"] = answer.get("count", 0) + 1
""",
    "terminals": """
while tried(lambda: os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)) == "ok":
    answer["count"] = answer.get("count", 0) + 1
""",
    # Beyond a soft limit of the user new ones get two pages, and none can be made larger.
    "pipes": """
import fcntl
while answer.get("count", 0) < limit // 2 - 8:
    read, write = os.pipe()
    tried(fcntl.fcntl, write, 1031, 1 << 20)
    answer["count"] = answer.get("count", 0) + 1
""",
}
#: The same, once.
ONE = {
    "inotify": "answer['one'] = call('inotify_init1', 0)",
    "mqueue": """
attributes = struct.pack("=8q", 0, 10, 8192, 0, 0, 0, 0, 0)
answer['one'] = call("mq_open", b"own-%d" % os.getpid(), os.O_CREAT | os.O_RDWR, 0o600, attributes)
""",
    "locked memory": """
import mmap
memory = mmap.mmap(-1, 1 << 16)
answer['one'] = call("mlock", ctypes.addressof(ctypes.c_char.from_buffer(memory)), 1 << 16)
""",
    "timers": """
timer = ctypes.create_string_buffer(8)
answer['one'] = call("timer_create", 1, 0, timer)
""",
    "terminals": "answer['one'] = tried(os.openpty)",
    "pipes": """
read, write = os.pipe2(os.O_NONBLOCK)
answer['one'] = "ok" if os.write(write, bytes(8192)) >= 4096 else "full"
""",
}


@pytest.mark.parametrize("what", TAKE)
def test_rule24_what_one_sandbox_uses_up_its_neighbour_still_has(make_box: Callable[..., Box], what: str) -> None:
    box, neighbour = make_box(), make_box()
    assert neighbour.attack(ONE[what])["one"] == "ok"
    script = f"""
import resource
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
{TAKE[what]}
print("ready", flush=True)
print(answer["count"], flush=True)
signal.pause()
"""
    greedy = box.python(script)
    assert int(greedy.stdout.readline()) > 2
    assert neighbour.attack(ONE[what])["one"] == "ok"


def test_rule24_descriptors_that_nobody_receives_hinder_no_neighbour(make_box: Callable[..., Box]) -> None:
    """A user may have as many under way as the sender may open, unix(7); where ids are the user's, sandboxes share that."""
    box, neighbour = make_box(), make_box()
    script = """
import array, resource
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * 250))]
held = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)]
while (code := tried(lambda: held[-1][0].sendmsg([b"x"], rights, socket.MSG_DONTWAIT))) != "ETOOMANYREFS":
    if code == "EAGAIN":
        held.append(socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
print("ready", flush=True)
signal.pause()
"""
    box.python(script)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
    try:
        assert neighbour.run("echo well").out == "well\n"
        assert make_box().run("echo well").out == "well\n"
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (1024, limits[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_rule24_a_sandbox_has_no_more_open_files_than_it_may(box: Box, users: tuple[str, ...]) -> None:
    for user in users:
        limits = box.attack("import resource; answer = resource.getrlimit(resource.RLIMIT_NOFILE)", user=user)
        assert limits[0] == 1024
        assert limits[1] <= min(65_536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def test_rule24_watches_are_bounded(box: Box) -> None:
    answer = box.attack(
        """
fd = libc.inotify_init1(0)
code = "ok"
while code == "ok":
    answer["count"] = answer.get("count", -1) + 1
    path = f"/tmp/{answer['count']}"
    os.mknod(path)
    code = call("inotify_add_watch", fd, path.encode(), 2)
answer["code"] = code
answer["raise"] = [wrote(f"/proc/sys/user/max_inotify_{name}", b"100000") for name in ("watches", "instances")]
"""
    )
    assert answer["code"] == "ENOSPC"
    assert answer["count"] <= 8192
    assert set(answer["raise"]) <= {"EROFS", "EACCES"}


def test_rule24_shared_memory_of_system_v_is_bounded(make_box: Callable[..., Box]) -> None:
    """It outlives the process that made it, so nothing else would bound it where there are no control groups."""
    box = make_box(disk=16 * MIB)
    answer = box.attack(
        f"answer.update(large=call('shmget', 0, {17 * MIB}, 0o1600), small=call('shmget', 0, {MIB}, 0o1600))"
    )
    assert answer == {"large": "ENOSPC", "small": "ok"}


def test_rule24_nobody_gets_ahead_of_the_hosts_processes(box: Box, users: tuple[str, ...]) -> None:
    """Where the host's user may (limits.conf(5) of audio groups), a limit of the sandbox's own says no."""
    script = """
import resource
answer["limits"] = [resource.getrlimit(kind) for kind in (resource.RLIMIT_RTPRIO, resource.RLIMIT_NICE)]
answer["fifo"] = tried(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))
answer["nice"] = tried(os.setpriority, os.PRIO_PROCESS, 0, -1)
"""
    for user in users:
        answer = box.attack(script, user=user)
        assert answer == {"limits": [[0, 0], [0, 0]], "fifo": "EPERM", "nice": "EACCES"}


def test_rule24_a_base_image_that_cannot_be_built_leaves_no_mount_behind(provider: NamespacesProvider) -> None:
    """The fork server's mounts are counted in its own /proc: each failed try would keep a tmpfs otherwise."""
    engine = provider._engine
    assert engine is not None

    def mounts() -> int:
        with open(f"/proc/{engine._process.pid}/mountinfo", encoding="utf-8", errors="replace") as file:
            return len(file.readlines())

    world = World((), (View("/conformance-no-such-directory", "/mnt"),)).to_json().decode()
    before = mounts()
    for _ in range(3):
        with pytest.raises(StepFailed) as caught:
            engine.call("base", world=world, cache="/nowhere")
        assert caught.value.errno == errno.ENOENT
    assert mounts() == before


def test_rule24_no_mistake_of_the_fork_server_can_change_the_machine_through_a_base(tmp_path: Path) -> None:
    """What lower layers are made of is bound read-only; a directory that is shared read-write is not."""
    provider = NamespacesProvider()
    try:
        provider.start(provider.create(ProviderSpec("rule24", mounts=(ResolvedMount(str(tmp_path), "/mnt", "rw"),))))
        assert provider._engine is not None
        text = Path(f"/proc/{provider._engine._process.pid}/mountinfo").read_text(errors="replace")
    finally:
        provider.close()
    mounts = {words[4]: words for words in map(str.split, text.splitlines())}
    bound = {place: words for place, words in mounts.items() if re.match(r"/b/\d+/(r|v\d+)(/|$)", place)}
    assert bound
    writable = [words[3] for words in bound.values() if "ro" not in words[5].split(",")]
    assert all(str(tmp_path).endswith(place) for place in writable)
