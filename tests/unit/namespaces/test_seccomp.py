from __future__ import annotations

import errno
import itertools
import struct
from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_airlock.providers.namespaces.engine import seccomp
from pytest_airlock.providers.namespaces.engine.syscall_table import NUMBERS

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
OTHER_ARCHES = [0x40000003, 0x40000028, 0xC00000F3, 0, 0xFFFFFFFF]  # i386, arm, riscv64, nonsense
MACHINES = sorted(NUMBERS)
OPTIONS = [
    dict(zip(("nesting", "single_user", "pin_cpus"), flags, strict=True))
    for flags in itertools.product((False, True), repeat=3)
]

ALLOW, KILL, SUCCEED = "allow", "kill", "succeed"
UINT64 = st.integers(0, 2**64 - 1)
UPPER = st.integers(0, 2**32 - 1)


class Op(NamedTuple):
    code: int
    yes: int
    no: int
    k: int


def decode(program: bytes) -> list[Op]:
    return [Op(*fields) for fields in struct.iter_unpack("=HBBI", program)]


def evaluate(program: bytes, number: int, *args: int, arch: int) -> str | int:
    """What the kernel would answer: ALLOW, KILL, SUCCEED or an errno. Follows linux/bpf_common.h."""
    values = [value & 2**64 - 1 for value in (*args, 0, 0, 0, 0, 0, 0)[:6]]
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, arch, 0x7F0000001234, *values)
    ops, here, accumulator = decode(program), 0, 0
    while True:
        op = ops[here]
        here += 1
        match op.code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, op.k)
            case 0x54:
                accumulator &= op.k
            case 0x05:
                here += op.k
            case 0x15:
                here += op.yes if accumulator == op.k else op.no
            case 0x35:
                here += op.yes if accumulator >= op.k else op.no
            case 0x45:
                here += op.yes if accumulator & op.k else op.no
            case 0x06:
                action, value = op.k & 0xFFFF0000, op.k & 0xFFFF
                return {0x7FFF0000: ALLOW, 0x80000000: KILL}.get(action) or (value or SUCCEED)
            case code:
                raise AssertionError(f"unknown opcode {code:#x}")


class Filter:
    def __init__(self, machine: str = "x86_64", **options: bool) -> None:
        self.machine = machine
        self.program = seccomp.build(machine, **options)

    def __call__(self, name: str, *args: int) -> str | int:
        return evaluate(self.program, NUMBERS[self.machine][name], *args, arch=ARCH[self.machine])

    def number(self, number: int) -> str | int:
        return evaluate(self.program, number, arch=ARCH[self.machine])


@pytest.fixture(params=MACHINES, scope="module")
def box(request: pytest.FixtureRequest) -> Filter:
    return Filter(request.param)


# ---------------------------------------------------------------- the policy's tables


def test_every_known_call_is_decided_exactly_once() -> None:
    decided = Counter(list(seccomp.CHECKED))
    for texts in (seccomp.ALLOWED, seccomp.FORBIDDEN, seccomp.ABSENT):
        for names in texts.values():
            decided.update(names.split())
    decided.update(f"{seccomp.NESTING} {seccomp.NEEDLESS}".split())
    assert set(decided) == set(NUMBERS["x86_64"]) | set(NUMBERS["aarch64"])
    assert [name for name, times in decided.items() if times > 1] == []


# ---------------------------------------------------------------- the program's structure


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_kernel_would_accept_it(machine: str, options: dict[str, bool]) -> None:
    """bpf_check_classic and seccomp_check_filter: known opcodes, aligned loads inside the data, jumps inside."""
    program = seccomp.build(machine, **options)
    assert len(program) % 8 == 0
    ops = decode(program)
    assert len(ops) < 1024
    for here, op in enumerate(ops):
        assert op.code in (0x20, 0x54, 0x05, 0x15, 0x35, 0x45, 0x06)
        if op.code == 0x20:
            assert op.k % 4 == 0
            assert op.k < 64
        elif op.code == 0x05:
            assert here + 1 + op.k < len(ops)
        elif op.code in (0x15, 0x35, 0x45):
            assert here + 1 + max(op.yes, op.no) < len(ops)
    assert ops[-1].code == 0x06


def test_a_decision_takes_few_instructions() -> None:
    """A balanced tree: the deepest call costs about log2 of the number of runs, not their number."""

    def depth(ops: list[Op], here: int) -> int:
        op = ops[here]
        if op.code == 0x06:
            return 1
        if op.code == 0x05:
            return 1 + depth(ops, here + 1 + op.k)
        if op.code in (0x15, 0x35, 0x45):
            return 1 + max(depth(ops, here + 1 + op.yes), depth(ops, here + 1 + op.no))
        return 1 + depth(ops, here + 1)

    assert depth(decode(seccomp.build("x86_64")), 0) <= 32


