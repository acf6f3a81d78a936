"""What an old world leaves for the next one in the same place. The next one is often there already: a spare that waits while a test runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attacker import Box
from attacks import AnyOf, Fits, attack
from attacks_neighbours import ALL, FIND_IPC, KEYS, LEAVE_IPC, NONE
from weakenings import FOLLOWED, NO_FILTER, NO_LANDLOCK, SHARED_IPC, SHARED_KEYRING, SHARED_NET, SHARED_SHM

from pytest_airlock.errors import AirlockError
from pytest_airlock.providers.base import ResolvedMount


def with_a_spare(box: Box) -> Any:
    """A snapshot to return to, whose next life is waiting already: the same was asked for before."""
    snapshot = box.provider.snapshot(box.handle)
    for _ in range(3):
        box.provider.reset(box.handle, snapshot)
        box.run("true")
    return snapshot


@attack(NONE, stops="an IPC name space for each life", controls={(SHARED_IPC, NO_LANDLOCK): ALL})
def next_world_finds_system_v_and_posix_objects(box: Box) -> Any:
    """Shared memory, semaphores and queues: found after a reset."""
    snapshot = with_a_spare(box)
    assert box.attack(LEAVE_IPC) == ALL
    box.provider.reset(box.handle, snapshot)
    return box.attack(FIND_IPC)


#: Marks wherever something can be written, hidden names, odd attributes, and what lives as long as its holder.
LEAVE = """
places = {line.split()[4] for line in open("/proc/self/mountinfo")} | {"/tmp", "/var/tmp", "/run", "/root", "/", "/home/airlock"}
for place in places:
    if os.path.isdir(place):
        tried(os.open, place + "/left-mark", os.O_CREAT | os.O_WRONLY, 0o666)
        tried(os.mkdir, place + "/left-\\udcff\\x1b[2J")
sock = socket.socket(socket.AF_UNIX); sock.bind("\\0left-mark"); sock.listen()
tcp = socket.socket(); tcp.setsockopt(1, 2, 1); tcp.bind(("127.0.0.1", 1234)); tcp.listen()
pty = os.openpty()
import mmap
held = open("/dev/shm/left-unlinked", "w+b"); held.truncate(4096)
memory = mmap.mmap(held.fileno(), 4096); os.unlink("/dev/shm/left-unlinked")
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        signal.pause()
print("ready", flush=True)
signal.pause()
"""
LOOK = """
places = {line.split()[4] for line in open("/proc/self/mountinfo")} | {"/tmp", "/var/tmp", "/run", "/root", "/", "/home/airlock"}
answer["marks"] = sorted(place for place in places if os.path.isdir(place) and os.access(place, os.R_OK)
                         and any(name.startswith("left-") for name in os.listdir(place)))
