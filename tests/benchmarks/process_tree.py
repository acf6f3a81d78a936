"""What /proc tells of this process and of all below it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def descendants(pid: int) -> Iterator[int]:
    """Children, their children and so on, as far as they are still there."""
    for task in _entries(Path(f"/proc/{pid}/task")):
        for child in _read(task / "children").split():
            yield int(child)
            yield from descendants(int(child))


def is_init(pid: int) -> bool:
    """PID 1 of a name space below ours: NSpid of its status ends with 1 (proc(5)). False if it is gone."""
    words = next((line.split() for line in _read(Path(f"/proc/{pid}/status")).splitlines() if line[:6] == "NSpid:"), [])
    return len(words) > 2 and words[-1] == "1"


def unique_set_size(pid: int) -> int:
    """Bytes that only this process holds, 0 if it is gone. Raises PermissionError where we may not look at it."""
    rollup = _read(Path(f"/proc/{pid}/smaps_rollup"))
    return sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Private_"))


def kernel_memory(meminfo: str) -> int:
    """Bytes the kernel holds for itself and for shared memory, by the text of /proc/meminfo. Of the whole machine."""
    held = ("Slab:", "KernelStack:", "PageTables:", "Percpu:", "Shmem:")
    return sum(int(line.split()[1]) * 1024 for line in meminfo.splitlines() if line.startswith(held))


def open_files(pid: int) -> int:
    return len(list(_entries(Path(f"/proc/{pid}/fd"))))


def mounts(pids: Iterable[int]) -> int:
    """Of all mount name spaces these are in, each counted once."""
    spaces = {_link(Path(f"/proc/{pid}/ns/mnt")): pid for pid in pids}
    return sum(len(_read(Path(f"/proc/{pid}/mountinfo")).splitlines()) for pid in spaces.values())


def _entries(directory: Path) -> list[Path]:
    try:
        return [directory / name for name in os.listdir(directory)]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _read(path: Path) -> str:
    """Empty if the process is gone."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _link(path: Path) -> str:
    """Empty if the process is gone. Raises PermissionError where we may not look at it."""
    try:
        return str(path.readlink())
    except (FileNotFoundError, ProcessLookupError):
        return ""
