"""The cgroup file systems: where this process is in them, bounded reads and writes, waiting for a group to empty."""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

__all__ = ["CONTROLLERS", "LEAF", "Absence", "CgroupError", "Place", "locate"]

CONTROLLERS = ("cpu", "memory", "pids")
#: Where the processes of a delegated version 2 cgroup go: a cgroup with controllers for its children has none itself.
LEAF = "airlock-leaf"
_READ_LIMIT = 4 << 20

_DELEGATE = (
    "`systemd-run --user --scope -p Delegate=yes pytest ...` (root: without --user; systemd 251 or newer; a container needs "
    "a writable /sys/fs/cgroup)"
)
_READ_ONLY = (
    "start the container with a writable cgroup tree: with version 2 `podman run --security-opt unmask=/sys/fs/cgroup`, "
    "else `--privileged`, which takes the container's walls down"
)


class Absence(NamedTuple):
    """Why a controller cannot be used, and what to do."""

    why: str
    fix: str = ""


class Place(NamedTuple):
    """A directory of a cgroup hierarchy (the host's path) and the version of its interface."""

    path: str
    version: int


class CgroupError(OSError):
    """A cgroup file refused: `step` is "cgroup" and the controller, `filename` the file."""

    def __init__(self, number: int, step: str, path: str, why: str = "") -> None:
        super().__init__(number, why or os.strerror(number), path or None)
        self.step = step


# ---------------------------------------------------------------- files


def read(path: str, *, missing: str | None = None) -> str:
    """The file's text, at most 4 MiB; `missing` instead if there is no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if missing is None:
            raise
        return missing
    chunks: list[bytes] = []
    size = 0
    try:
        while size < _READ_LIMIT and (chunk := os.read(fd, 65_536)):
            chunks.append(chunk)
            size += len(chunk)
    except OSError as error:
        if missing is None or error.errno != errno.ENODEV:  # ENODEV: the group was removed while it was open
            raise
    finally:
        os.close(fd)
    return b"".join(chunks).decode("utf-8", "surrogateescape")


def write(path: str, value: str, *, step: str = "cgroup") -> None:
    """Write once. Raises CgroupError, which names the file and the value."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        number = error.errno or 0
        raise CgroupError(number, step, path, f"{os.strerror(number)} (writing {value!r})") from error


def mkdir(path: str) -> None:
    try:
        os.mkdir(path, 0o755)
    except OSError as error:
        raise CgroupError(error.errno or 0, "cgroup", path) from error


