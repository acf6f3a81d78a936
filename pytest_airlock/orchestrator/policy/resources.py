"""Has this machine what is asked for: processors, memory, disk.

Processors: affinity and cgroup quota. Memory: /proc/meminfo and cgroup limits, of both versions and of every level up
to the mount point. Disk: sandboxes keep what they write on tmpfs, so disk *is* memory unless a directory is named.
Sources: cgroups(7), Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst of the kernel, proc(5).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from pytest_airlock.errors import InsufficientResources
from pytest_airlock.orchestrator.contracts import Need

__all__ = ["HostResources", "format_size"]

Resource = Literal["cpu", "memory", "disk"]
_RESOURCES: tuple[Resource, ...] = ("cpu", "memory", "disk")

#: cgroup v1 says "no limit" with the largest multiple of the page size below 2**63.
_UNLIMITED = 2**60


class _Group(NamedTuple):
    """One level of a cgroup hierarchy: its directory, and 1 or 2."""

    directory: Path
    version: int


class HostResources:
    """Reads the machine anew at every question (contracts.ResourceChecker).

    `root` is where /proc and /sys are found; `processors` answers how many this process may use; `disk` is the
    directory sandboxes write to, None = tmpfs.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] = "/",
        *,
        processors: Callable[[], int] | None = None,
        disk: str | os.PathLike[str] | None = None,
    ) -> None:
        self._root = Path(root)
        self._processors = processors or _affinity
        self._disk = disk

    def ceiling(self) -> Mapping[str, int]:
        """cpu in processors (at least 1), memory and disk in bytes: all there is if nothing else ran."""
        memory = self._total_memory()
        return {"cpu": self._cpu(), "memory": memory, "disk": self._disk_of(memory, total=True)}

    def check(self, need: Need, held: Iterable[Need]) -> None:
        """Raises InsufficientResources for the first of cpu, memory, disk that does not fit beside `held`.

        What others hold but do not use yet counts as gone; what anybody uses, sandbox or not, too.
        """
        others = [other for other in held if other.name != need.name]
        ceiling = self.ceiling()
        for resource in _RESOURCES:
            wanted = getattr(need, resource)
            if wanted is None:
                continue
            if wanted > ceiling[resource]:
                raise _too_much(resource, wanted, ceiling[resource])
            free = min(ceiling[resource] - _held(resource, others, self._disk), self._free(resource))
            if wanted > free:
                holders = [other.name for other in others if _held(resource, [other], self._disk)]
                raise _not_now(resource, wanted, max(free, 0), holders)

    def clamp(self, need: Need) -> Need:
        """`need` with each set value lowered to the ceiling."""
        ceiling = self.ceiling()
        lowered = {
            resource: min(wanted, ceiling[resource])
            for resource in _RESOURCES
            if (wanted := getattr(need, resource)) is not None
        }
        return dataclasses.replace(need, **lowered)

    def _free(self, resource: Resource) -> int:
        if resource == "cpu":
            return self._cpu()
        memory = self._available_memory()
        return memory if resource == "memory" else self._disk_of(memory, total=False)

    def _disk_of(self, memory: int, *, total: bool) -> int:
        if self._disk is None:
            return memory
        found = os.statvfs(self._disk)
        # f_bavail leaves out what only root may use.
        return found.f_frsize * (found.f_blocks if total else found.f_bavail)

    def _cpu(self) -> int:
        quotas = [quota for group in self._groups("cpu") if (quota := _quota(group)) is not None]
        return max(1, int(min([float(self._processors()), *quotas])))

    def _total_memory(self) -> int:
        return min([self._meminfo("MemTotal"), *(limit for limit, _ in self._memory_limits())])

    def _available_memory(self) -> int:
        rooms = [max(0, limit - used) for limit, used in self._memory_limits()]
        return min([self._meminfo("MemAvailable"), *rooms])

    def _memory_limits(self) -> Iterator[tuple[int, int]]:
        """(limit, what is used and cannot be dropped) of each level that has a limit."""
        for group in self._groups("memory"):
            names = ("memory.max", "memory.current", "inactive_file")
            if group.version == 1:
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            limit = _number(_read(group.directory / names[0]))
            if limit is None or limit >= _UNLIMITED:
                continue
            used = _number(_read(group.directory / names[1])) or 0
            cache = _field(_read(group.directory / "memory.stat"), names[2]) or 0
            yield limit, max(0, used - cache)

    def _meminfo(self, field: str) -> int:
        kibibytes = _field(_read(self._root / "proc/meminfo"), f"{field}:")
        if kibibytes is not None:
            return kibibytes * 1024
        # No /proc: macOS, where sandboxes live in a virtual machine that has limits of its own.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    def _groups(self, controller: str) -> Iterator[_Group]:
        """Every level that limits this process, from its own up to the mount point of its hierarchy."""
        paths = self._own_groups()
        for line in _read(self._root / "proc/self/mountinfo").splitlines():
            before, _, after = line.partition(" - ")
            fields, (kind, _, options) = before.split(), (*after.split(), "", "", "")[:3]
            if kind == "cgroup2":
                key, version = "", 2
            elif kind == "cgroup" and controller in options.split(","):
                key, version = controller, 1
            else:
                continue
            if key in paths:
                mounted, top = fields[3], self._root / _unescaped(fields[4]).lstrip("/")
                yield from (_Group(level, version) for level in _levels(top, mounted, paths[key]))

    def _own_groups(self) -> dict[str, str]:
        """Controller → path in its hierarchy; "" is version 2's."""
        paths = {}
        for line in _read(self._root / "proc/self/cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            paths.update(dict.fromkeys(controllers.split(","), path))
        return paths


def format_size(size: int) -> str:
    """Bytes as people write them: 1536 → '1.5 KiB'."""
    value = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.4g} {unit}"


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _levels(top: Path, mounted: str, path: str) -> Iterator[Path]:
    """The directories of `path` and its parents below `top`, at which `mounted` of the hierarchy is seen."""
    own, base = PurePosixPath(path), PurePosixPath(mounted)
    # A path outside what is mounted (cgroup namespace entered later): only the mount point can be seen.
    below = own.relative_to(base) if own.is_relative_to(base) and ".." not in own.parts else PurePosixPath()
    for level in (below, *below.parents):
        directory = top / level
        if directory.is_dir():
            yield directory


