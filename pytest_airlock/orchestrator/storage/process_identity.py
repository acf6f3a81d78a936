"""Who is this process, and is that one dead? A pid alone proves nothing: it is reused, and differs by namespace."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime
from functools import lru_cache
from typing import Literal

from pytest_airlock.models import Owner

__all__ = ["Verdict", "current_owner", "describe", "start_time", "verdict"]

#: "unknown": from here the pid means nothing (another boot, machine or pid namespace); then only the lease can tell.
Verdict = Literal["alive", "dead", "unknown"]

# proc_pid_stat(5), counted from the field after the command name: state, num_threads, starttime.
_STATE, _NUM_THREADS, _STARTTIME = 0, 17, 19


def current_owner(*, run_id: str = "", worker: str = "", test: str = "") -> Owner:
    """The calling process as an Owner."""
    boot_id, namespace = _place()
    pid = os.getpid()
    return Owner(
        pid=pid,
        start_time=start_time(pid) or 0,
        boot_id=boot_id,
        pid_namespace=namespace,
        run_id=run_id,
        worker=worker,
        test=test,
    )


def describe(owner: Owner) -> dict[str, object]:
    """What an error says about an owner; empty fields are left out there."""
    return {"pid": owner.pid, "worker": owner.worker, "test": owner.test, "run": owner.run_id}


def verdict(owner: Owner) -> Verdict:
    """Is the owner dead? "dead" and "alive" are proofs."""
    if (owner.boot_id, owner.pid_namespace) != _place():
        return "unknown"
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return "dead"
    except PermissionError:
        pass  # somebody else's by now, or still ours with other ids: the start time decides
    started = start_time(owner.pid)
    if started is None:
        return "dead"
    if not owner.start_time:
        return "alive"  # it could not read its own start time, and its pid is in use
    return "alive" if started == owner.start_time else "dead"


def start_time(pid: int) -> int | None:
    """When `pid` started: clock ticks since boot (Linux) or seconds since the epoch; None if it is gone or a zombie."""
    return _start_from_proc(pid) if sys.platform == "linux" else _start_from_ps(pid)


def _start_from_proc(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name is in parentheses and may hold spaces and parentheses itself.
    fields = stat[stat.rindex(b")") + 1 :].split()
    # A zombie runs nothing any more; a leader that ended before its threads is shown as one, but they live.
    if fields[_STATE] in (b"Z", b"X") and int(fields[_NUM_THREADS]) <= 1:
        return None
    return int(fields[_STARTTIME])


def _start_from_ps(pid: int) -> int | None:
    done = subprocess.run(
        ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        env={"LC_ALL": "C", "TZ": "UTC"},
        check=False,
    )
    state, _, started = done.stdout.strip().partition(" ")
    if not started or state.startswith("Z"):
        return None
    moment = datetime.strptime(f"{started.strip()} +0000", "%a %b %d %H:%M:%S %Y %z")
    return int(moment.timestamp())


def _place() -> tuple[str, int]:
    """Boot id and pid namespace: where a pid means something. Asked per pid: unshare happens at fork."""
    return _place_of(os.getpid())


@lru_cache(maxsize=1)
def _place_of(pid: int) -> tuple[str, int]:
    del pid  # the key of the cache
    if sys.platform == "linux":
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip(), os.stat("/proc/self/ns/pid").st_ino
    else:
        return _boot_session(), 0


def _boot_session() -> str:
    done = subprocess.run(
        ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
