"""Control groups, version 1, 2 or both: what can be limited here, groups of sandboxes, and sweeping up after the dead.

Groups are made below the cgroup this process is in, so no limit of the host is ever widened. Sources: cgroups(7),
cgroup_namespaces(7), Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst, systemd's CGROUP_DELEGATION.md.

`prefix` is where the host's root lies ("/host" after pivot_root); every path kept is the host's own, without it.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from . import cgroup_tree, syscalls
from .cgroup_tree import Absence, CgroupError, Place, read, write

__all__ = [
    "CONTROLLERS",
    "NOWHERE",
    "Absence",
    "CgroupError",
    "CgroupMeans",
    "Entrance",
    "Group",
    "create",
    "probe",
    "sweep",
]

CONTROLLERS = cgroup_tree.CONTROLLERS
_NAME = "airlock-"
_O_PATH = 0o10000000
_PERIOD = 100_000  # microseconds, the kernel's default


class CgroupMeans(NamedTuple):
    """What can be limited here, found by limiting; `absent` says why the rest cannot and what to do."""

    places: Mapping[str, Place]
    absent: Mapping[str, Absence]

    def to_json(self) -> dict[str, dict[str, object]]:
        found: dict[str, dict[str, object]] = {
            name: {"usable": True, "version": place.version, "why": "", "fix": ""}
            for name, place in self.places.items()
        }
        found.update({name: {"usable": False, **absence._asdict()} for name, absence in self.absent.items()})
        return found


class Entrance(NamedTuple):
    """`unified` is the group of version 2 that clone3 puts the child into; to `files` the child itself writes.

    The kernel moves a process to another group in about 10 ms, waiting for every processor, so that none of its threads
    is born in the meantime. It need not for CLONE_INTO_CGROUP, nor for a single thread that moves itself, which version
    1 allows by "0" in `tasks`. Permissions are those of who opened the file.
    """

    unified: int
    files: tuple[int, ...]

    def join(self) -> None:
        """For the child, while it has no other thread. Raises CgroupError."""
        for fd in self.files:
            try:
                os.write(fd, b"0")
            except OSError as error:
                raise CgroupError(error.errno or 0, "cgroup", os.readlink(f"/proc/self/fd/{fd}")) from error

    def close(self) -> None:
        for fd in (self.unified, *self.files):
            if fd >= 0:
                os.close(fd)


#: Of a sandbox without limits.
NOWHERE = Entrance(-1, ())


class Group(NamedTuple):
    """The directories of one sandbox: one for each hierarchy that limits it."""

    places: tuple[Place, ...]
    memory: Place | None = None
    prefix: str = ""

    def add(self, pid: int = 0) -> None:
        """Move a process in, with what it forks from now on; 0 is the caller. Raises CgroupError."""
        for place in self.places:
            write(f"{self.prefix}{place.path}/cgroup.procs", str(pid))

    def entrance(self) -> Entrance:
        """What a child needs to be in it from the start; to be closed after the clone."""
        unified, files = -1, []
        into = syscalls.has_clone3()
        try:
            for place in self.places:
                path = f"{self.prefix}{place.path}"
                if place.version == 2 and into:
                    unified = os.open(path, _O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                else:
                    name = "cgroup.procs" if place.version == 2 else "tasks"
                    files.append(os.open(f"{path}/{name}", os.O_WRONLY | os.O_CLOEXEC))
        except BaseException:
            Entrance(unified, tuple(files)).close()
            raise
        return Entrance(unified, tuple(files))

    def pids(self) -> set[int]:
        """Who is in it, groups below included, as this process' pid name space numbers them."""
        return {
            int(pid)
            for place in self.places
            for path in _with_children(self.prefix + place.path)
            for pid in read(f"{path}/cgroup.procs", missing="").split()
        }

    def subgroup(self, name: str) -> Group:
        """A group inside, without limits of its own: it tells whose a process is. In one hierarchy, version 2 if any."""
        parent = max(self.places, key=lambda place: place.version)
        place = Place(f"{parent.path}/{name}", parent.version)
        cgroup_tree.mkdir(self.prefix + place.path)
        return Group((place,), None, self.prefix)

    def oom_kills(self) -> int:
        """How many processes the kernel killed for the memory limit; 0 where no limit is set."""
        if self.memory is None:
            return 0
        name = "memory.events" if self.memory.version == 2 else "memory.oom_control"
        for line in read(f"{self.prefix}{self.memory.path}/{name}").splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
        return 0

    def kill(self, timeout: float = 5.0) -> None:
        """SIGKILL all that is in it, and wait until it is empty. Raises CgroupError(EBUSY) naming who stays."""
        for place in self.places:
            if place.version == 2 and os.path.exists(f"{self.prefix}{place.path}/cgroup.kill"):
                write(f"{self.prefix}{place.path}/cgroup.kill", "1")
        cgroup_tree.until_gone(self.pids, timeout, kill=True)

    def remove(self, timeout: float = 2.0) -> None:
        """Remove it, after the processes in it have ended; twice is fine.

        Waits for them up to `timeout` seconds, then raises CgroupError(EBUSY) naming who stays.
        """
        for place in self.places:
            path = self.prefix + place.path
            cgroup_tree.remove(path, Group((place,), None, self.prefix).pids, timeout)


