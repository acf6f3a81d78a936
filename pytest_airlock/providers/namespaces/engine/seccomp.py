"""The system-call filter of a sandbox: a pure function from a policy in tables to a classic BPF program.

An allow-list about as wide as the default profile of the container engines: what programs, compilers, package managers
and debuggers need. A dangerous call answers EPERM, one newer than the table ENOSYS, for which libraries have a fallback.
It is a second wall: capabilities and name spaces are the first, so a call the kernel checks well enough is allowed.

Sources: seccomp(2), Documentation/userspace-api/seccomp_filter.rst, linux/bpf_common.h, linux/seccomp.h, linux/audit.h.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Iterable, Mapping, Sequence

from .bpf import AND, IF_ANY_BIT, IF_AT_LEAST, IF_EQUAL, JUMP, LOAD, RETURN, Code, Op, assemble
from .syscall_table import NUMBERS

__all__ = [
    "ABSENT",
    "ALLOWED",
    "CHECKED",
    "FORBIDDEN",
    "NEEDLESS",
    "NESTING",
    "OWNERSHIP",
    "UnknownMachine",
    "build",
    "only",
]

# ---------------------------------------------------------------- the policy

#: Allowed whatever the arguments.
ALLOWED: Mapping[str, str] = {
    "files": """
        access faccessat faccessat2 open openat openat2 creat close close_range read write readv writev pread64 pwrite64
        preadv pwritev preadv2 pwritev2 lseek stat fstat lstat newfstatat statx statfs fstatfs chdir fchdir getcwd chroot
        chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat umask mkdir mkdirat mknod mknodat rmdir link linkat
        symlink symlinkat readlink readlinkat rename renameat renameat2 unlink unlinkat truncate ftruncate fallocate
        fadvise64 readahead copy_file_range sendfile splice tee vmsplice syncfs fsync fdatasync sync_file_range
        getdents getdents64 utime utimes futimesat utimensat flock fcntl dup dup2 dup3 pipe pipe2 name_to_handle_at
        getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat listxattr llistxattr flistxattr
        listxattrat removexattr lremovexattr fremovexattr removexattrat inotify_init inotify_init1 inotify_add_watch
        inotify_rm_watch cachestat""",
    "waiting": """
        select pselect6 poll ppoll epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2
        signalfd signalfd4 timerfd_create timerfd_settime timerfd_gettime""",
    "sockets": """
        bind listen accept accept4 connect shutdown getsockname getpeername getsockopt setsockopt sendto sendmsg sendmmsg
        recvfrom recvmsg recvmmsg""",
    "memory": """
        brk mmap munmap mremap mprotect madvise msync mincore mlock mlock2 mlockall munlock munlockall remap_file_pages
        memfd_create memfd_secret mseal pkey_alloc pkey_free pkey_mprotect map_shadow_stack membarrier""",
    # uretprobe and uprobe are entered by a trampoline of the kernel's own: without them a program that the host
    # happens to trace would die.
    "processes": """
        fork vfork execve execveat exit exit_group wait4 waitid getpid getppid gettid getpgid setpgid getpgrp getsid setsid
        set_tid_address set_robust_list get_robust_list futex futex_waitv futex_wait futex_wake futex_requeue rseq
        arch_prctl prctl seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self pidfd_open
        pidfd_send_signal process_mrelease getcpu restart_syscall uname sysinfo getrandom uretprobe uprobe""",
    # The kernel's ptrace check stands before all three; PID 1 is not dumpable, so it passes none of them.
    "debugging": "ptrace process_vm_readv process_vm_writev",
    "identity": """
        getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid setresuid setresgid
        setfsuid setfsgid setgroups capget capset""",
    "scheduling": """
        sched_yield sched_getaffinity sched_getscheduler sched_getparam sched_getattr sched_get_priority_max
        sched_get_priority_min sched_rr_get_interval getpriority ioprio_get getrlimit setrlimit getrusage times""",
    "signals": """
        kill tkill tgkill rt_sigaction rt_sigprocmask rt_sigpending rt_sigreturn rt_sigsuspend rt_sigtimedwait
        rt_sigqueueinfo rt_tgsigqueueinfo sigaltstack pause""",
    # adjtimex and clock_adjtime also read; to set the clock takes a capability outside every user name space.
    "time": """
        time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep alarm getitimer setitimer timer_create
        timer_settime timer_gettime timer_getoverrun timer_delete adjtimex clock_adjtime""",
    "System V and POSIX queues, in a name space of their own": """
        shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd msgrcv msgctl mq_open mq_unlink mq_timedsend
        mq_timedreceive mq_notify mq_getsetattr""",
}

#: Decided by the arguments: name -> the block of `_CHECKS` that does.
CHECKED: Mapping[str, str] = {
    "clone": "clone",
    "socket": "socket",
    "socketpair": "socket",
    "ioctl": "ioctl",
    "personality": "personality",
    "prlimit64": "prlimit64",
    "sched_setscheduler": "not of PID 1",
    "sched_setparam": "not of PID 1",
    "sched_setattr": "not of PID 1",
    "sched_setaffinity": "not of PID 1",
    "setpriority": "setpriority",
    "ioprio_set": "ioprio_set",
}

#: EPERM; with `nesting` allowed, and clone3 with them: what builds name spaces inside the sandbox's own.
NESTING = """
    unshare setns mount umount2 pivot_root open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick mount_setattr
    sethostname setdomainname"""

#: EPERM, by reason.
FORBIDDEN: Mapping[str, str] = {
    "keyrings are not name-spaced": "add_key request_key keyctl",
    "programs loaded into the kernel, or its counters": "bpf perf_event_open lookup_dcookie",
    "a second way to make system calls, which no filter sees": "io_uring_setup io_uring_enter io_uring_register",
    "stops the kernel inside a copy, which makes its races winnable": "userfaultfd",
    "opens any inode by number, past every mount": "open_by_handle_at",
    "watches whole file systems": "fanotify_init fanotify_mark",
    "takes descriptors or memory advice from other processes": "pidfd_getfd kcmp process_madvise",
    "placement of memory on the machine's nodes": """
        mbind set_mempolicy get_mempolicy set_mempolicy_home_node migrate_pages move_pages""",
    "the machine itself": """
        reboot kexec_load kexec_file_load init_module finit_module delete_module swapon swapoff acct quotactl quotactl_fd
        settimeofday clock_settime syslog vhangup iopl ioperm""",
    "segments of 16- and 32-bit code, which the filter kills anyway": "modify_ldt",
}

#: ENOSYS, by reason: programs then use the older call, or live without.
ABSENT: Mapping[str, str] = {
    "its flags lie in memory, where a filter cannot look": "clone3",
    "there is one store of them for the whole machine (fs.aio-max-nr), for its databases": """
        io_setup io_submit io_getevents io_pgetevents io_cancel io_destroy""",
    "twins of older, known calls": "statmount listmount file_getattr file_setattr",
    "descriptions of security modules": "lsm_get_self_attr lsm_set_self_attr lsm_list_modules",
    "without function for years": """
        uselib ustat sysfs _sysctl create_module get_kernel_syms query_module nfsservctl getpmsg putpmsg afs_syscall tuxcall
        security vserver set_thread_area get_thread_area epoll_ctl_old epoll_wait_old""",
}

#: Answers 0 and does nothing: the sandbox's files are in memory, and it would wait for every disk of the host, unkillably.
NEEDLESS = "sync"

#: With `single_user` these answer 0 and do nothing.
OWNERSHIP = "chown fchown lchown fchownat setgroups"

# ---------------------------------------------------------------- words of the program


class UnknownMachine(ValueError):
    """There is no filter for this machine: an unfiltered sandbox is not an option."""


def _low(argument: int) -> Op:
    """Load the low half of an argument: all there is of an int, whatever a caller put into the upper half."""
    return Op(LOAD, 16 + 8 * argument)


def _high(argument: int) -> Op:
    return Op(LOAD, 20 + 8 * argument)


def _among(values: Iterable[int], yes: str, no: str) -> list[str | Op]:
    return [*(Op(IF_EQUAL, value, yes) for value in values), Op(JUMP, yes=no)]


def _search(runs: Sequence[tuple[int, str]]) -> list[str | Op]:
    """Jump to the label of the last run that starts at or below the loaded number: a balanced tree."""
    if len(runs) == 1:
        return [Op(JUMP, yes=runs[0][1])]
    middle = len(runs) // 2
    start = runs[middle][0]
    upper = f"from {start}"
    return [Op(IF_AT_LEAST, start, upper), *_search(runs[:middle]), upper, *_search(runs[middle:])]


# ---------------------------------------------------------------- outcomes and argument checks

_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000  # SECCOMP_RET_KILL_PROCESS, _ERRNO, _ALLOW

_OUTCOMES: Mapping[str, int] = {
    "allow": _ALLOW,
    "EPERM": _ERRNO | errno.EPERM,
    "ENOSYS": _ERRNO | errno.ENOSYS,
    "EAFNOSUPPORT": _ERRNO | errno.EAFNOSUPPORT,
    "EPROTONOSUPPORT": _ERRNO | errno.EPROTONOSUPPORT,
    "succeed": _ERRNO | 0,
}

#: AUDIT_ARCH_*: the word by which the kernel tells whose numbers a call uses.
_ARCHITECTURES: Mapping[str, int] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_NO_CALL = 0xFFFFFFFF

# CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID and NET; CLONE_NEWTIME shares its bit with the exit signal and counts only
# for unshare and clone3.
_CLONE_NEW = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000

# linux/socket.h, linux/net.h, linux/in.h, linux/netlink.h: the same on both machines.
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_STREAM, _DGRAM, _TYPE_MASK = 1, 2, 0xF
_ANY, _ICMP, _TCP, _UDP, _ICMPV6 = 0, 1, 6, 17, 58
_NETLINK_ROUTE = 0
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_PRIO_PROCESS, _PRIO_USER = 0, 2  # linux/resource.h
_IOPRIO_PROCESS, _IOPRIO_USER = 1, 3  # linux/ioprio.h

# The container engines' list (PER_LINUX, PER_LINUX32, UNAME26, both, query), and ADDR_NO_RANDOMIZE: debuggers and
# sanitizers need it, and it weakens only the program that asks.
_PERSONALITIES = (0, 8, 0x20000, 0x20008, 0x40000, 0xFFFFFFFF)

_CHECKS: Code = (
    "clone",
    _low(0),
    Op(IF_ANY_BIT, _CLONE_NEW, "EPERM", "allow"),
    # Vsock and others are not name-spaced; SCTP, UDP-Lite and raw sockets would pass unseen by what records attempts;
    # other netlink families carry the host's events.
    "socket",
    _low(0),
    Op(IF_EQUAL, _UNIX, "allow"),
    Op(IF_EQUAL, _INET, "inet"),
    Op(IF_EQUAL, _INET6, "inet6"),
    Op(IF_EQUAL, _NETLINK, "netlink", "EAFNOSUPPORT"),
    "inet",
    _low(2),
    *_among((_ANY, _TCP, _UDP, _ICMP), "socket type", "EPROTONOSUPPORT"),
    "inet6",
    _low(2),
    *_among((_ANY, _TCP, _UDP, _ICMPV6), "socket type", "EPROTONOSUPPORT"),
    "socket type",
    _low(1),
    Op(AND, _TYPE_MASK),
    *_among((_STREAM, _DGRAM), "allow", "EPROTONOSUPPORT"),
    "netlink",
    _low(2),
    Op(IF_EQUAL, _NETLINK_ROUTE, "allow", "EPROTONOSUPPORT"),
    # Both type into a terminal as if its user had.
    "ioctl",
    _low(1),
    *_among((_TIOCSTI, _TIOCLINUX), "EPERM", "allow"),
    "personality",
    _low(0),
    *_among(_PERSONALITIES, "allow", "EPERM"),
    # Of other processes limits are read, not set: root of the sandbox could starve PID 1. Reading is new_limit = NULL.
    "prlimit64",
    _low(0),
    Op(IF_EQUAL, 0, "allow"),
    _low(2),
    Op(IF_EQUAL, 0, no="EPERM"),
    _high(2),
    Op(IF_EQUAL, 0, "allow", "EPERM"),
    # PID 1 must get to its orders beside thousands that run: its own user could make it the last to be served. It is in
    # no process group that has a number inside.
    "setpriority",
    _low(0),
    Op(IF_EQUAL, _PRIO_USER, "EPERM"),
    Op(IF_EQUAL, _PRIO_PROCESS, "not second of PID 1", "allow"),
    "ioprio_set",
    _low(0),
    Op(IF_EQUAL, _IOPRIO_USER, "EPERM"),
    Op(IF_EQUAL, _IOPRIO_PROCESS, "not second of PID 1", "allow"),
    "not second of PID 1",
    _low(1),
    Op(IF_EQUAL, 1, "EPERM", "allow"),
    "not of PID 1",
    _low(0),
    Op(IF_EQUAL, 1, "EPERM", "allow"),
)


# ---------------------------------------------------------------- the program


def _decisions(machine: str, nesting: bool, single_user: bool, pin_cpus: bool) -> dict[int, str]:
    """Number -> label of an outcome or a check, for every known call; later rules win."""
    rules: list[tuple[str, str]] = [(names, "allow") for names in ALLOWED.values()]
    rules += [(names, "EPERM") for names in (*FORBIDDEN.values(), NESTING)]
    rules += [(names, "ENOSYS") for names in ABSENT.values()]
    rules += [*CHECKED.items(), (NEEDLESS, "succeed")]
    if nesting:
        rules.append((NESTING + " clone clone3", "allow"))
    if single_user:
        rules.append((OWNERSHIP, "succeed"))
    if pin_cpus:
        rules.append(("sched_setaffinity", "EPERM"))
    numbers = NUMBERS[machine]
    return {numbers[name]: label for names, label in rules for name in names.split() if name in numbers}


def _runs(decisions: Mapping[int, str]) -> list[tuple[int, str]]:
    """(first number, label) of every stretch with one label; the gaps, and all above, are unknown calls."""
    labels = [decisions.get(number, "ENOSYS") for number in range(max(decisions) + 2)]
    return [(number, label) for number, label in enumerate(labels) if number == 0 or label != labels[number - 1]]


@functools.cache
def build(
    machine: str = os.uname().machine, *, nesting: bool = False, single_user: bool = False, pin_cpus: bool = False
) -> bytes:
    """The filter as an array of struct sock_filter (8 bytes each, native byte order) for seccomp(2).

    `nesting` lets name spaces be made inside. `single_user` fakes changes of ownership: the chown family and setgroups
    answer success and do nothing, for a sandbox that has one user id. `pin_cpus` keeps processes on the processors
    they were given. Raises UnknownMachine for what is neither x86-64 nor arm64.

    A call of another architecture (i386, arm, x32) kills the process, as libseccomp does by default: its number means
    another call, and no program of this machine makes one by accident. Number -1 is a call that a tracer skipped.
    """
    machine = _known(machine)
    return _program(machine, _decisions(machine, nesting, single_user, pin_cpus), _CHECKS)


def only(names: str, machine: str = os.uname().machine) -> bytes:
    """The filter of a helper of our own: it needs these calls, and every other known one is EPERM. Raises UnknownMachine."""
    machine = _known(machine)
    numbers = NUMBERS[machine]
    allowed = {numbers[name]: "allow" for name in names.split() if name in numbers}
    return _program(machine, {**dict.fromkeys(numbers.values(), "EPERM"), **allowed}, ())


def _known(machine: str) -> str:
    machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(machine, machine)
    if machine not in NUMBERS:
        raise UnknownMachine(f"no system-call filter for {machine!r}: known are {', '.join(NUMBERS)}")
    return machine


def _program(machine: str, decisions: Mapping[int, str], checks: Code) -> bytes:
    # Number and architecture are loaded at offsets 0 and 4 of struct seccomp_data. The kernel proves in advance which
    # numbers are allowed whatever the arguments, and then runs no filter for them; it follows exactly these opcodes.
    entry: list[str | Op] = [
        Op(LOAD, 4),
        Op(IF_EQUAL, _ARCHITECTURES[machine], "native"),
        Op(RETURN, _KILL),
        "native",
        Op(LOAD, 0),
    ]
    if machine == "x86_64":
        entry += [
            Op(IF_EQUAL, _NO_CALL, "search"),
            Op(IF_AT_LEAST, _X32_BIT, no="search"),
            Op(RETURN, _KILL),
        ]
    outcomes: list[str | Op] = []
    for label, value in _OUTCOMES.items():
        outcomes += [label, Op(RETURN, value)]
    return assemble([*entry, "search", *_search(_runs(decisions)), *checks, *outcomes])