answer["sockets"] = [tried(socket.socket(socket.AF_UNIX).connect, "\\0left-mark"), tried(socket.create_connection, ("127.0.0.1", 1234), 5)]
answer["terminals"] = sorted(os.listdir("/dev/pts"))
answer["processes"] = len([name for name in os.listdir("/proc") if name.isdigit()])
"""
CLEAN = {"marks": [], "sockets": ["ECONNREFUSED", "ECONNREFUSED"], "terminals": ["ptmx"], "processes": 2}


@attack(
    CLEAN,
    stops="a new tmpfs and new name spaces for each life",
    controls={(SHARED_SHM,): {**CLEAN, "marks": ["/dev/shm"]}},
)
def next_world_finds_files_sockets_terminals_and_processes(box: Box) -> Any:
    """Marks in every mount, sockets, terminals, daemons, unlinked and mapped files: found after a reset."""
    snapshot = with_a_spare(box)
    box.python(LEAVE)
    box.provider.reset(box.handle, snapshot)
    return box.attack(LOOK)


@attack(
    {"add": "EPERM", "find": "EPERM"},
    stops="system-call filter, a session keyring for each life",
    controls={
        (NO_FILTER,): {"add": "ok", "find": "ENOKEY"},
        (NO_FILTER, SHARED_KEYRING): {"add": "ok", "find": "ok"},
    },
    users=("root",),
)
def next_world_finds_a_key(box: Box) -> Any:
    """A key in the session keyring: found after a reset."""
    snapshot = with_a_spare(box)
    added = box.attack(KEYS["add"])
    box.provider.reset(box.handle, snapshot)
    return {**added, **box.attack(KEYS["find"])}


@attack(
    "quiet",
    stops="a network name space for each life; the old one is dead before the next is handed out",
    controls={(SHARED_NET, NO_LANDLOCK): "heard"},
)
def old_world_answers_for_the_next(box: Box) -> Any:
    """A daemon of another session that listens where the next world will connect."""
    snapshot = with_a_spare(box)
    name = f"airlock-hostile-g{os.getpid()}"
    # Where the network is shared a neighbour stands for an old world that would not die.
    other = box.another()
    process = other.python(
        f"sock = socket.socket(socket.AF_UNIX); sock.bind('\\0{name}'); sock.listen(); print('ready', flush=True); signal.pause()"
    )
    box.provider.reset(box.handle, snapshot)
    code = box.attack(f"answer['code'] = tried(socket.socket(socket.AF_UNIX).connect, '\\0{name}')")["code"]
    process.kill_tree()
    return "heard" if code == "ok" else "quiet"


@attack(
    {"hidden": "seen", "attributes": AnyOf(["EPERM"], ["EOPNOTSUPP"], ["ok"], ["EPERM", "ok"])},
    stops="the kernel: overlayfs keeps its attributes to itself, and makes no whiteout on order",
    not_shown="the kernel's own rule",
    users=("root",),
)
def poisons_a_snapshot_by_attributes(box: Box) -> Any:
    """user.overlay.* attributes and whiteouts made by hand, kept in a snapshot: what they would hide or redirect is seen."""
    answer = box.attack(
        """
os.makedirs("/opt/own", exist_ok=True)
codes = set()
for path in ("/usr/lib", "/etc", "/opt/own"):
    for space in ("user", "trusted"):
        for name, value in (("opaque", b"y"), ("redirect", b"/etc"), ("metacopy", b""), ("whiteouts", b"x"), ("origin", b"\\0")):
            codes.add(tried(os.setxattr, path, f"{space}.overlay.{name}", value))
answer["whiteout"] = tried(os.mknod, "/etc/hosts2", 0o20000, 0)
answer["codes"] = sorted(codes)
"""
    )
    snapshot = box.provider.snapshot(box.handle)
    box.provider.reset(box.handle, snapshot)
    seen = box.run("test -e /etc/passwd && test -e /usr/lib/os-release && ls -A /opt/own").out
    assert answer["whiteout"] in ("EPERM", "ok")
    return {"hidden": "seen" if seen == "" else seen, "attributes": answer["codes"]}


@contextlib.contextmanager
def shared() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="airlock-hostile-", dir="/var/tmp"))
    path.chmod(0o755)
    (path / "place").mkdir()
    try:
        yield path
        assert os.listdir(path) == ["place"]
    finally:
        shutil.rmtree(path)


@attack(
    "refused",
    stops="no mount point is looked up through a link",
    controls={(FOLLOWED,): Fits("mounted elsewhere", lambda answer: answer != "refused")},
    users=("root",),
)
def plants_a_link_where_a_mount_goes(box: Box) -> Any:
    """A snapshot with a link to the fork server's own tree, adopted by a sandbox that has a mount below that name."""
    with shared() as path:
        other = box.another(mounts=(ResolvedMount(str(path), "/opt/deep/place", "cow"),))
        box.run(f"ln -s /host{path} /opt/deep")
        planted = other.provider.adopt(other.handle, box.handle, box.provider.snapshot(box.handle))
        try:
            other.provider.reset(other.handle, planted)
        except AirlockError as error:
            return "refused" if "/opt/deep/place" in str(error) else str(error)
        return "mounted: " + other.run("readlink /opt/deep; ls -A /opt/deep/place").out
