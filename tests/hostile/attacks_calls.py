"""System calls: what the filter refuses, and who else would.

What would harm the machine if it worked is tried with arguments that cannot work anywhere: the filter answers before the kernel looks
at them, and its answer is another one.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from attacker import Box
from attacks import AnyOf, Fits, attack
from weakenings import ALL_CAPABILITIES, CORES, NESTABLE, NO_FILTER, NO_LANDLOCK, NO_SESSION

Words = tuple[Any, ...]


def refused(
    name: str, text: str, calls: Mapping[str, Words], *, filtered: Any = None, capable: Any = None, not_shown: str = ""
) -> None:
    """An attack by calls that are all EPERM. `filtered`: the call that another than the filter answers when that is off; `capable`: the one
    that is answered only if the capabilities are there as well.
    """

    def run(box: Box) -> Any:
        return box.attack(f"for name, words in {dict(calls)!r}.items(): answer[name] = call(name, *words)")

    def another_answer(answer: dict[str, str]) -> bool:
        return answer[filtered or capable] != "EPERM"

    run.__name__, run.__doc__, run.__module__ = name, text, __name__
    controls: dict[tuple[str, ...], Any] = {}
    if filtered:
        controls[(NO_FILTER,)] = Fits("the kernel answers", another_answer)
    if capable:
        controls.setdefault((NO_FILTER,), Fits("EPERM", lambda answer: answer[capable] == "EPERM"))
        controls[NO_FILTER, ALL_CAPABILITIES, NO_LANDLOCK] = Fits("it works", lambda answer: answer[capable] != "EPERM")
    stops = "system-call filter" + (", capabilities" if capable else "")
    attack(dict.fromkeys(calls, "EPERM"), stops=stops, controls=controls, not_shown=not_shown)(run)


refused(
    "keeps_keys_of_the_kernel",
    "keyctl, add_key and request_key: keyrings are of no name space.",
    {"keyctl": (0, -3, 0), "add_key": (0, 0, 0, 0, 0), "request_key": (0, 0, 0, 0)},
    filtered="keyctl",
)
refused(
    "loads_programs_into_the_kernel",
    "bpf and perf_event_open.",
    {"bpf": (-1, 0, 0), "perf_event_open": (0, -1, -1, -1, 0)},
    filtered="perf_event_open",
)
refused(
    "makes_calls_by_io_uring",
    "io_uring: calls that no filter sees.",
    {"io_uring_setup": (0, 0), "io_uring_enter": (-1, 0, 0, 0, 0, 0), "io_uring_register": (-1, 0, 0, 0)},
    filtered="io_uring_enter",
)
refused("stops_the_kernel_in_a_page_fault", "userfaultfd.", {"userfaultfd": (-1,)}, filtered="userfaultfd")
refused(
    "opens_files_by_their_number",
    "open_by_handle_at (the way of Shocker), which passes every mount.",
    {"open_by_handle_at": (-100, 0, 0)},
    filtered="open_by_handle_at",
)
refused(
    "takes_descriptors_and_memory_of_others",
    "pidfd_getfd, process_madvise, kcmp, move_pages.",
    {
        "pidfd_getfd": (-1, 0, 0),
        "process_madvise": (-1, 0, 0, 0, 0),
        "kcmp": (1, 1, 0, 0, 0),
        "move_pages": (1, 0, 0, 0, 0, 0),
    },
    filtered="pidfd_getfd",
)
refused(
    "boots_another_kernel_or_loads_a_module",
    "kexec_load, kexec_file_load, init_module, finit_module, delete_module.",
    {
        "kexec_load": (0, 1 << 20, 0, 0),
        "kexec_file_load": (-1, -1, 0, 0, 0),
        "init_module": (0, 0, 0),
        "finit_module": (-1, 0, 0),
        "delete_module": (0, 0),
    },
    not_shown="never against this machine; the second wall is that root inside has no capability outside",
)
refused(
    "stops_or_changes_the_machine",
    "reboot, swapon, swapoff, acct, settimeofday, syslog, vhangup, quotactl, fanotify.",
    {
        "reboot": (0, 0, 0, 0),
        "swapon": (0, 0),
        "swapoff": (0,),
        "acct": (b"/nowhere/x",),
        "settimeofday": (0, 0),
        "clock_settime": (99, 0),
        "syslog": (10, 0, 0),
        "vhangup": (),
        "quotactl": (0, 0, 0, 0),
        "fanotify_init": (-1, 0),
    },
    capable="reboot",
)
refused(
    "renames_the_machine",
    "sethostname and setdomainname.",
    {"sethostname": (0, -1), "setdomainname": (0, -1)},
    capable="sethostname",
)
refused(
    "changes_mounts_and_name_spaces",
    "mount, umount2, pivot_root, unshare, fsopen, open_tree.",
    {
        "mount": (b"x", b"/mnt", b"tmpfs", 0, 0),
        "umount2": (b"/proc/sys", 2),
        "pivot_root": (b".", b"."),
        "unshare": (0x00020000,),
        "fsopen": (b"tmpfs", 0),
        "open_tree": (-100, b"/", 1),
    },
    capable="mount",
)
refused(
    "joins_and_moves_by_descriptor",
    "setns, fsmount, move_mount, mount_setattr.",
    {"setns": (-1, 0), "fsmount": (-1, 0, 0), "move_mount": (-1, b"", -1, b"", 0), "mount_setattr": (-1, b"", 0, 0, 0)},
    filtered="setns",
)


@attack(
    dict.fromkeys(("by unshare", "by clone"), "EPERM"),
    stops="system-call filter, limit of user name spaces",
    controls={
        (NO_FILTER,): {"by unshare": "ENOSPC", "by clone": "ENOSPC"},
        (NO_FILTER, NESTABLE): {"by unshare": "ok", "by clone": "ok"},
    },
)
def makes_a_user_name_space(box: Box) -> Any:
    """A user name space, in which all capabilities are had again."""
    return box.attack(
        """