def test_other_machines_are_refused() -> None:
    with pytest.raises(seccomp.UnknownMachine, match=r"riscv64.*x86_64, aarch64"):
        seccomp.build("riscv64")


def test_the_names_of_machines_have_synonyms() -> None:
    assert seccomp.build("arm64") == seccomp.build("aarch64")
    assert seccomp.build("amd64") == seccomp.build("x86_64")


# ---------------------------------------------------------------- decisions without arguments


def expected(name: str, *, nesting: bool, single_user: bool, pin_cpus: bool) -> str | int:
    """The oracle: the rules in words, in the order in which they apply, for arguments that are all 0."""
    if name == "sync":
        return SUCCEED
    if single_user and name in {"chown", "fchown", "lchown", "fchownat", "setgroups"}:
        return SUCCEED
    if pin_cpus and name == "sched_setaffinity":
        return errno.EPERM
    if nesting and (name == "clone3" or name in seccomp.NESTING.split()):
        return ALLOW
    if name in seccomp.NESTING.split() or any(name in names.split() for names in seccomp.FORBIDDEN.values()):
        return errno.EPERM
    if any(name in names.split() for names in seccomp.ABSENT.values()):
        return errno.ENOSYS
    if name in ("socket", "socketpair"):
        return errno.EAFNOSUPPORT  # family 0
    return ALLOW


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_known_call_gets_its_decision(machine: str, options: dict[str, bool]) -> None:
    box = Filter(machine, **options)
    wrong = {name: box(name) for name in NUMBERS[machine] if box(name) != expected(name, **options)}
    assert wrong == {}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("machine", MACHINES)
def test_unknown_numbers_answer_enosys(machine: str, options: dict[str, bool]) -> None:
    box = Filter(machine, **options)
    unknown = sorted({*range(600), 0x3FFFFFFF, 0xFFFFFFFF} - set(NUMBERS[machine].values()))
    assert {number: box.number(number) for number in unknown} == dict.fromkeys(unknown, errno.ENOSYS)


@pytest.mark.parametrize("arch", OTHER_ARCHES, ids=hex)
def test_a_call_of_another_architecture_kills(box: Filter, arch: int) -> None:
    assert {evaluate(box.program, number, arch=arch) for number in (0, 1, 59, 0xFFFFFFFF)} == {KILL}


def test_the_other_machines_numbers_kill() -> None:
    assert evaluate(seccomp.build("x86_64"), 63, arch=ARCH["aarch64"]) == KILL
    assert evaluate(seccomp.build("aarch64"), 0, arch=ARCH["x86_64"]) == KILL


def test_x32_kills_but_a_call_skipped_by_a_tracer_does_not() -> None:
    box = Filter("x86_64")
    assert {box.number(0x40000000 + number) for number in (0, 1, 59, 520, 547)} == {KILL}
    assert box.number(0xFFFFFFFE) == KILL
    assert box.number(-1) == errno.ENOSYS


# Written out, so that a slip in the tables shows.
DANGEROUS = """
    unshare setns mount umount2 pivot_root open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
    open_tree_attr keyctl add_key request_key bpf perf_event_open io_uring_setup io_uring_enter io_uring_register
    userfaultfd kexec_load kexec_file_load init_module finit_module delete_module open_by_handle_at quotactl quotactl_fd
    fanotify_init swapon swapoff reboot acct settimeofday clock_settime syslog vhangup sethostname setdomainname
    move_pages migrate_pages mbind process_madvise pidfd_getfd kcmp"""


@pytest.mark.parametrize("name", DANGEROUS.split())
def test_dangerous_calls_answer_eperm(box: Filter, name: str) -> None:
    assert box(name) == errno.EPERM


ORDINARY = """
    execve execveat clone vfork wait4 waitid ptrace process_vm_readv mmap mprotect memfd_create futex rseq openat
    openat2 statx getdents64 renameat2 fchmodat2 copy_file_range splice fsync fallocate setxattr flock inotify_init1
    epoll_pwait2 eventfd2 signalfd4 timerfd_create pidfd_open pidfd_send_signal sendmsg recvmsg accept4 setresuid
    setgroups capset prctl seccomp landlock_create_ruleset getrandom membarrier shmget semtimedop mq_open
    timer_create clock_nanosleep sched_setaffinity setpriority close_range name_to_handle_at chroot mknodat"""


@pytest.mark.parametrize("name", ORDINARY.split())
def test_what_ordinary_programs_need_is_allowed(box: Filter, name: str) -> None:
    if name in NUMBERS[box.machine]:
        assert box(name) == ALLOW


