"""Who runs in the sandbox, from /proc/PID/stat (proc_pid_stat(5))."""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Collection, Iterable
from typing import NamedTuple

__all__ = ["Census", "Process", "doomed", "now"]

_TICKS = os.sysconf("SC_CLK_TCK")
_FAR = 16_384  # half of the default pid_max: farther apart, the numbers have begun again in between


class Process(NamedTuple):
    """One process: `started` in clock ticks since boot, `name` as the process chose it, 15 bytes at most."""

    pid: int
    parent: int
    state: str
    started: int
    name: bytes
    threads: int = 1

    @property
    def dead(self) -> bool:
        """Only waits to be reaped. One whose first thread has ended looks so too, while the others run on."""
        return self.state in "ZX" and self.threads < 2


def parse(text: bytes) -> Process:
    """A process from its line in stat."""
    # The name is in parentheses and may hold anything, so the last one closes it.
    start, end = text.find(b"("), text.rfind(b")")
    fields = text[end + 2 :].split()
    return Process(
        int(text[:start]),
        int(fields[1]),
        fields[0].decode("ascii"),
        int(fields[19]),
        text[start + 1 : end][:15],
        int(fields[17]),
    )


def now() -> int:
    """The present as /proc counts it: clock ticks since boot."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS)


class Census:
    """Looks at /proc as it was mounted when this was made, whatever has that name by now: where `nesting` is allowed, root
    inside can remove the mount point in a tree it has detached, which unmounts it everywhere, and tell lies in its place.
    """

    def __init__(self) -> None:
        self.proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def read(self, pid: str) -> Process | None:
        """The process, None if it is gone."""
        try:
            fd = os.open(f"{pid}/stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.proc)
        except FileNotFoundError:
            return None
        try:
            return parse(os.read(fd, 1024))
        except ProcessLookupError:
            return None
        finally:
            os.close(fd)

    def scan(self, deadline: float = math.inf) -> list[Process]:
        """Everybody, PID 1 included. Raises TimeoutError if not done by `deadline` (of time.monotonic)."""
        found = []
        for name in os.listdir(self.proc):
            process = self.read(name) if name.isdigit() else None
            if process is not None:
                found.append(process)
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        return found

    def alive(self) -> list[Process]:
        """Everybody but PID 1 and the dead that wait to be reaped."""
        return [process for process in self.scan() if process.pid != 1 and not process.dead]


def doomed(everybody: Iterable[Process], target: int, born: int, running: Collection[int]) -> list[int]:
    """Who has to die with a command: its descendants, and every orphan born at or after `born` that is no command of
    its own, with its descendants. The dead that wait to be reaped do not count.
    """
    children: dict[int, list[Process]] = {}
    heads = []
    for process in everybody:
        children.setdefault(process.parent, []).append(process)
        # A tick is long: who was born in the same one is older if its number is lower.
        older = process.started < born or (process.started == born and 0 < target - process.pid < _FAR)
        orphan = process.parent == 1 and process.pid not in running and not older
        if process.pid == target or orphan:
            heads.append(process)
    found = []
    seen = set()
    while heads:
        process = heads.pop()
        if process.pid in seen or process.pid == 1:
            continue
        seen.add(process.pid)
        if not process.dead:
            found.append(process.pid)
        heads += children.get(process.pid, [])
    return found
