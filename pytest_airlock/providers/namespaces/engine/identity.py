"""Who a sandbox is to the kernel: user name spaces, id maps and leases of id ranges.

As root (CAP_SYS_ADMIN and room for ids decide, not uid 0) every slot leases 65,536 host ids of its own, and image files are shifted into it by
idmapped mounts. Root of a container without CAP_SYS_ADMIN does so from a user name space that has all its ids. As an ordinary user the fork server enters one user name space first: with newuidmap and a range
from /etc/subuid it has 65,536 ids, else exactly one. See user_namespaces(7), newuidmap(1), mount_setattr(2).
"""

from __future__ import annotations

import _socket
import errno
import grp
import os
import pwd
import signal
from collections.abc import Callable, Iterator
from typing import NamedTuple

from . import syscalls
from .syscalls import StepError

__all__ = ["Identity", "Slot", "can_set", "can_shift", "enter", "open_slot"]

IDS = 65_536
_FIRST, _LAST = 0x80000, 0x6FFF0000  # where container managers allocate dynamically, systemd's UIDS-GIDS.md
_CAP_SETGID, _CAP_SETUID, _CAP_SYS_ADMIN, _CAP_SETFCAP = 6, 7, 21, 31
_MAPPING = 1 << _CAP_SETGID | 1 << _CAP_SETUID | 1 << _CAP_SETFCAP  # what writing a map with id 0 in it takes
_NOBODY = 65_534  # shown for ids that do not exist here
_NEWUIDMAP = ("newuidmap", "newgidmap")


class Lacking(NamedTuple):
    """Why there is one id only: a step and errno, as diagnosis.py explains them."""

    step: str
    number: int


class Identity(NamedTuple):
    """What the fork server is. `privileged`: each sandbox leases ids of its own. `ids` is how many a sandbox can have (1 or
    65,536), `groups` the supplementary groups of the host that could not be dropped, `lacking` why it is one id,
    `contained` that it is root of a container without CAP_SYS_ADMIN, in a user name space of its own.
    """

    privileged: bool
    ids: int
    groups: tuple[str, ...] = ()
    lacking: Lacking | None = None
    contained: bool = False


class Slot(NamedTuple):
    """An id range and what holds it: `first` is the host id of the sandbox's root, `userns` a descriptor for idmaps."""

    number: int
    first: int
    userns: int
    lease: _socket.socket | None

    def id_map(self, identity: Identity, inside: int) -> bytes:
        """Lines for /proc/PID/{u,g}id_map. With one id only, it is `inside` (0, or 1000 for the ordinary user)."""
        if identity.privileged:
            return b"0 %d %d" % (self.first, IDS)
        if identity.ids == 1:
            return b"%d 0 1" % inside
        # One line may not span two extents of the parent's map.
        return b"0 0 1\n1 1 %d" % (IDS - 1)

    def close(self) -> None:
        if self.userns >= 0:
            os.close(self.userns)
        if self.lease is not None:
            self.lease.close()