@pytest.mark.parametrize("name", ["io_uring_setup", "bpf", "keyctl", "userfaultfd", "open_by_handle_at", "kexec_load"])
@pytest.mark.parametrize("machine", MACHINES)
def test_nesting_opens_name_spaces_and_nothing_else(machine: str, name: str) -> None:
    box = Filter(machine, nesting=True)
    assert (box("unshare"), box("setns"), box("mount"), box("pivot_root"), box("clone3")) == (ALLOW,) * 5
    assert box("clone", 0x7E020000) == ALLOW
    assert box(name) == errno.EPERM


# ---------------------------------------------------------------- decisions by arguments

NEW = {
    "NS": 0x00020000,
    "CGROUP": 0x02000000,
    "UTS": 0x04000000,
    "IPC": 0x08000000,
    "USER": 0x10000000,
    "PID": 0x20000000,
    "NET": 0x40000000,
}
THREAD = 0x003D0F00  # what pthread_create passes
SIGCHLD = 17


@pytest.mark.parametrize("flags", [SIGCHLD, THREAD, 0x01200011, 0x4111], ids=hex)
def test_threads_and_forks_are_allowed(box: Filter, flags: int) -> None:
    assert box("clone", flags) == ALLOW


@given(rest=UINT64, name=st.sampled_from(sorted(NEW)), machine=st.sampled_from(MACHINES))
def test_a_new_name_space_is_refused_whatever_the_other_flags(rest: int, name: str, machine: str) -> None:
    assert Filter(machine)("clone", rest | NEW[name]) == errno.EPERM


UNIX, INET, INET6, NETLINK, VSOCK, PACKET = 1, 2, 10, 16, 40, 17
STREAM, DGRAM, RAW, SEQPACKET = 1, 2, 3, 5
FLAGS = 0x80800  # SOCK_CLOEXEC | SOCK_NONBLOCK


@pytest.mark.parametrize("call", ["socket", "socketpair"])
@pytest.mark.parametrize("flags", [0, FLAGS])
@pytest.mark.parametrize(
    ("family", "kind", "protocol", "answer"),
    [
        (UNIX, STREAM, 0, ALLOW),
        (UNIX, DGRAM, 0, ALLOW),
        (UNIX, SEQPACKET, 0, ALLOW),
        (INET, STREAM, 0, ALLOW),
        (INET, STREAM, 6, ALLOW),
        (INET, DGRAM, 17, ALLOW),
        (INET, DGRAM, 1, ALLOW),
        (INET6, STREAM, 6, ALLOW),
        (INET6, DGRAM, 58, ALLOW),
        (NETLINK, RAW, 0, ALLOW),
        (NETLINK, DGRAM, 0, ALLOW),
        (INET, STREAM, 132, errno.EPROTONOSUPPORT),  # SCTP
        (INET, STREAM, 262, errno.EPROTONOSUPPORT),  # MPTCP: servers written in Go fall back to TCP
        (INET, DGRAM, 136, errno.EPROTONOSUPPORT),  # UDP-Lite
        (INET6, 6, 33, errno.EPROTONOSUPPORT),  # DCCP
        (INET, DGRAM, 58, errno.EPROTONOSUPPORT),
        (INET6, DGRAM, 1, errno.EPROTONOSUPPORT),
        (INET, RAW, 1, errno.EPROTONOSUPPORT),
        (INET, RAW, 255, errno.EPROTONOSUPPORT),
        (INET6, RAW, 58, errno.EPROTONOSUPPORT),
        (INET, SEQPACKET, 0, errno.EPROTONOSUPPORT),
        (INET, 10, 0x0300, errno.EPROTONOSUPPORT),  # the old packet socket
        (NETLINK, RAW, 4, errno.EPROTONOSUPPORT),  # SOCK_DIAG
        (NETLINK, RAW, 9, errno.EPROTONOSUPPORT),  # AUDIT
        (NETLINK, RAW, 12, errno.EPROTONOSUPPORT),  # NETFILTER
        (NETLINK, DGRAM, 15, errno.EPROTONOSUPPORT),  # KOBJECT_UEVENT: the host's devices
        (VSOCK, STREAM, 0, errno.EAFNOSUPPORT),
        (PACKET, RAW, 0x0300, errno.EAFNOSUPPORT),
        (0, STREAM, 0, errno.EAFNOSUPPORT),
        (38, SEQPACKET, 0, errno.EAFNOSUPPORT),  # ALG
        (44, RAW, 0, errno.EAFNOSUPPORT),  # XDP
        (46, STREAM, 0, errno.EAFNOSUPPORT),
    ],
)
def test_sockets(box: Filter, call: str, flags: int, family: int, kind: int, protocol: int, answer: str | int) -> None:
    assert box(call, family, kind | flags, protocol) == answer


