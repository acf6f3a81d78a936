"""The only module that speaks ctypes: Linux calls the standard library has no word for, named as their man pages.

Each raises StepError with the step's name, so that a failure can be explained (see diagnosis.py on the client side).
Constants are from the kernel's uapi headers (mount.h, sched.h, prctl.h, capability.h, seccomp.h, keyctl.h).
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct

__all__ = ["StepError"]

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PIDFD = 0x00001000
CLONE_INTO_CGROUP = 0x200000000
SIGCHLD = 17

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = 0o2000000
MOVE_MOUNT_F_EMPTY_PATH = 4
RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS = 2, 4
O_PATH = 0o10000000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_IDMAP = 1, 2, 4, 0x00100000

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS = 1, 4, 8
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
KEYCTL_JOIN_SESSION_KEYRING = 1
SECCOMP_SET_MODE_FILTER = 1
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH = 1
LINUX_CAPABILITY_VERSION_3 = 0x20080522

# Calls without a libc wrapper everywhere: (x86-64, arm64), asm/unistd_64.h and asm-generic/unistd.h.
_NUMBERS = {
    "clone": (56, 220),
    "capset": (126, 91),
    "pivot_root": (155, 41),
    "keyctl": (250, 219),
    "signalfd4": (289, 74),
    "seccomp": (317, 277),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "clone3": (435, 435),
    "openat2": (437, 437),
    "mount_setattr": (442, 442),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}
_MACHINES = {"x86_64": 0, "aarch64": 1}

_libc = ctypes.CDLL(None, use_errno=True)
_long, _int, _ulong, _str = ctypes.c_long, ctypes.c_int, ctypes.c_ulong, ctypes.c_char_p
_syscall = _libc.syscall
_syscall.restype = _long
# PyDLL keeps the interpreter lock: a raw fork must not happen between releasing and retaking it.
_syscall_locked = ctypes.PyDLL(None, use_errno=True).syscall
_syscall_locked.restype = _long
_mount = _libc.mount
_mount.argtypes = [_str, _str, _str, _ulong, _str]
_umount2 = _libc.umount2
_umount2.argtypes = [_str, _int]
_unshare = _libc.unshare
_unshare.argtypes = [_int]
_setns = _libc.setns
_setns.argtypes = [_int, _int]
_sethostname = _libc.sethostname
_sethostname.argtypes = [_str, ctypes.c_size_t]
_prctl = _libc.prctl
_prctl.argtypes = [_int, _ulong, _ulong, _ulong, _ulong]


class StepError(OSError):
    """A system call failed: `step` is its name with what it was for, `filename` the path if there is one."""

    def __init__(self, number: int, step: str, path: str = "") -> None:
        super().__init__(number, os.strerror(number), path or None)
        self.step = step


def _fail(step: str, path: str = "") -> StepError:
    return StepError(ctypes.get_errno(), step, path)


@functools.cache
def _number(name: str) -> int:
    machine = os.uname().machine
    if machine not in _MACHINES:
        raise StepError(38, name, machine)  # ENOSYS: no table for this processor
    return _NUMBERS[name][_MACHINES[machine]]


def _call(name: str, *args: object, path: str = "") -> int:
    result: int = _syscall(_long(_number(name)), *(_long(arg) if isinstance(arg, int) else arg for arg in args))
    if result < 0:
        raise _fail(name, path)
    return result


def mount(source: str | None, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2). The step is "mount KIND", or "bind"/"remount" for the kinds that have no file system."""
    words = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    if _mount(words[0], words[1], words[2], flags, words[3]):
        step = f"mount {kind}" if kind else "remount" if flags & MS_REMOUNT else "bind"
        raise _fail(step, target)


def umount(path: str, flags: int = MNT_DETACH) -> None:
    """umount2(2), lazily by default: what still uses it keeps it until it is done."""
    if _umount2(os.fsencode(path), flags):
        raise _fail("umount2", path)


def unshare(flags: int) -> None:
    """unshare(2)."""
    if _unshare(flags):
        raise _fail("unshare")


def setns(fd: int, kind: int) -> None:
    """setns(2)."""
    if _setns(fd, kind):
        raise _fail("setns")


def sethostname(name: str) -> None:
    """sethostname(2)."""
    text = os.fsencode(name)
    if _sethostname(text, len(text)):
        raise _fail("sethostname")


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    _call("pivot_root", os.fsencode(new), os.fsencode(old), path=new)


def prctl(option: int, value: int = 0) -> None:
    """prctl(2) with one argument."""
    if _prctl(option, value, 0, 0, 0) < 0:
        raise _fail(f"prctl {option}")