def capabilities() -> int:
    """The effective set of this process, as a bit mask."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return 0


def enter() -> Identity:
    """Become able to make sandboxes: nothing to do as root, else enter a user name space of our own."""
    powers = capabilities()
    room = next(_ranges(0), None) is not None
    if powers >> _CAP_SYS_ADMIN & 1 and room:
        os.setgroups([])
        return Identity(privileged=True, ids=IDS)
    if powers >> _CAP_SETGID & 1:
        try:
            os.setgroups([])
        except PermissionError:
            pass  # /proc/self/setgroups says deny: they stay, and are told
    uid, gid, groups, rooted = os.getuid(), os.getgid(), os.getgroups(), _is_root_of_the_machine()
    contained = rooted and room and powers & _MAPPING == _MAPPING
    finish = _every_id() if contained else _newuidmap(uid, gid)
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    lacking = finish()
    if lacking is not None and powers & _MAPPING == _MAPPING:
        lacking = Lacking("id map", errno.ENOSPC)  # it needs no newuidmap
    if lacking is None and (contained or not rooted):
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        os.setgroups([])
        return Identity(privileged=contained, ids=IDS, contained=contained)
    if rooted:
        # The kernel asks no capability of uid 0 for much of /proc/sys, and counts no process of it: never inside.
        raise StepError(errno.ENOSPC, "id range", "/proc/self/uid_map")
    for name, text in (("setgroups", b"deny"), ("uid_map", b"0 %d 1" % uid), ("gid_map", b"0 %d 1" % gid)):
        write_proc(f"/proc/self/{name}", text)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    # setgroups(2) is denied with a map of our own making (user_namespaces(7)): these stay, and are told.
    kept = tuple(_group_name(group) for group in sorted(set(groups) - {gid}))
    return Identity(privileged=False, ids=1, groups=kept, lacking=lacking)


def _is_root_of_the_machine() -> bool:
    """Whether our uid is the kernel's 0, whatever user name spaces call it: the owner of /proc/sys."""
    uid = os.getuid()
    return uid != _NOBODY and os.stat("/proc/sys").st_uid == uid


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def write_proc(path: str, text: bytes, step: str = "") -> None:
    """Write one of the files that want exactly one write(2); `step` defaults to the file's name."""
    step = step or path.rsplit("/", 1)[1]
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text)
        finally:
            os.close(fd)
    except OSError as error:
        raise StepError(error.errno or 0, step, path) from error


def _subordinate(path: str, uid: int) -> int:
    """First id of a range of at least 65,535 that `path` (subuid(5)) gives to `uid`, 0 if there is none."""
    try:
        names = {str(uid), pwd.getpwuid(uid).pw_name}
    except KeyError:
        names = {str(uid)}
    for name, first, count in _lines(path):
        if name in names and count >= IDS - 1:
            return first
    return 0


def _lines(path: str) -> list[tuple[str, int, int]]:
    """(name, first, count) of each well-formed line of subuid(5) or subgid(5)."""
    found = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, rest = line.strip().partition(":")
                first, _, count = rest.partition(":")
                if first.isascii() and first.isdigit() and count.isascii() and count.isdigit():
                    found.append((name, int(first), int(count)))
    except FileNotFoundError:
        return []
    return found


def _every_id() -> Callable[[], Lacking | None]:
    """Root of a container without CAP_SYS_ADMIN keeps all ids it has in the new name space, to lease ranges from there."""
    target = os.getpid()
    lines = {
        name: "".join(f"{low} {low} {high - low}\n" for low, high in _extents(f"/proc/self/{name}"))
        for name in ("uid_map", "gid_map")
    }

    def write() -> bool:
        for name, text in lines.items():
            write_proc(f"/proc/{target}/{name}", text.encode())
        return True

    return _outside(write, Lacking("id map", errno.EPERM))


def _newuidmap(uid: int, gid: int) -> Callable[[], Lacking | None]:
    """What maps 65,536 ids by newuidmap(1), to be called in the new user name space; the answer: why it did not."""
    target = os.getpid()
    ranges = [_subordinate(f"/etc/{name}", uid) for name in ("subuid", "subgid")]
    programs = [program for program in map(_which, _NEWUIDMAP) if program]
    if len(programs) < len(_NEWUIDMAP):
        return lambda: Lacking("newuidmap", errno.ENOENT)
    if not all(ranges):
        return lambda: Lacking("newuidmap", errno.EINVAL)
    words = list(zip(programs, (uid, gid), ranges, strict=True))
    return _outside(lambda: all(_run_helper(target, *each) for each in words), Lacking("newuidmap", errno.EPERM))


def _run_helper(target: int, program: str, own: int, first: int) -> bool:
    """newuidmap(1) or newgidmap(1)."""
    words = [program, str(target), "0", str(own), "1", "1", str(first), str(IDS - 1)]
    return os.waitpid(os.posix_spawn(program, words, {}), 0)[1] == 0