@given(
    family=st.integers(0, 100),
    kind=st.integers(0, 15),
    protocol=st.integers(0, 300),
    upper=st.tuples(UPPER, UPPER, UPPER),
)
def test_the_upper_halves_of_socket_arguments_do_not_count(
    family: int, kind: int, protocol: int, upper: tuple[int, int, int]
) -> None:
    box = Filter("x86_64")
    tricked = [value | high << 32 for value, high in zip((family, kind, protocol), upper, strict=True)]
    assert box("socket", *tricked) == box("socket", family, kind, protocol)


@pytest.mark.parametrize("request_", [0x5412, 0x541C], ids=["TIOCSTI", "TIOCLINUX"])
def test_typing_into_a_terminal_is_refused(box: Filter, request_: int) -> None:
    assert box("ioctl", 0, request_, 0x7FFF00000000) == errno.EPERM


@given(upper=UPPER, request_=st.sampled_from([0x5412, 0x541C]), machine=st.sampled_from(MACHINES))
def test_the_upper_half_of_an_ioctl_request_does_not_hide_it(upper: int, request_: int, machine: str) -> None:
    """CVE-2019-10063: the kernel takes an unsigned int, so must the filter."""
    assert Filter(machine)("ioctl", 0, request_ | upper << 32) == errno.EPERM


@pytest.mark.parametrize("request_", [0x5401, 0x5413, 0x541B, 0x541D, 0x5411], ids=hex)
def test_other_ioctls_are_allowed(box: Filter, request_: int) -> None:
    assert box("ioctl", 0, request_) == ALLOW


@pytest.mark.parametrize("persona", [0, 8, 0x20000, 0x20008, 0x40000, 0xFFFFFFFF, 2**64 - 1], ids=hex)
def test_personalities_of_ordinary_programs(box: Filter, persona: int) -> None:
    assert box("personality", persona) == ALLOW


@pytest.mark.parametrize("persona", [1, 0x100000, 0x400000, 0x440000, 0x0040000 | 8, 0x8000000], ids=hex)
def test_other_personalities_are_refused(box: Filter, persona: int) -> None:
    assert box("personality", persona) == errno.EPERM


def test_limits_of_other_processes_are_read_but_not_set(box: Filter) -> None:
    new_limit = 0x7FFD00000000  # its low half is 0
    assert box("prlimit64", 0, 7, new_limit, 0) == ALLOW
    assert box("prlimit64", 1, 7, 0, 0x7FFD00001000) == ALLOW
    assert box("prlimit64", 1, 7, new_limit, 0) == errno.EPERM
    assert box("prlimit64", 1, 7, 0x1000, 0) == errno.EPERM


@given(upper=UPPER, pid=st.integers(1, 2**22))
def test_a_pid_is_an_int(upper: int, pid: int) -> None:
    box = Filter("aarch64")
    assert box("prlimit64", pid | upper << 32, 7, 0x1000) == errno.EPERM
    assert box("prlimit64", upper << 32, 7, 0x1000) == ALLOW


PROCESS, GROUP, USER = range(3)  # of setpriority; ioprio_set counts from 1


@pytest.mark.parametrize("name", ["sched_setscheduler", "sched_setparam", "sched_setattr", "sched_setaffinity"])
def test_nobody_schedules_the_first_process(box: Filter, name: str) -> None:
    assert (box(name, 1), box(name, 1 | 7 << 32)) == (errno.EPERM,) * 2
    assert (box(name, 0), box(name, 2), box(name, 1 << 32)) == (ALLOW,) * 3


@pytest.mark.parametrize(("name", "first"), [("setpriority", 0), ("ioprio_set", 1)])
def test_nobody_sets_the_first_process_back(box: Filter, name: str, first: int) -> None:
    assert (box(name, PROCESS + first, 1), box(name, PROCESS + first | 7 << 32, 1 | 7 << 32)) == (errno.EPERM,) * 2
    assert (box(name, USER + first, 0), box(name, USER + first, 1000)) == (errno.EPERM,) * 2
    assert (box(name, PROCESS + first, 0), box(name, PROCESS + first, 2), box(name, GROUP + first, 1)) == (ALLOW,) * 3


def test_the_machines_store_of_asynchronous_input_is_not_there(box: Filter) -> None:
    assert {box(name) for name in ("io_setup", "io_submit", "io_getevents", "io_destroy")} == {errno.ENOSYS}


# ---------------------------------------------------------------- what the kernel can decide ahead


def test_calls_without_an_argument_check_look_at_no_argument(box: Filter) -> None:
    """The kernel then skips the filter for them (seccomp_cache_prepare, Linux 5.11)."""
    loads = {op.k for op in decode(box.program) if op.code == 0x20}
    assert loads == {0, 4, 16, 24, 32, 36}
    probes = [(2**64 - 1,) * 6, (0x10000000, 0x5412, 0x1000), (1,), (2,), (3,)]
    changed = {name for name in NUMBERS[box.machine] if len({box(name), *(box(name, *probe) for probe in probes)}) > 1}
    assert changed == set(seccomp.CHECKED)
