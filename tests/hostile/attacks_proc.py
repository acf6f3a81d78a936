"""Settings and secrets of the kernel in /proc, PID 1, and other processes."""

from __future__ import annotations

from typing import Any

from attacker import Box
from attacks import AnyOf, Fits, attack
from weakenings import DUMPABLE, HOST_PROC, NO_MASKS, WRITABLE_PROC

#: Every file is opened for writing; nothing is written to any.
OPEN_ALL = """
answer = []
for top, _, names in os.walk("/proc/sys"):
    for name in names:
        path = os.path.join(top, name)
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            continue
        answer.append(path.removeprefix("/proc/sys/"))
"""


def own_settings_only(answer: list[str]) -> bool:
    """The second wall: the rest belongs to the host's root, who has no id inside."""
    return bool(answer) and {path.split("/")[0] for path in answer} <= {"net", "user", "kernel", "fs"}


@attack(
    [],
    stops="/proc/sys is read-only; the host's settings belong to an id that does not exist inside",
    controls={(WRITABLE_PROC,): Fits("settings of its own name spaces", own_settings_only)},
    control_user="root",
)
def writes_settings_of_the_kernel(box: Box) -> Any:
    """Every file below /proc/sys: core_pattern, modprobe, binfmt_misc and all."""
    return box.attack(OPEN_ALL)


TRIGGERS = (
    *(
        "sysrq-trigger",
        "irq/default_smp_affinity",
        "bus/pci/devices",
        "kmsg",
        "kcore",
        "kpagecount",
        "mtrr",
        "acpi/wakeup",
    ),
    *("fs/nfsd/unlock_fs", "scsi/scsi", "latency_stats", "sys/kernel/core_pattern", "sys/kernel/modprobe"),
    *("sys/fs/binfmt_misc/register", "sys/kernel/sysrq", "sys/vm/drop_caches"),
)


@attack(
    [],
    stops="masks, read-only mounts; they belong to the host's root",
    not_shown="never against this machine: sysrq, core_pattern, modprobe",
)
def pulls_the_triggers_of_the_machine(box: Box) -> Any:
    """sysrq-trigger, core_pattern, modprobe, binfmt_misc, drop_caches: opened for writing."""
    return box.attack(
        f"""
answer = []
for name in {TRIGGERS!r}:
    try:
        fd = os.open("/proc/" + name, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        continue
    answer.append(name)
    os.close(fd)
"""
    )


HIDDEN = ("acpi", "keys", "interrupts", "timer_list", "scsi", "sched_debug", "latency_stats", "kcore")


@attack(
    0,
    stops="an empty file or directory of its own over each",
    controls={(NO_MASKS,): Fits("what the kernel tells", lambda answer: answer > 0)},
)
def reads_what_the_kernel_tells_of_the_machine(box: Box) -> Any:
    """Keys, interrupts, timers, devices in /proc: how many bytes and entries."""
    return box.attack(
        f"""
count = 0
for name in {HIDDEN!r}:
    path = "/proc/" + name
    try:
        count += len(os.listdir(path)) if os.path.isdir(path) else len(open(path, "rb").read(100))
    except OSError:
        continue
answer = count
"""
    )


@attack(
    {"addresses": [], "kernel log": AnyOf("EPERM", "EACCES"), "syslog": "EPERM", "page map": 0},
    stops="the kernel: no capability of the host; system-call filter",
    not_shown="the kernel shows them to capabilities of the first user name space only",
)
def reads_addresses_of_the_kernel(box: Box) -> Any:
    """kallsyms, kmsg, the log, physical pages."""
    return box.attack(
        """
lines = open("/proc/kallsyms").readlines()[:1000] if os.path.exists("/proc/kallsyms") else []
answer["addresses"] = sorted({line.split()[0] for line in lines if int(line.split()[0], 16)})
answer["kernel log"] = tried(os.open, "/proc/kmsg", os.O_RDONLY | os.O_NONBLOCK)
answer["syslog"] = call("syslog", 3, ctypes.create_string_buffer(100), 100)
data = bytearray(8)
fd = os.open("/proc/self/pagemap", os.O_RDONLY)
here = ctypes.addressof(ctypes.c_char.from_buffer(data)) // 4096
answer["page map"] = struct.unpack("=Q", os.pread(fd, 8, here * 8))[0] & (1 << 55) - 1
"""
    )


@attack(
    Fits("EACCES or EPERM throughout", lambda answer: set(answer.values()) <= {"EACCES", "EPERM"}),
    stops="PID 1 is not dumpable; system-call filter for its limits",
    # A host's yama (ptrace_scope) may stand before attach, seize and memory.
    controls={
        (DUMPABLE,): Fits("environ: ok", lambda answer: answer["environ"] == "ok" and answer["limits"] == "EPERM")
    },
)
def takes_hold_of_pid_1(box: Box) -> Any:
    """ptrace, process_vm_readv and writev, /proc/1/mem, its limits, its name spaces by pidfd."""
    return box.attack(
        """
PTRACE_SEIZE = 0x4206
buffer = ctypes.create_string_buffer(8)
vector = struct.pack("=QQ", ctypes.addressof(buffer), 8)
answer["environ"] = tried(lambda: open("/proc/1/environ", "rb").read())
answer["read"] = call("process_vm_readv", 1, vector, 1, vector, 1, 0)
answer["write"] = call("process_vm_writev", 1, vector, 1, struct.pack("=QQ", 0, 8), 1, 0)
if answer["write"] == "EFAULT":
    answer["write"] = "ok"
answer["mem"] = tried(lambda: os.close(os.open("/proc/1/mem", os.O_RDONLY)))
answer["limits"] = call("prlimit64", 1, 7, struct.pack("=QQ", 1, 1), 0)
pidfd = os.pidfd_open(1)
answer["getfd"] = call("pidfd_getfd", pidfd, 0, 0)
answer["seize"] = call("ptrace", PTRACE_SEIZE, 1, 0, 0)
"""
    )