def children(path: str, *, deep: bool = True) -> Iterator[str]:
    """The groups below `path`, parents first."""
    try:
        names = sorted(entry.name for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return
    for name in names:
        yield f"{path}/{name}"
        if deep:
            yield from children(f"{path}/{name}")


# ---------------------------------------------------------------- who made a group


def birth(prefix: str, process: str) -> tuple[int, int] | None:
    """(pid, start time in clock ticks) of a process by /proc/PID/stat (proc(5)), None if there is none."""
    text = read(f"{prefix}/proc/{process}/stat", missing="")
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return (int(head.split(" ", 1)[0]), int(fields[19])) if len(fields) > 19 else None


def pid_namespace(prefix: str) -> int:
    """The inode that identifies this process' pid name space (namespaces(7))."""
    return os.stat(f"{prefix}/proc/self/ns/pid").st_ino


# ---------------------------------------------------------------- emptying


def until_gone(pids: Callable[[], set[int]], timeout: float, *, kill: bool = False) -> None:
    """Wait until `pids()` is empty. Woken by the kernel: a pidfd polls readable when its process has ended.

    With `kill` each gets SIGKILL, through a pidfd and only if it is still listed once that is open, so that a number
    the kernel gave away again is not hit. Raises CgroupError(EBUSY) naming who stays after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while alive := pids():
        held: dict[int, int] = {}
        try:
            for pid in alive - {0}:
                try:
                    held[pid] = os.pidfd_open(pid)
                except ProcessLookupError:
                    continue  # it ended meanwhile
            if kill:
                for pid in held.keys() & pids():
                    _kill(held[pid])
            poller = select.poll()
            for pidfd in held.values():
                poller.register(pidfd, select.POLLIN)
            left = deadline - time.monotonic()
            if left <= 0:
                who = ", ".join(map(str, sorted(alive)[:10]))
                raise CgroupError(errno.EBUSY, "cgroup", "", f"processes stay in the control group: {who}")
            # Nobody to wait for: an exit is between leaving its pid and leaving the group.
            poller.poll(left * 1000 if held else 1)
        finally:
            for pidfd in held.values():
                os.close(pidfd)


def _kill(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended meanwhile


def remove(path: str, pids: Callable[[], set[int]], timeout: float) -> None:
    """rmdir, children first; EBUSY while a process is in it is waited out. A missing group is fine."""
    deadline = time.monotonic() + timeout
    for group in (*reversed(list(children(path))), path):
        while not _rmdir(group):
            left = deadline - time.monotonic()
            until_gone(pids, max(0.0, left))
            if left <= 0:
                raise CgroupError(errno.EBUSY, "cgroup", group)
            select.poll().poll(1)  # empty, yet busy: the kernel is about to let go


def _rmdir(path: str) -> bool:
    """False while it is in use."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise CgroupError(error.errno or 0, "cgroup", path) from error
    return True


# ---------------------------------------------------------------- where this process is


class _Mount(NamedTuple):
    kind: str
    options: frozenset[str]
    root: str
    point: str


def _unescape(text: str) -> str:
    """Mountinfo writes blanks, newlines and backslashes in octal."""
    head, *rest = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def _mounts(prefix: str) -> list[_Mount]:
    """Mounted hierarchies. The kernel tells mount points from our root, so the host's may or may not have the prefix."""
    found = []
    for line in read(f"{prefix}/proc/self/mountinfo", missing="").splitlines():
        mounted, _, system = line.partition(" - ")
        if not system.startswith("cgroup"):
            continue
        kind, _source, options = system.split(" ", 2)
        root, point = map(_unescape, mounted.split(" ")[3:5])
        found.append(_Mount(kind, frozenset(options.split(",")), root, point.removeprefix(prefix)))
    return found


def _own(prefix: str) -> dict[str, str]:
    """Controller -> cgroup of this process; the version 2 hierarchy has the name ""."""
    own = {}
    for line in read(f"{prefix}/proc/self/cgroup", missing="").splitlines():
        _number, names, path = line.split(":", 2)
        own.update(dict.fromkeys(names.split(","), path))
    return own


def _directory(mounts: list[_Mount], controller: str, path: str) -> str:
    """The directory of a cgroup in the first mount that shows it, "" if none does."""
    for mount in mounts:
        matches = mount.kind == "cgroup2" if controller == "" else controller in mount.options
        root = mount.root.rstrip("/")
        if matches and (path == root or path.startswith(f"{root}/")) and "/.." not in path:
            return (mount.point + path[len(root) :]).rstrip("/")
    return ""


def locate(prefix: str) -> tuple[dict[str, Place], dict[str, Absence]]:
    """The place of each controller below which groups can be tried, or why there is none."""
    own, mounts = _own(prefix), _mounts(prefix)
    places: dict[str, Place] = {}
    absent: dict[str, Absence] = {}
    unified: list[str] = []
    for controller in CONTROLLERS:
        version = 1 if controller in own else 2
        name = controller if version == 1 else ""
        directory = _directory(mounts, name, own[name]) if name in own else ""
        if not directory:
            absent[controller] = Absence(
                f"no mounted hierarchy shows this process' own {controller} cgroup",
                "mount cgroup2 on /sys/fs/cgroup, or start the container with its own cgroup name space",
            )
        elif version == 1:
            places[controller] = Place(directory, 1)
        else:
            unified.append(controller)
            places[controller] = Place(directory.removesuffix(f"/{LEAF}"), 2)
    if unified:
        for controller, absence in _enable(prefix, places[unified[0]].path, unified, own[""]).items():
            absent[controller] = absence
            del places[controller]
    return places, absent


# ---------------------------------------------------------------- version 2: controllers for the children


def _enable(prefix: str, path: str, controllers: list[str], own: str) -> dict[str, Absence]:
    """Hand controllers down to the children of a cgroup that is ours to manage; tells which cannot be."""
    directory = prefix + path
    there = read(f"{directory}/cgroup.controllers", missing="").split()
    down = read(f"{directory}/cgroup.subtree_control", missing="").split()
    absent = {
        name: Absence(
            f"the {name} controller is not handed down to this process' cgroup ({path})",
            f"kernel parameter `cgroup_enable={name}`, or for user sessions: `sudo systemctl edit user@.service`, there "
            "`[Service]` and `Delegate=cpu cpuset io memory pids`",
        )
        for name in controllers
        if name not in there
    }
    wanted = [name for name in controllers if name in there and name not in down]
    if not wanted:
        return absent
    try:
        if not _delegated(directory, own):
            raise CgroupError(errno.EPERM, "cgroup", directory, "it is not delegated to its processes")
        if os.path.exists(f"{directory}/cgroup.type"):  # the root of all, which may have processes, has no type
            _make_room(directory)
        write(f"{directory}/cgroup.subtree_control", " ".join(f"+{name}" for name in wanted))
    except OSError as error:
        absent.update(dict.fromkeys(wanted, diagnose(error, Place(path, 2))))
    return absent


def _delegated(directory: str, own: str) -> bool:
    """Ours to manage: systemd marked it so, or it is the root of what we see (a container's, or the machine's)."""
    if own == "/":
        return True
    try:
        return os.getxattr(directory, "user.delegate") == b"1"
    except OSError:
        return False  # no such mark


def _make_room(directory: str) -> None:
    """Move the processes of a cgroup into a leaf below it (systemd's CGROUP_DELEGATION.md says the same)."""
    leaf = f"{directory}/{LEAF}"
    try:
        os.mkdir(leaf, 0o755)
    except FileExistsError:
        pass  # another engine of this run came first
    for _ in range(100):
        pids = read(f"{directory}/cgroup.procs").split()
        if not pids:
            return
        for pid in pids:
            try:
                write(f"{leaf}/cgroup.procs", pid)
            except CgroupError as error:
                if error.errno != errno.ESRCH:
                    raise
    raise CgroupError(errno.EBUSY, "cgroup", directory, "new processes keep coming into this process' cgroup")


def diagnose(error: OSError, place: Place) -> Absence:
    """Cause and fix in words for what a cgroup refused."""
    why = f"{place.path} (cgroup v{place.version}): {error.strerror or error}"
    if error.errno == errno.EROFS:
        return Absence(why, _READ_ONLY)
    if place.version == 2:
        return Absence(why, _DELEGATE)
    if error.errno in (errno.EACCES, errno.EPERM):
        return Absence(why, "run as root; version 1 hierarchies are not delegated to ordinary users")
    return Absence(why)
