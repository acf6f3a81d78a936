"""The sandbox's first process, from clone3 to PID 1 of a locked-down world.

Everything up to `pivot_root` is trusted code on trusted data. After it no module may be imported: a late import
would load a file of the sandbox. Failures are told to the client as (step, errno, path).
"""

from __future__ import annotations

import _socket
import json
import os
import resource
from typing import NamedTuple

from . import agent, base, cgroups, landlock, mounts, oom, protocol, syscalls
from .identity import IDS, write_proc
from .net import place
from .syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC, MS_REMOUNT, StepError

__all__ = ["Ends", "Options", "run"]

ROOT = "/r"  # where the new root is put together
SCRATCH = (
    "/s"  # the sandbox's own tmpfs: uI, wI = overlay upper and work directories of view I, if they are not on disk
)
ON_DISK = "/s/d"
NO_DIRECTORY, NO_FILE = base.COVERS
MAX_TERMINALS = 256
# System V IPC in all: 2 MB of semaphores and 128 MB of messages instead of 64 and 32 GB (sysvipc(7), semget(2), msgget(2)).
_IPC = (("sem", b"32000 32000 500 1024"), ("msgmni", b"128"))
# Kernel interfaces hidden or made read-only in /proc, as the container engines do (OCI runtime-spec, maskedPaths).
MASKED_DIRECTORIES = ("acpi", "asound", "scsi")
MASKED_FILES = ("interrupts", "kcore", "keys", "latency_stats", "sched_debug", "timer_list", "timer_stats")
# pressure: since Linux 6.4 everybody may set triggers, and no limit counts them.
READ_ONLY = ("bus", "fs", "irq", "pressure", "sys", "sysrq-trigger")

# CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE SYS_CHROOT, see capabilities(7)
# SETFCAP: since Linux 5.12 mapping id 0 into a nested user name space needs it (user_namespaces(7)).
_SETFCAP = 1 << 31
_NESTABLE = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
KEPT_CAPABILITIES = sum(1 << number for number in (0, 1, 3, 4, 5, 6, 7, 8, 10, 18))


class Options(NamedTuple):
    """What one world is made of besides its files. Sizes in bytes; `limits` are (resource, soft, hard),
    `affinity` how many processors it is pinned to where no cgroup can limit it (0 = all), `landlock` its ABI (0 = none),
    `upper` the name of its directory of uI and wI below /u ("" = in memory), `life` the number of its network; `network` None: it has the host's.
    """

    views: tuple[base.Layered, ...]
    layers: tuple[int, ...]
    size: int
    inodes: int
    uid: int
    many_users: bool
    nested: bool
    program: bytes
    limits: tuple[tuple[int, int, int], ...]
    last_capability: int
    affinity: int
    capped: bool
    landlock: int
    upper: str
    network: place.Means | None
    life: int


class Ends(NamedTuple):
    """The descriptors the child keeps; everything else is closed first."""

    control: _socket.socket
    setup: _socket.socket
    mapped: int
    owner: int
    server: int
    registry: _socket.socket
    entrance: cgroups.Entrance


def run(options: Options, ends: Ends) -> None:
    """Never returns."""
    try:
        ends.entrance.join()
        sockets = (ends.control.fileno(), ends.setup.fileno(), ends.registry.fileno())
        _keep_only({*sockets, ends.mapped, ends.owner, ends.server})
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 9)
        if not os.read(ends.mapped, 1):
            os._exit(0)  # the fork server gave up on us
        os.close(ends.mapped)
        # The creator of a user name space has all capabilities in it, whatever its ids.
        uid = 0 if options.many_users else options.uid
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        syscalls.unshare(syscalls.CLONE_NEWCGROUP)
        syscalls.sethostname("airlock")
        if options.network is not None:
            place.lead_nowhere(options.network, ends.registry, options.life)
        ends.registry.close()
        _build_root(options, ends)
        _enter_root()
        score = oom.CommandsFirst(capped=options.capped)
        held = _lock_down(options)
        agent.serve(
            ends.control,
            ends.setup,
            ends.owner,
            ends.server,
            uid=options.uid,
            held=held,
            many_users=options.many_users,
            score=score,
        )
    except Exception as error:  # noqa: BLE001 - nobody is above us to see it: it is told to the client
        step = getattr(error, "step", "") or f"{type(error).__name__}: {error}"[:500]
        report = [step, getattr(error, "errno", None) or 0, str(getattr(error, "filename", None) or "")[:1000]]
        ends.control.send(protocol.BROKEN + json.dumps(report).encode("ascii"))
    finally:
        os._exit(70)