def child(how):
    pid = os.fork()
    if pid == 0:
        code = how()
        os._exit(0 if code == "ok" else getattr(errno, code))
    return errno.errorcode.get(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), "ok")
answer["by unshare"] = child(lambda: call("unshare", 0x10000000))
answer["by clone"] = child(lambda: call("clone", 0x10000000 | 17, 0, 0, 0, 0))
"""
    )


@attack(
    "ENOSYS",
    stops="system-call filter: clone3's flags lie in memory",
    controls={(NO_FILTER,): "ENOSPC", (NO_FILTER, NESTABLE): "ok"},
)
def makes_a_user_name_space_by_clone3(box: Box) -> Any:
    """A user name space by clone3, whose flags no filter can see."""
    return box.attack(
        """
pid = os.getpid()
answer = call("clone3", struct.pack("=11Q", 0x10000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88)
if os.getpid() != pid:
    os._exit(0)
"""
    )


@attack(
    {"vsock": "EAFNOSUPPORT", "uevents": "EPROTONOSUPPORT", "audit": "EPROTONOSUPPORT", "packet": "EAFNOSUPPORT"},
    stops="system-call filter",
    controls={
        (NO_FILTER,): Fits("uevents: ok", lambda answer: answer["uevents"] == "ok" and answer["packet"] == "EPERM")
    },
)
def opens_sockets_of_the_host(box: Box) -> Any:
    """Sockets of families that no name space holds: VSOCK, kernel events, audit, packets."""
    return box.attack(
        """
for name, words in {"vsock": (40, 1, 0), "uevents": (16, 3, 15), "audit": (16, 3, 9), "packet": (17, 3, 0)}.items():
    answer[name] = tried(socket.socket, *words)
"""
    )


@attack(
    Fits("EPERM throughout", lambda answer: set(answer.values()) == {"EPERM"}),
    stops="system-call filter",
    controls={(NO_FILTER,): Fits("the terminal answers", lambda answer: set(answer.values()) != {"EPERM"})},
)
def types_into_a_terminal(box: Box) -> Any:
    """TIOCSTI and TIOCLINUX on a terminal, with high bits set that the kernel ignores."""
    return box.attack(
        """
main, side = os.openpty()
for name, fd in (("pty", side), ("main", main), ("stream", 1)):
    for upper in (0, 1 << 32):
        answer[f"sti {name} {upper}"] = call("ioctl", fd, 0x5412 | upper, b"x")
        answer[f"linux {name} {upper}"] = call("ioctl", fd, 0x541C | upper, b"\\2")
"""
    )


@attack(
    {"own session": True, "terminal": "ENXIO"},
    stops="setsid for every command",
    controls={(NO_SESSION,): {"own session": False, "terminal": "ENXIO"}},
)
def stays_in_the_session_of_others(box: Box) -> Any:
    """A session or a terminal shared with PID 1 or other commands."""
    return box.attack(
        "answer = {'own session': os.getsid(0) == os.getpid(), 'terminal': tried(os.open, '/dev/tty', os.O_RDWR)}"
    )


@attack(
    [1, 1],
    stops="RLIMIT_CORE, which root inside cannot raise",
    controls={(CORES,): Fits("the host's own limit", lambda answer: answer != [1, 1])},
)
def dumps_core_into_a_program_of_the_host(box: Box) -> Any:
    """The limit that keeps a core dump from starting the host's core_pattern; no core is dumped here."""
    return box.attack(
        """
import resource
try:
    resource.setrlimit(resource.RLIMIT_CORE, (4096, 4096))
except (OSError, ValueError):
    pass
answer = resource.getrlimit(resource.RLIMIT_CORE)
"""
    )


@attack(
    {"code": "EPERM", "swapped": 1} if os.uname().machine == "x86_64" else {"code": "ok", "swapped": 0},
    stops="the filter sees what a tracer made of a call",
    controls={(NO_FILTER,): {"code": "ENOSPC", "swapped": 1}, (NO_FILTER, NESTABLE): {"code": "ok", "swapped": 1}},
    not_shown="" if os.uname().machine == "x86_64" else "the registers of this machine are named otherwise",
)
def swaps_a_call_under_the_filter(box: Box) -> Any:
    """A tracer turns its child's getppid into unshare of a user name space."""
    return box.attack(
        """
PTRACE_TRACEME, PTRACE_SYSCALL, PTRACE_PEEKUSER, PTRACE_POKEUSER = 0, 24, 3, 6
ORIG_RAX = 15 * 8
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long] * 4
pid = os.fork()
if pid == 0:
    libc.ptrace(PTRACE_TRACEME, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(numbers["getppid"]), ctypes.c_long(0x10000000))
    os._exit(ctypes.get_errno() if result < 0 else 0)
os.waitpid(pid, 0)
swapped = 0
while True:
    libc.ptrace(PTRACE_SYSCALL, pid, 0, 0)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status):
        answer["code"] = errno.errorcode.get(os.WEXITSTATUS(status), "ok")
        break
    if os.uname().machine == "x86_64" and not swapped and libc.ptrace(PTRACE_PEEKUSER, pid, ORIG_RAX, 0) == numbers["getppid"]:
        libc.ptrace(PTRACE_POKEUSER, pid, ORIG_RAX, numbers["unshare"])
        swapped = 1
answer["swapped"] = swapped
"""
    )


@attack(
    "SIGSYS" if os.uname().machine == "x86_64" else "SIGILL",
    stops="the filter kills calls of another architecture",
    controls={(NO_FILTER,): AnyOf("ran", "SIGSEGV")},
    not_shown="" if os.uname().machine == "x86_64" else "there is no such call on this machine",
)
def makes_32_bit_calls(box: Box) -> Any:
    """int 0x80 on x86-64, which numbers calls in another way."""
    code = """
import ctypes, mmap
memory = mmap.mmap(-1, 4096, prot=7)
memory.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
"""
    status = box.run([sys.executable, "-I", "-c", code]).returncode
    return signal.Signals(-status).name if status < 0 else "ran"
