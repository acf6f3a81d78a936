"""What a sandbox's file system consists of, as data: planned by the client, carried out by the fork server.

A world is one synthesised tree for `/` (entries, in order) and views of host directories above it. Every path is
absolute and normalised; sources are host paths with links resolved. Nothing here touches the system.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

#: Owner words: who owns an entry inside. With a single-uid map both are the one user there is.
ROOT, USER = 0, 1000


class Entry(NamedTuple):
    """One object of the synthesised tree. `kind`: dir, link (data = text of it), file (data = content), copy (data =
    host path of a regular file). Text is latin-1 of the bytes, so that any content survives JSON.
    """

    kind: str
    path: str
    mode: int = 0o755
    owner: int = ROOT
    data: str = ""


class View(NamedTuple):
    """A host directory or file at `target` inside. `mode`: cow (writable, discarded), ro, rw (the host's own, bound).

    `hidden` are paths below source (relative) that must not be seen; `replaced` are (relative path, content).
    `system` marks parts of the image (as opposed to mounts): they count in diff and get a skeleton of own directories
    where the image belongs to a foreign uid. `owned` are files (relative) of which that skeleton has copies.
    """

    source: str
    target: str
    mode: str = "cow"
    hidden: tuple[str, ...] = ()
    replaced: tuple[tuple[str, str], ...] = ()
    system: bool = True
    owned: tuple[str, ...] = ()


class World(NamedTuple):
    """The whole: `root` is a host directory used as `/` instead of the synthesised tree's own (image=directory)."""

    entries: tuple[Entry, ...]
    views: tuple[View, ...]
    root: str = ""

    def to_json(self) -> bytes:
        return json.dumps(self, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> World:
        entries, views, root = json.loads(data)
        return cls(tuple(Entry(*entry) for entry in entries), tuple(map(_view, views)), root)


def _view(item: list[Any]) -> View:
    source, target, mode, hidden, replaced, system, owned = item
    texts = tuple((path, text) for path, text in replaced)
    return View(source, target, mode, tuple(hidden), texts, system, tuple(owned))