def _keep_only(wanted: set[int]) -> None:
    """Close what the fork server has open, siblings' sockets first of all; 0, 1, 2 become the null device in the end."""
    protocol.close_others({0, 1, 2, *wanted})


def _build_root(options: Options, ends: Ends) -> None:
    syscalls.mount(None, "/", None, MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount(
        "tmpfs", SCRATCH, "tmpfs", MS_NOSUID | MS_NODEV, f"size={options.size},nr_inodes={options.inodes},mode=755"
    )
    os.umask(0)
    os.mkdir(f"{SCRATCH}/shm", 0o1777)
    _make_covers()
    top = SCRATCH
    if options.upper:
        top = ON_DISK
        os.mkdir(top, 0o755)
        syscalls.mount(f"/u/{options.upper}", top, None, MS_BIND)
    scratch = syscalls.open_tree(top)
    protocol.send(ends.setup, b"t", (scratch,))
    os.close(scratch)
    os.chdir("/")
    for index, view in enumerate(options.views):
        _mount_view(index, view, options.layers, top)
    _mount_proc(options)
    _mount_dev()


def _make_covers() -> None:
    """What hides things: an empty directory and an empty file of this sandbox alone, so that not even a lock on them is
    felt in another; read-only, and so is every bind of them.
    """
    os.mkdir(NO_DIRECTORY, 0o555)
    os.close(os.open(NO_FILE, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))
    for path in (NO_DIRECTORY, NO_FILE):
        syscalls.mount(path, path, None, MS_BIND)
        syscalls.mount(None, path, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)


def _mount_view(index: int, view: base.Layered, layers: tuple[int, ...], top: str) -> None:
    target = ROOT + view.target
    _refuse_links(target)
    upper, work = f"{top}/u{index}", f"{top}/w{index}"
    os.mkdir(work, 0o755)
    if view.mode == "rw":
        mounts.attach(f"/{view.lowers[-1]}", target)
        for path, cover in view.covers:
            if os.path.lexists(f"{target}/{path}"):
                syscalls.mount(cover, f"{target}/{path}", None, MS_BIND)
        return
    if view.file:
        os.mkdir(upper, 0o755)
        _mount_file(f"/{view.lowers[-1]}", f"{work}/file", target, writable=view.mode == "cow")
        return
    lowers = list(view.lowers)
    data, flags = "userxattr", MS_NOSUID | MS_NODEV
    if view.mode == "cow":
        lowers = [f"l/{layer}/u{index}" for layer in reversed(layers)] + lowers
        _make_like(lowers[0], upper)
        # Without `volatile` every death would wait until the whole file system of the disk is written back.
        data += f"{',volatile' if top == ON_DISK else ''},upperdir={upper},workdir={work}"
    else:
        flags |= MS_RDONLY
    syscalls.mount("overlay", target, "overlay", flags, f"{data},lowerdir={':'.join(lowers)}")


def _refuse_links(target: str) -> None:
    """A link in a view or layer below would take the mount somewhere else: ELOOP. Where `nesting` is allowed, root inside
    can put one even at /proc and /dev.
    """
    os.close(syscalls.open_path(target, "mount point"))


def _mount_file(source: str, copy: str, target: str, *, writable: bool) -> None:
    """A single file cannot be an overlay: a private copy stands in for it."""
    with open(source, "rb") as original, open(copy, "wb") as file:
        os.fchmod(file.fileno(), os.fstat(original.fileno()).st_mode & 0o755)
        while chunk := original.read(1 << 20):
            file.write(chunk)
    syscalls.mount(copy, target, None, MS_BIND)
    if not writable:
        syscalls.mount(None, target, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _make_like(lower: str, upper: str) -> None:
    """Make the top directory of a view with the attributes it has below: in an overlay the topmost one's count."""
    info = os.stat(lower)
    os.mkdir(upper, info.st_mode & 0o1777)
    if info.st_uid or info.st_gid:
        try:
            os.chown(upper, info.st_uid, info.st_gid)
        except OSError as error:
            # An owner that does not exist in here: the directory is the sandbox root's own then.
            if error.errno not in (1, 22):
                raise
    os.utime(upper, ns=(info.st_atime_ns, info.st_mtime_ns))


def _mount_proc(options: Options) -> None:
    proc = f"{ROOT}/proc"
    _refuse_links(proc)
    syscalls.mount("proc", proc, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    # Name spaces count against the host's user, whatever their depth.
    for kind in _NESTABLE if options.nested else ("user",):
        write_proc(f"{proc}/sys/user/max_{kind}_namespaces", b"64" if options.nested else b"0", "sysctl")
    # Watches count against the host's user as well: one sandbox must not use up what its neighbours live on.
    for name, most in (("instances", b"32"), ("watches", b"8192")):
        write_proc(f"{proc}/sys/user/max_inotify_{name}", most, "sysctl")
    # What System V IPC holds is in no process' account: it outlives them, and whom the kernel ends for it is somebody else.
    for name, value in (("shmall", b"%d" % (options.size // os.sysconf("SC_PAGE_SIZE"))), *_IPC):
        _write_if_allowed(f"{proc}/sys/kernel/{name}", value)
    if options.network is not None:
        # Root inside has no power over the network, but low ports are an ordinary thing to test.
        write_proc(f"{proc}/sys/net/ipv4/ip_unprivileged_port_start", b"0", "sysctl")
        if options.network.recorder:
            _let_ping(options, options.network, f"{proc}/sys/net")
    for name in READ_ONLY:
        path = f"{proc}/{name}"
        if _bind_over(path, path):
            syscalls.mount(None, path, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for names, cover in ((MASKED_DIRECTORIES, NO_DIRECTORY), (MASKED_FILES, NO_FILE)):
        for name in names:
            _bind_over(cover, f"{proc}/{name}")


def _let_ping(options: Options, network: place.Means, sysctls: str) -> None:
    """Whoever is inside may send echo requests (icmp(7)), and the network process alone answers: the kernel would for
    every address, since all lead here.
    """
    for name in place.PING_SYSCTLS[: 1 + network.v6]:
        write_proc(f"{sysctls}/{name}", b"1", "sysctl")
    ids = b"0 %d" % (IDS - 1) if options.many_users else b"%d %d" % (options.uid, options.uid)
    write_proc(f"{sysctls}/ipv4/ping_group_range", ids, "sysctl")


def _write_if_allowed(path: str, text: bytes) -> None:
    try:
        write_proc(path, text, "sysctl")
    except StepError as error:
        if error.errno not in (1, 2, 13):  # EPERM, ENOENT, EACCES: the id that owns it does not exist in here
            raise


def _bind_over(source: str, path: str) -> bool:
    """Bind `source` at `path`; False where this kernel has no such file. One call each: a look before costs as much."""
    try:
        syscalls.mount(source, path, None, MS_BIND | MS_REC)
    except StepError as error:
        if error.errno == 2:
            return False
        raise
    return True


def _mount_dev() -> None:
    _refuse_links(f"{ROOT}/dev")
    devices = syscalls.open_tree("/d", recursive=True)
    syscalls.move_mount(devices, f"{ROOT}/dev")
    os.close(devices)
    # Terminals are of one store for the machine (kernel.pty.max); by default one sandbox could take three quarters of it.
    terminals = f"newinstance,ptmxmode=0666,mode=0620,max={MAX_TERMINALS}"
    syscalls.mount("devpts", f"{ROOT}/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, terminals)
    syscalls.mount(f"{SCRATCH}/shm", f"{ROOT}/dev/shm", None, MS_BIND)
    syscalls.mount("mqueue", f"{ROOT}/dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def _enter_root() -> None:
    os.chdir(ROOT)
    syscalls.pivot_root(".", ".")
    syscalls.umount(".")
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)


def _lock_down(options: Options) -> int:
    """From here on nothing can be undone. Order: what needs capabilities first, the filter last. Returns what is kept."""
    for number, soft, hard in options.limits:
        ceiling = resource.getrlimit(number)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(number, (soft, hard))
    if options.affinity:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.affinity])
    os.umask(0o022)
    syscalls.join_session_keyring()
    kept = KEPT_CAPABILITIES | (_SETFCAP if options.nested else 0)
    syscalls.drop_bounding(kept, options.last_capability)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    syscalls.capset(kept, kept)
    # Cleared by every change of credentials, so set again.
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 9)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    landlock.confine(options.landlock, None if options.nested else landlock.SANDBOX)
    syscalls.seccomp(options.program)
    return kept