def _outside(action: Callable[[], bool], failed: Lacking) -> Callable[[], Lacking | None]:
    """Fork a process that stays in the present user name space, and acts when the result is called."""
    wait, go = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(go)
            if os.read(wait, 1):
                status = int(not action())
        finally:
            os._exit(status)
    os.close(wait)

    def finish() -> Lacking | None:
        os.write(go, b"x")
        os.close(go)
        return failed if os.waitpid(pid, 0)[1] else None

    return finish


def _which(name: str) -> str | None:
    for directory in ("/usr/bin", "/usr/local/bin", "/bin", "/run/wrappers/bin"):
        path = f"{directory}/{name}"
        if os.access(path, os.X_OK):
            return path
    return None


def open_slot(number: int, identity: Identity) -> Slot:
    """A slot for one sandbox at a time; as root with an id range that nobody else has and a user name space of it."""
    if not identity.privileged:
        return Slot(number, 0, -1, None)
    first, lease = _lease_range(number)
    pid, pidfd = syscalls.clone(syscalls.CLONE_NEWUSER)
    if pid == 0:
        # Only its name space is wanted: end with the fork server if that dies first.
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 9)
        while True:
            signal.pause()
    try:
        for name in ("uid_map", "gid_map"):
            write_proc(f"/proc/{pid}/{name}", b"0 %d %d" % (first, IDS))
        userns = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(pidfd)
    return Slot(number, first, userns, lease)


def can_shift(path: str, slot: Slot) -> bool:
    """Try an idmapped mount: EINVAL or EPERM where the file system cannot (an overlay as root, NFS)."""
    return can_set(path, syscalls.MOUNT_ATTR_IDMAP, slot.userns)


def can_set(path: str, attributes: int, userns: int = 0) -> bool:
    """Try mount_setattr(2) on a clone of the mount at `path`."""
    try:
        tree = syscalls.open_tree(path)
    except StepError:
        return False
    try:
        syscalls.mount_setattr(tree, attributes, userns=userns)
    except StepError:
        return False
    finally:
        os.close(tree)
    return True


def _lease_range(number: int) -> tuple[int, _socket.socket]:
    """A range of 65,536 host ids that nobody else has; `number` tells how many have been taken, by and large.

    The lease is a bound abstract socket: machine-wide, atomic, and gone with its holder, whatever ends it.
    """
    for first in _ranges(number):
        lease = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            lease.bind(b"\0airlock-ids-%d" % first)
        except OSError:
            lease.close()
            continue
        return first, lease
    raise StepError(28, "id range", "/proc/self/uid_map")  # ENOSPC


def _ranges(number: int) -> Iterator[int]:
    """First ids of ranges that exist in our own user name space and are in nobody's subuid(5) or passwd(5)."""
    taken = [(first, first + count) for name in ("subuid", "subgid") for _, first, count in _lines(f"/etc/{name}")]
    taken += [(uid, uid + 1) for uid in _named_ids()]
    extents = [_extents(f"/proc/self/{name}") for name in ("uid_map", "gid_map")]
    count = (_LAST - _FIRST) // IDS
    # Spread, so that workers do not all try the same ones; and behind our own: one of 500 would try 499 in vain.
    start = (os.getpid() * 61 + number) % count
    for step in range(count):
        first = _FIRST + (start + step) % count * IDS
        if any(low < first + IDS and first < high for low, high in taken):
            continue
        if all(any(low <= first and first + IDS <= high for low, high in some) for some in extents):
            yield first


def _named_ids() -> list[int]:
    ids = []
    for path in ("/etc/passwd", "/etc/group"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                fields = [line.split(":") for line in file]
        except FileNotFoundError:
            continue
        ids += [int(field[2]) for field in fields if len(field) > 2 and field[2].isascii() and field[2].isdigit()]
    return ids


def _extents(path: str) -> list[tuple[int, int]]:
    """The (first, end) ranges of ids that exist in our own user name space."""
    with open(path, encoding="ascii") as file:
        rows = [[int(word) for word in line.split()] for line in file]
    return [(inside, inside + count) for inside, _, count in rows]
