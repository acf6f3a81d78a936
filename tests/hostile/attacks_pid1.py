"""PID 1 of a sandbox: killed, stopped, read, robbed of its sockets, starved."""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Any

from attacker import Box, is_gone
from attacks import By, attack
from weakenings import DUMPABLE, NO_FILTER
from weakenings_bounds import IPC_UNBOUNDED, LAST_TO_GO, LISTENS, NO_ROOM, PIPES_FOR_ALL

from pytest_airlock.errors import ProviderError, SandboxDied

DIED = "the sandbox died"
HONEST = {"streams": {"EACCES"}, "read": "as it is"}
FORGED = {"streams": {"ok"}, "read": "forged"}


def survives(box: Box, script: str) -> Any:
    """What the attack says, or that the sandbox died of it; it must still take commands."""
    try:
        answer = box.attack(script)
        assert box.run("echo alive").out == "alive\n"
    except (SandboxDied, AssertionError):
        life = box.provider._boxes[box.name].life
        assert life is not None
        assert is_gone(life.pidfd)
        return DIED
    return answer


@attack("alive", stops="the kernel: PID 1 handles no signal", controls={(LISTENS,): DIED})
def sends_the_first_process_all_signals(box: Box) -> Any:
    """Every signal to PID 1, and a flood of those that it does wait for."""
    return survives(
        box,
        """
for number in range(1, 65):
    if number not in (32, 33): tried(os.kill, 1, number)
for _ in range(20_000): tried(os.kill, 1, signal.SIGCHLD)
answer = "alive"
""",
    )


@attack(
    {"taken": 0},
    stops="system-call filter, then PID 1 not dumpable",
    controls={(NO_FILTER,): {"taken": 0}, (NO_FILTER, DUMPABLE): DIED},
)
def closes_the_sockets_of_the_first_process(box: Box) -> Any:
    """Take PID 1's descriptors with pidfd_getfd and shut its sockets down."""
    return survives(
        box,
        """
answer["taken"] = 0
first = os.pidfd_open(1)
for number in range(3, 32):
    fd = libc.syscall(ctypes.c_long(numbers["pidfd_getfd"]), first, number, 0)
    if fd >= 0:
        answer["taken"] += 1
        try: socket.socket(fileno=fd).shutdown(socket.SHUT_RDWR)
        except OSError: pass
""",
    )


@attack("EACCES", stops="PID 1 not dumpable", controls={(DUMPABLE,): "ok"})
def opens_the_memory_of_the_first_process(box: Box) -> Any:
    """Open /proc/1/mem to write."""
    return box.attack("answer = tried(os.open, '/proc/1/mem', os.O_RDWR)")


@attack(
    {"NOFILE": "EPERM", "NPROC": "EPERM", "AS": "EPERM", "CPU": "EPERM"},
    stops="system-call filter",
    controls={(NO_FILTER,): DIED},
    users=("root",),
)
def takes_the_limits_of_the_first_process_away(box: Box) -> Any:
    """prlimit(2) of PID 1: no descriptor, no process, no memory, no processor time."""
    return survives(
        box,
        """
import resource
for name in ("NOFILE", "NPROC", "AS", "CPU"):
    kind = getattr(resource, "RLIMIT_" + name)
    answer[name] = tried(resource.prlimit, 1, kind, (1, 1))
""",
    )


@attack(
    {"nice": "EPERM", "idle": "EPERM", "cpu": "EPERM"},
    stops="system-call filter",
    controls={(NO_FILTER,): {"nice": "ok", "idle": "ok", "cpu": "ok"}},
    users=("root",),
)
def puts_the_first_process_behind_all_others(box: Box) -> Any:
    """Make PID 1 the last to get a processor, so that a time-out comes late."""
    return box.attack(
        """
answer["nice"] = tried(os.setpriority, os.PRIO_PROCESS, 1, 19)
answer["idle"] = tried(os.sched_setscheduler, 1, os.SCHED_IDLE, os.sched_param(0))
answer["cpu"] = tried(os.sched_setaffinity, 1, {min(os.sched_getaffinity(0))})
"""
    )


