"""What a run has, and what it left: processes, mounts, descriptors, cgroups, files, id ranges, memory."""

from __future__ import annotations

import os
import runpy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

_leaves_nothing = runpy.run_path(str(Path(__file__).parents[2] / ".ci" / "leaves_nothing.py"))
mounts: Callable[[], set[str]] = _leaves_nothing["mounts"]
orphans: Callable[[float], list[str]] = _leaves_nothing["remaining"]
command_of: Callable[[int], str] = _leaves_nothing["command_of"]
_cgroups: Callable[[], set[str]] = _leaves_nothing["cgroups"]

_SERVER = "from engine.server import main"


class Counts(NamedTuple):
    """Of the test process, its fork server, the network process and the sandboxes; memory in KiB, the anonymous pages of each."""

    processes: int
    mounts: int
    client_fds: int
    server_fds: int
    network_fds: int
    threads: int
    id_ranges: int
    cgroups: int
    files: int
    client_kib: int
    server_kib: int
    network_kib: int


def count(directories: tuple[Path, ...]) -> Counts:
    """Of this process. What is being cleared away this very moment does not count: it is read until it stays the same."""
    me = os.getpid()
    (server,) = [pid for pid in children(me) if is_server(pid)]
    network = network_process(server)
    before: tuple[int, ...] = ()
    for _ in range(500):
        now = (
            len(list(descendants(me))),
            len(Path(f"/proc/{server}/mountinfo").read_text().splitlines()),
            _fds(me),
            _fds(server),
            _fds(network),
            len(os.listdir(f"/proc/{me}/task")),
            _id_ranges(server),
            sum(f"-{server}-" in group for group in _cgroups()),
            sum(not path.is_dir() for directory in directories for path in directory.rglob("*")),
        )
        if now == before:
            break
        before = now
        time.sleep(0.02)
    return Counts(*now, anonymous_kib(me), anonymous_kib(server), anonymous_kib(network))


def is_server(pid: int) -> bool:
    return _SERVER in command_of(pid)


def network_process(server: int) -> int:
    """The child of a fork server that waits by epoll(7)."""
    (found,) = [pid for pid in children(server) if not inside(pid) and "anon_inode:[eventpoll]" in _open(pid)]
    return found


def _open(pid: int) -> set[str]:
    return {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()}


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it ended
        return []


def descendants(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from descendants(child)


def servers_below(pid: int) -> list[int]:
    return [found for found in descendants(pid) if _SERVER in command_of(found) and not inside(found)]


def inside(pid: int) -> bool:
    """It is in a pid name space below ours: a process of a sandbox."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    levels = next((len(line.split()) for line in status.splitlines() if line.startswith("NSpid:")), 0)
    return levels > _OWN_LEVELS


def anonymous_kib(pid: int) -> int:
    """All that a process has of its own making, shared with forked children or not (smaps_rollup, proc(5))."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def abandoned_cgroups() -> set[str]:
    """Groups of makers that are dead; their names say whose they are."""
    found = set()
    for path in _cgroups():
        words = os.path.basename(path).split("-")
        if len(words) > 3 and words[2].isdigit() and not os.path.exists(f"/proc/{words[2]}"):
            found.add(path)
    return found


def _fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _id_ranges(server: int) -> int:
    """Leases of id ranges, abstract sockets, that the server holds."""
    held = set()
    for fd in os.listdir(f"/proc/{server}/fd"):
        try:
            held.add(os.readlink(f"/proc/{server}/fd/{fd}"))
        except FileNotFoundError:
            continue
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return sum(row[-1].startswith("@airlock-ids-") and f"socket:[{row[-2]}]" in held for row in rows)


_OWN_LEVELS = len(
    next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("NSpid:")).split()
)