def open_tree(path: str, *, recursive: bool = False) -> int:
    """open_tree(2): a detached clone of the mount at `path`, as a descriptor."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    return _call("open_tree", AT_FDCWD, os.fsencode(path), flags, path=path)


def move_mount(tree: int, target: str) -> None:
    """move_mount(2): attach a detached mount at `target`."""
    _call("move_mount", tree, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH, path=target)


def mount_setattr(tree: int, attributes: int, *, userns: int = 0, recursive: bool = False) -> None:
    """mount_setattr(2): set attributes of a detached mount; `userns` is the descriptor MOUNT_ATTR_IDMAP maps by."""
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    request = struct.pack("=4Q", attributes, 0, 0, userns)
    _call("mount_setattr", tree, b"", flags, request, len(request))


def clone(flags: int, cgroup: int = -1) -> tuple[int, int]:
    """fork(2) into new name spaces, in one call: (pid, pidfd) in the parent, (0, -1) in the child.

    clone3(2), or clone(2) where a filter answers ENOSYS. The interpreter is told (PyOS_*Fork), since libc is not.
    `cgroup` is the descriptor of a version 2 control group to be born in: see has_clone3.
    """
    python = ctypes.pythonapi
    pidfd = ctypes.c_int(-1)
    into = CLONE_INTO_CGROUP if cgroup >= 0 else 0
    request = struct.pack(
        "=11Q", flags | CLONE_PIDFD | into, ctypes.addressof(pidfd), 0, 0, SIGCHLD, 0, 0, 0, 0, 0, max(cgroup, 0)
    )
    python.PyOS_BeforeFork()
    pid = _syscall_locked(_long(_number("clone3")), request, _long(len(request)))
    if pid < 0 and ctypes.get_errno() == 38 and not into:
        pid = _syscall_locked(
            _long(_number("clone")), _long(flags | CLONE_PIDFD | SIGCHLD), None, ctypes.byref(pidfd), None, None
        )
    if pid == 0:
        python.PyOS_AfterFork_Child()
        return 0, -1
    number = ctypes.get_errno()
    python.PyOS_AfterFork_Parent()
    if pid < 0:
        # EACCES, EBUSY, ENODEV, EOPNOTSUPP
        raise StepError(number, "cgroup" if into and number in (13, 16, 19, 95) else "clone3")
    return pid, pidfd.value


def has_clone3() -> bool:
    """Whether clone3(2) can be used: a filter may answer ENOSYS, or EPERM; the kernel finds fault with no arguments."""
    try:
        _call("clone3", None, 0)
    except StepError as error:
        return error.errno == 22  # EINVAL
    return False


def open_plain(path: bytes, flags: int, mode: int = 0) -> int:
    """openat2(2) through symbolic links, but ELOOP for those of /proc that lead to an open file (RESOLVE_NO_MAGICLINKS)."""
    how = struct.pack("=3Q", flags, mode, RESOLVE_NO_MAGICLINKS)
    return _call("openat2", AT_FDCWD, path, how, len(how))


def open_path(path: str, step: str) -> int:
    """openat2(2): a descriptor of the place `path`, with no symbolic link on the way to it (RESOLVE_NO_SYMLINKS)."""
    how = struct.pack("=3Q", O_PATH | os.O_CLOEXEC, 0, RESOLVE_NO_SYMLINKS)
    try:
        return _call("openat2", AT_FDCWD, os.fsencode(path), how, len(how), path=path)
    except StepError as error:
        if error.errno in (1, 38):  # EPERM, ENOSYS: a filter, not a link
            raise
        raise StepError(error.errno or 0, step, path) from error


def capset(permitted: int, effective: int) -> None:
    """capset(2) for this thread, inheritable empty; both are bit masks."""
    header = struct.pack("=Ii", LINUX_CAPABILITY_VERSION_3, 0)
    low, high = 0xFFFFFFFF, 32
    body = struct.pack("=6I", effective & low, permitted & low, 0, effective >> high, permitted >> high, 0)
    _call("capset", header, body)


def drop_bounding(keep: int, last: int) -> None:
    """Drop every capability up to `last` that is not in the mask `keep` from the bounding set."""
    for capability in range(last + 1):
        if not keep >> capability & 1:
            prctl(PR_CAPBSET_DROP, capability)


def seccomp(program: bytes) -> None:
    """Install a classic BPF filter (seccomp(2)); needs no_new_privs."""
    code = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(code))
    _call("seccomp", SECCOMP_SET_MODE_FILTER, 0, fprog)


def landlock_version() -> int:
    """landlock_create_ruleset(2): the version of the interface, 0 where there is none (ENOSYS, EOPNOTSUPP: switched off)."""
    try:
        return _call("landlock_create_ruleset", None, 0, LANDLOCK_CREATE_RULESET_VERSION)
    except StepError:
        return 0


def landlock_create_ruleset(access_fs: int, scoped: int) -> int:
    """landlock_create_ruleset(2): a descriptor of rules that decide about these rights to files and these scopes."""
    attributes = struct.pack("=3Q", access_fs, 0, scoped)
    return _call("landlock_create_ruleset", attributes, len(attributes), 0)


def landlock_add_rule(ruleset: int, access: int, parent: int) -> None:
    """landlock_add_rule(2): allow these rights below the directory `parent` (a descriptor)."""
    _call("landlock_add_rule", ruleset, LANDLOCK_RULE_PATH_BENEATH, struct.pack("=Qi", access, parent), 0)


def landlock_restrict_self(ruleset: int) -> None:
    """landlock_restrict_self(2): this thread and what it starts; needs no_new_privs."""
    _call("landlock_restrict_self", ruleset, 0)


def join_session_keyring() -> None:
    """keyctl(2): a new, empty session keyring, so that none is inherited; nothing where there are no keyrings (ENOSYS)."""
    try:
        _call("keyctl", KEYCTL_JOIN_SESSION_KEYRING, None)
    except StepError as error:
        # From a kernel without CONFIG_KEYS or a filter on us: the sandbox has no keyring calls either.
        if error.errno != 38:
            raise


def signalfd(signals: int) -> int:
    """signalfd(2): a descriptor that polls readable for the bit mask `signals`; non-blocking, close-on-exec."""
    return _call("signalfd4", -1, struct.pack("=Q", signals), 8, 0o2000000 | 0o4000)