@attack(
    [],
    stops="the files of PID 1 belong to the host's root, as it is not dumpable",
    controls={(DUMPABLE,): Fits("some are", lambda answer: "oom_score_adj" in answer)},
    control_user="root",
)
def writes_to_files_of_pid_1(box: Box) -> Any:
    """Every file of /proc/1 is written to: oom_score_adj, comm, autogroup, attr, timers."""
    return box.attack(
        """
answer = []
for top, _, names in os.walk("/proc/1"):
    for name in names:
        path = os.path.join(top, name)
        if os.path.islink(path) or "/net/" in path or wrote(path, b"1") != "ok":
            continue
        answer.append(path.removeprefix("/proc/1/"))
"""
    )


@attack(
    "alive",
    stops="the kernel: signals from inside do not reach PID 1 of a name space",
    not_shown="the kernel's own rule",
)
def signals_pid_1(box: Box) -> Any:
    """Every signal to PID 1 and to all."""
    box.attack("for number in range(1, 65):\n    if number not in (32, 33): tried(os.kill, 1, number)")
    box.run("kill -STOP 1; kill -KILL 1; kill -SEGV 1; kill -KILL -1")
    return box.run("echo alive").out.strip()


@attack(
    Fits(
        "EACCES, EPERM, ENOTTY throughout",
        lambda answer: set(answer.values()) <= {"EACCES", "EPERM", "ENOTTY", "EINVAL"},
    ),
    stops="the kernel: name spaces above one's own are not given",
    controls={(DUMPABLE,): Fits("by pidfd: ok", lambda answer: "ok" in [answer["pidfd mnt"], answer["ns of 1"]])},
    users=("root",),
)
def climbs_to_the_name_spaces_above(box: Box) -> Any:
    """NS_GET_PARENT of its user and pid name spaces, NS_MNT_GET_NEXT, and those of PID 1 by pidfd."""
    return box.attack(
        """
import fcntl
NS_GET_USERNS, NS_GET_PARENT, NS_MNT_GET_NEXT = 0xB701, 0xB702, 0x8010B70B
def ask(fd, number):
    return tried(lambda: os.close(fcntl.ioctl(fd, number)))
for name in ("user", "pid"):
    fd = os.open(f"/proc/self/ns/{name}", os.O_RDONLY)
    answer[f"parent {name}"] = ask(fd, NS_GET_PARENT)
answer["owner of user"] = ask(os.open("/proc/self/ns/user", os.O_RDONLY), NS_GET_USERNS)
answer["next mnt"] = ask(os.open("/proc/self/ns/mnt", os.O_RDONLY), NS_MNT_GET_NEXT)
answer["ns of 1"] = tried(lambda: os.close(os.open("/proc/1/ns/mnt", os.O_RDONLY)))
pidfd = os.pidfd_open(1)
PIDFD_GET_MNT_NAMESPACE, PIDFD_GET_USER_NAMESPACE = 0xFF03, 0xFF09
answer["pidfd mnt"] = ask(pidfd, PIDFD_GET_MNT_NAMESPACE)
answer["pidfd user"] = ask(pidfd, PIDFD_GET_USER_NAMESPACE)
"""
    )


@attack(
    {"/": True, "names": []},
    stops="a cgroup name space; a /proc of its own",
    controls={
        (HOST_PROC,): Fits("names of the host's groups", lambda answer: answer["names"] != [] or not answer["/"])
    },
    not_shown="",
    users=("root",),
)
def reads_the_names_of_control_groups(box: Box) -> Any:
    """/proc/*/cgroup: where in the host's tree it runs."""
    return box.attack(
        """
import glob
paths = {line.strip().split(":", 2)[2] for name in glob.glob("/proc/[0-9]*/cgroup") for line in open(name)}
answer["/"] = "/" in paths
answer["names"] = sorted(path for path in paths if path != "/")[:3]
"""
    )


def _victim(box: Box) -> tuple[Box, Any]:
    other = box.another()
    other.user = box.user
    return other, other.python("secret = b'neighbour'\nprint('ready', flush=True)\nsignal.pause()")


@attack(
    {"signalled": [], "traced": [], "read": [], "alive": True},
    stops="a pid name space: there is no number for a process of another",
    not_shown="pid name spaces cannot be left out: the proof that a sandbox is dead rests on them",
)
def reaches_processes_of_a_neighbour(box: Box) -> Any:
    """kill, pidfd_open, ptrace and process_vm_readv of every number up to 5000 but its own."""
    _, process = _victim(box)
    answer = box.attack(
        """
mine = {1, os.getpid()}
answer.update(signalled=[], traced=[], read=[])
buffer = ctypes.create_string_buffer(8)
vector = struct.pack("=QQ", ctypes.addressof(buffer), 8)
for pid in range(2, 5000):
    if pid in mine:
        continue
    if tried(os.kill, pid, 9) != "ESRCH":
        answer["signalled"].append(pid)
    if call("ptrace", 16, pid, 0, 0) != "ESRCH":
        answer["traced"].append(pid)
    if call("process_vm_readv", pid, vector, 1, vector, 1, 0) != "ESRCH":
        answer["read"].append(pid)
os.kill(-1, 9) if False else None
"""
    )
    return {**answer, "alive": process.poll() is None}
