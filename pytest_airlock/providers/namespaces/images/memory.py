"""What a process need not find out twice about its machine, so that only the first plan costs a walk."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from .hostview import HostView
from .identity import Known, directories_identity, file_stamp
from .masks import Masks, scan
from .tree import Tree

__all__ = ["Look", "Memory"]

#: Of each search of a mount: what was searched and how, the stamp of its directories, those of files judged by content.
Look = tuple[tuple[Any, str, tuple[str, ...]], ...]


class Memory:
    """Keeps the host's tree and the masks of views. A stable view (part of the image) is looked at once per process; a
    mount again as soon as one of its directories, or a file judged by its content, has changed: a stat of each.
    """

    def __init__(self) -> None:
        self.known: Known = {}
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
            found = scan(top, start=start, skip=skip, expose=expose, modes=modes)
            before = (stamp, [file_stamp(path) for path in found.judged], found)
            self._masks[key] = before
        return before[2]

    def seen(self, tops: Collection[str]) -> Look:
        """What the mounts of these directories were like when they were last looked at."""
        return tuple((key, stamp, tuple(judged)) for key, (stamp, judged, _) in self._masks.items() if key[0] in tops)

    def look(self, tops: Collection[str]) -> Look:
        """What they are like now. A plan made of what was seen is right as long as this is equal to it."""
        return tuple(
            (key, directories_identity(key[0], self.known) if stamp else "", tuple(map(file_stamp, masks.judged)))
            for key, (stamp, _, masks) in self._masks.items()
            if key[0] in tops
        )