def _quota(group: _Group) -> float | None:
    """Processors that this level grants, None = no limit."""
    if group.version == 2:
        quota, _, period = _read(group.directory / "cpu.max").strip().partition(" ")
    else:
        quota = _read(group.directory / "cpu.cfs_quota_us").strip()
        period = _read(group.directory / "cpu.cfs_period_us").strip()
    if quota.isdecimal() and period.isdecimal() and int(period):
        return int(quota) / int(period)
    return None  # "max", "-1", or no such file in the root group


def _held(resource: Resource, others: Iterable[Need], disk: object) -> int:
    if resource == "cpu" or (resource == "disk" and disk is not None):
        return sum(getattr(other, resource) or 0 for other in others)
    # A cap on memory counts what is on tmpfs, so each sandbox can take the larger of the two, not their sum.
    return sum(max(other.memory or 0, (other.disk or 0) if disk is None else 0) for other in others)


def _shown(resource: Resource, amount: int) -> str:
    if resource == "cpu":
        return f"{amount} processor{'' if amount == 1 else 's'}"
    return format_size(amount)


def _too_much(resource: Resource, need: int, have: int) -> InsufficientResources:
    return InsufficientResources(
        resource,
        need,
        have,
        can_ever_fit=False,
        why=f"{_shown(resource, need)} asked for, this machine gives {_shown(resource, have)}: it can never fit",
        hint=f"ask for {resource}={have} or less, or set airlock_insufficient to skip (the test) or clamp (to what there is)",
    )


def _not_now(resource: Resource, need: int, free: int, holders: Sequence[str]) -> InsufficientResources:
    by = f"; held by {', '.join(holders[:10])}" if holders else ""
    return InsufficientResources(
        resource,
        need,
        free,
        can_ever_fit=True,
        why=f"{_shown(resource, need)} asked for, {_shown(resource, free)} free now{by}",
        hint=f"it fits once others let go; or ask for less {resource}, or set airlock_insufficient=skip",
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return ""  # not this version, not this controller, or the root group: no limit is stated there


def _number(text: str) -> int | None:
    stripped = text.strip()
    return int(stripped) if stripped.isdecimal() else None


def _field(text: str, name: str) -> int | None:
    """The number after `name` in lines such as `name 123` or `name: 123 kB`."""
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == name:
            return _number(words[1])
    return None


def _unescaped(path: str) -> str:
    # proc(5): mountinfo writes space, tab, newline and backslash in octal.
    for code, character in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
        path = path.replace(f"\\{code}", character)
    return path
