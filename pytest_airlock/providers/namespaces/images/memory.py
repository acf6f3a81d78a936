"""What a process need not find out twice about its machine, so that only the first plan costs a walk."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from .hostview import HostView
from .identity import Known, directories_identity, file_stamp
from .masks import Masks, scan
from .tree import Tree

__all__ = ["Memory"]


class Memory:
    """Keeps the host's tree and the masks of views. A stable view (part of the image) is looked at once per process; a
    mount again as soon as one of its directories, or a file judged by its content, has changed: a stat of each.
    """

    def __init__(self) -> None:
        self.known: Known = {}
        self.version = 0  # of what is remembered of mounts: goes up whenever one is looked at again
        self._trees: dict[HostView, Tree] = {}
        self._masks: dict[Any, tuple[str, list[str], Masks]] = {}

    def tree(self, host: HostView, make: Callable[[], Tree]) -> Tree:
        """A copy of the tree that `make()` made for this host."""
        if host not in self._trees:
            self._trees[host] = make()
        return self._trees[host].duplicate()

    def masks(
        self,
        top: str,
        *,
        start: str,
        skip: tuple[str, ...],
        expose: tuple[str, ...],
        modes: bool,
        stable: bool,
    ) -> Masks:
        """masks.scan(), or what it found before."""
        stamp = "" if stable else directories_identity(top, self.known)
        key = (top, start, skip, expose, modes)
        before = self._masks.get(key)
        if before is None or before[0] != stamp or not (stable or before[1] == [*map(file_stamp, before[2].judged)]):
            self.version += 1
            found = scan(top, start=start, skip=skip, expose=expose, modes=modes)
            before = (stamp, [file_stamp(path) for path in found.judged], found)
            self._masks[key] = before
        return before[2]

    def current(self, tops: Collection[str]) -> bool:
        """Whether the mounts of these directories are as they were when last looked at: then a plan made since is right."""
        return all(
            directories_identity(key[0], self.known) == stamp and judged == [*map(file_stamp, masks.judged)]
            for key, (stamp, judged, masks) in self._masks.items()
            if stamp and key[0] in tops
        )