def _with_children(path: str) -> Iterator[str]:
    yield path
    yield from cgroup_tree.children(path)


# ---------------------------------------------------------------- limits


def _settings(controller: str, version: int, amount: float) -> Sequence[tuple[str, str, bool]]:
    """(file, value, must exist). Swap is part of the cap; where its file is missing the kernel has no swap accounting."""
    if controller == "cpu":
        quota = str(int(amount * _PERIOD))
        if version == 2:
            return [("cpu.max", f"{quota} {_PERIOD}", True)]
        return [("cpu.cfs_period_us", str(_PERIOD), True), ("cpu.cfs_quota_us", quota, True)]
    value = str(int(amount))
    if controller == "pids":
        return [("pids.max", value, True)]
    if version == 2:
        return [("memory.max", value, True), ("memory.swap.max", "0", False)]
    return [("memory.limit_in_bytes", value, True), ("memory.memsw.limit_in_bytes", value, False)]


def _limit(path: str, controller: str, version: int, amount: float) -> None:
    for name, value, needed in _settings(controller, version, amount):
        if needed or os.path.exists(f"{path}/{name}"):
            write(f"{path}/{name}", value, step=f"cgroup {controller}")


# ---------------------------------------------------------------- making and sweeping


@functools.cache
def _places(prefix: str) -> CgroupMeans:
    """Where groups can be made, found once: the cgroup of this process does not change under it."""
    return CgroupMeans(*cgroup_tree.locate(prefix))


def _stem(prefix: str) -> str:
    """Names who made a group so that its death can be proved: pid name space, pid, start time (clock ticks)."""
    born = cgroup_tree.birth(prefix, "self")
    if born is None:
        raise CgroupError(errno.ENOENT, "cgroup", f"{prefix}/proc/self/stat", "there is no /proc here")
    pid, start = born
    return f"{_NAME}{cgroup_tree.pid_namespace(prefix)}-{pid}-{start}-"


def probe(prefix: str = "") -> CgroupMeans:
    """Make, limit and remove a child group for each controller. Never raises for what is missing."""
    found, absent = _places(prefix)
    usable: dict[str, Place] = {}
    missing = dict(absent)
    # Small enough for any limit above: a group may not be given more than its parent has.
    for controller, amount in (("cpu", 0.01), ("memory", 1 << 24), ("pids", 4)):
        if controller not in found:
            continue
        place = found[controller]
        try:
            create(f"probe-{controller}", prefix=prefix, **{controller: amount}).remove()
        except OSError as error:
            missing[controller] = cgroup_tree.diagnose(error, place)
        else:
            usable[controller] = place
    return CgroupMeans(usable, missing)


def create(
    name: str,
    *,
    cpu: float | None = None,
    memory: float | None = None,
    pids: float | None = None,
    prefix: str = "",
) -> Group:
    """A group with the limits given: `cpu` in processors, `memory` in bytes, `pids` a number of processes.

    `name` is unique within this process. Raises CgroupError, and leaves nothing, if one cannot be set.
    """
    means = _places(prefix)
    stem = _stem(prefix)
    made: list[Place] = []
    memory_place: Place | None = None
    wanted = {"cpu": cpu, "memory": memory, "pids": pids}
    try:
        for controller, amount in wanted.items():
            if amount is None:
                continue
            if controller not in means.places:
                raise CgroupError(errno.EOPNOTSUPP, f"cgroup {controller}", "", means.absent[controller].why)
            parent = means.places[controller]
            place = Place(f"{parent.path}/{stem}{name}", parent.version)
            if place not in made:
                cgroup_tree.mkdir(prefix + place.path)
                made.append(place)
            _limit(prefix + place.path, controller, place.version, amount)
            if controller == "memory":
                memory_place = place
    except BaseException:
        Group(tuple(made), None, prefix).remove()
        raise
    return Group(tuple(made), memory_place, prefix)


def sweep(prefix: str = "") -> list[str]:
    """Kill and remove the groups whose maker is dead, and name them.

    Only makers of this pid name space can be proved dead; another's groups are left alone.
    """
    mine = f"{cgroup_tree.pid_namespace(prefix)}"
    swept: list[str] = []
    for place in sorted(set(_places(prefix).places.values())):
        for path in cgroup_tree.children(prefix + place.path, deep=False):
            name = path.rsplit("/", 1)[1]
            words = name[len(_NAME) :].split("-") if name.startswith(_NAME) else []
            if len(words) < 4 or words[0] != mine or not (words[1].isdigit() and words[2].isdigit()):
                continue
            if cgroup_tree.birth(prefix, words[1]) == (int(words[1]), int(words[2])):
                continue
            stale = Group((Place(f"{place.path}/{name}", place.version),), None, prefix)
            stale.kill()
            stale.remove()
            swept.append(f"{place.path}/{name}")
    return swept
