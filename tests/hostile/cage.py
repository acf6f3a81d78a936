"""The outer net of exhaustion tests: were the product to fail, the kernel still stops at a bound that the machine can bear.

Where version 1 control groups can be written, the test process, and with it everything it starts from then on, is in groups of its
own for memory and processes. Elsewhere the limit of processes of the test process is lowered: it also bounds, in all, the user
name spaces that are made under it (since Linux 5.14). Either way what is in a sandbox is the kernel's first choice when memory runs
out. Start the fork server inside.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["MEMORY", "PROCESSES", "cage"]

MEMORY = 6 * 1024**3
#: Beside what runs already.
PROCESSES = 6000
_ROOT = Path("/sys/fs/cgroup")
_LIMITS = {"memory": ("memory.limit_in_bytes", MEMORY), "pids": ("pids.max", PROCESSES)}


@contextlib.contextmanager
def cage() -> Iterator[str]:
    """Says what holds: "control groups" or "limit of processes"."""
    homes = _homes()
    with contextlib.ExitStack() as stack:
        if set(homes) == set(_LIMITS):
            for controller, home in homes.items():
                stack.enter_context(_group(home, *_LIMITS[controller]))
            yield "control groups"
            return
        limits = resource.getrlimit(resource.RLIMIT_NPROC)
        stack.callback(resource.setrlimit, resource.RLIMIT_NPROC, limits)
        most = _running() + PROCESSES
        soft = most if limits[0] == resource.RLIM_INFINITY else min(limits[0], most)
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, limits[1]))
        yield "limit of processes"


@contextlib.contextmanager
def _group(home: Path, name: str, value: int) -> Iterator[None]:
    for left in home.glob("airlock-cage-*"):
        with contextlib.suppress(OSError):
            left.rmdir()  # of a test run that the net has caught
    group = home / f"airlock-cage-{os.getpid()}"
    group.mkdir()
    try:
        (group / name).write_text(str(value))
        (group / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            (home / "cgroup.procs").write_text(str(os.getpid()))
    finally:
        _remove(group)


def _remove(group: Path, patience: float = 10) -> None:
    """Members may still be on their way out: a group counts them until they are reaped."""
    end = time.monotonic() + patience
    while True:
        try:
            group.rmdir()
        except OSError:
            if time.monotonic() > end:
                raise
            os.sched_yield()
        else:
            return


def _homes() -> dict[str, Path]:
    """Our own group of each controller, where a group can be made below it (cgroups(7), /proc/PID/cgroup)."""
    found = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in set(controllers.split(",")) & set(_LIMITS):
            home = _ROOT / controller / path.lstrip("/")
            if os.access(home, os.W_OK) and (home / "cgroup.procs").exists():
                found[controller] = home
    return found


def _running() -> int:
    """Processes and threads of this user, which is what RLIMIT_NPROC counts."""
    count = 0
    for status in Path("/proc").glob("[0-9]*"):
        try:
            if status.stat().st_uid == os.getuid():
                count += len(os.listdir(status / "task"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return count