@attack(
    HONEST,
    stops="workers of file calls not dumpable; as root their pipes are nobody's inside",
    controls={
        (DUMPABLE,): By(FORGED, root=HONEST),
        (DUMPABLE, PIPES_FOR_ALL): FORGED,
    },
    users=("root",),
)
def forges_the_answer_of_a_file_call(box: Box) -> Any:
    """Open the streams of a worker that is at work and write frames of one's own."""
    box.run("mkdir /opt/t; head -c 3000000 /dev/zero > /opt/t/zero")
    entries = box.provider.export_tree(box.handle, "/opt/t", limit=10_000_000)
    next(entries)  # its worker waits for us to read on
    answer = box.attack(
        """
answer["streams"] = []
for name in os.listdir("/proc"):
    if not name.isdigit() or int(name) in (1, os.getpid()): continue
    code = tried(lambda: os.write(os.open(f"/proc/{name}/fd/4", os.O_WRONLY | os.O_NONBLOCK), b"\\1\\0\\0\\0\\1forged"))
    answer["streams"].append("ok" if code in ("ok", "EAGAIN") else code)
"""
    )
    # What was forged comes between what the worker says, as soon as there is room in the pipe.
    forger = box.python(
        """
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) not in (1, os.getpid()):
        try: fd = os.open(f"/proc/{name}/fd/4", os.O_WRONLY)
        except OSError: continue
        os.kill(int(name), signal.SIGSTOP)
        print("ready", flush=True)
        os.write(fd, b"forged" * 10_000)
        os.kill(int(name), signal.SIGCONT)
print("ready", flush=True)
"""
    )
    return {
        "streams": set(answer["streams"]),
        "read": _finish(lambda: [b"".join(entry.chunks) for entry in entries], forger),
    }


def _finish(read: Callable[[], list[bytes]], forger: Any) -> str:
    try:
        return "as it is" if read() == [bytes(3_000_000)] else "forged"
    except ProviderError:
        return "forged"
    finally:
        forger.kill_tree()


@attack(
    "no room",
    stops="PID 1 counts its descriptors",
    controls={(NO_ROOM,): DIED},
    users=("root",),
)
def has_the_first_process_hold_more_commands_than_it_can(box: Box) -> Any:
    """As many commands at once as PID 1 may have descriptors."""
    words: dict[str, Any] = {"stdin": "null", "stdout": "null", "stderr": "null"}
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, own[1]), own[1]))
    try:
        for _ in range(1100):
            box.spawn(["/bin/sleep", "1000"], **words)
    except BlockingIOError:
        box.spawned[0].kill_tree()
        assert box.run("echo alive").out == "alive\n"
        return "no room"
    except (SandboxDied, ProviderError):
        return DIED
    finally:
        for process in box.spawned:
            process.close()
        box.spawned.clear()
        resource.setrlimit(resource.RLIMIT_NOFILE, own)
    return "room for all"


@attack(
    {"semaphores": "ENOSPC", "queues": "ENOSPC", "raise": ["EROFS", "EROFS"]},
    stops="limits of the IPC name space",
    controls={(IPC_UNBOUNDED,): {"semaphores": "ok", "queues": "ok", "raise": ["EROFS", "EROFS"]}},
)
def fills_the_kernels_memory_with_system_v_ipc(box: Box) -> Any:
    """Semaphores and message queues beyond a few megabytes: they count for no process, so the kernel would end others for them."""
    return box.attack(
        """
codes = [call("semget", 0, 32000, 0o600) for _ in range(3)]
answer["semaphores"] = codes[-1]
codes = [call("msgget", 0, 0o600) for _ in range(200)]
answer["queues"] = codes[-1]
answer["raise"] = [wrote("/proc/sys/kernel/" + name, b"32000") for name in ("sem", "msgmni")]
"""
    )


@attack(
    {"all": [900, 1000], "lower": "ok", "below": "EACCES"},
    stops="oom_score_adj of the first process and of commands; below what the host's own have nobody gets",
    controls={(LAST_TO_GO,): {"all": [0], "lower": "ok", "below": "EACCES"}},
)
def lets_others_die_for_its_memory(box: Box) -> Any:
    """Be the kernel's last choice when memory runs out: what it is told of all inside, and if it can be lowered."""
    return box.attack(
        """
answer["all"] = sorted({int(open(f"/proc/{name}/oom_score_adj").read()) for name in os.listdir("/proc") if name.isdigit()})
answer["lower"] = wrote("/proc/self/oom_score_adj", b"0")
answer["below"] = wrote("/proc/self/oom_score_adj", b"-1")
"""
    )
