"""A builder for the synthesised tree: every path once, parents before children, nothing below a link."""

from __future__ import annotations

import os
from collections.abc import Callable

from pytest_airlock.providers.namespaces.engine.world import ROOT, Entry

from .hostview import Trace, follow, is_below

__all__ = ["Tree"]


class Tree:
    """Collects entries by path. The first at a path stays, but a directory made as a parent can get its mode later."""

    def __init__(self, *, base: Callable[[str], str | None] | None = None) -> None:
        """`base` tells the links of an image below the tree, as HostView.readlink does."""
        self._base = base or (lambda _: None)
        self._entries: dict[str, Entry] = {}
        self._implied: set[str] = set()

    def duplicate(self) -> Tree:
        """A tree of its own with the same entries."""
        other = Tree(base=self._base)
        other._entries.update(self._entries)
        other._implied.update(self._implied)
        return other

    def __contains__(self, path: str) -> bool:
        return path in self._entries

    def directory(self, path: str, mode: int = 0o755, owner: int = ROOT) -> None:
        """A directory, with its parents."""
        if path in self._implied:
            self._implied.discard(path)
            self._entries[path] = Entry("dir", path, mode, owner)
        else:
            self._add(Entry("dir", path, mode, owner))

    def link(self, path: str, text: str) -> None:
        """A symbolic link that says `text`."""
        self._add(Entry("link", path, 0o777, ROOT, text))

    def text(self, path: str, content: str, mode: int = 0o644) -> None:
        """A file with `content` as UTF-8."""
        self.content(path, content.encode(), mode)

    def content(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """A file made of bytes."""
        self._add(Entry("file", path, mode, ROOT, content.decode("latin-1")))

    def copy(self, path: str, source: str, mode: int = 0o644) -> None:
        """A file that is copied from the host when the tree is made."""
        self._add(Entry("copy", path, mode, ROOT, source))

    def trace(self, path: str) -> Trace:
        """Resolve `path` through the links of this tree and its base. Raises OSError(ELOOP)."""
        return follow(path, self._readlink)

    def in_the_way(self, path: str, *, directory: bool) -> bool:
        """True if mounting a directory (or a file) at `path` would put files of this tree out of sight, or cannot be."""
        if not directory:
            return path in self._entries and self._entries[path].kind == "dir"
        return any(entry.kind != "dir" for place, entry in self._entries.items() if is_below(place, path))

    def entries(self, *, hidden: Callable[[str], bool] | None = None) -> tuple[Entry, ...]:
        """All in order, but those for which `hidden(path)` is true."""
        return tuple(entry for path, entry in self._entries.items() if hidden is None or not hidden(path))

    def _readlink(self, path: str) -> str | None:
        entry = self._entries.get(path)
        if entry is None:
            return self._base(path)
        return entry.data if entry.kind == "link" else None

    def _add(self, entry: Entry) -> None:
        if entry.path != "/" and entry.path not in self._entries:
            self._parent(os.path.dirname(entry.path))
            self._entries[entry.path] = entry

    def _parent(self, path: str) -> None:
        if path == "/":
            return
        entry = self._entries.get(path)
        if entry is None:
            self._parent(os.path.dirname(path))
            self._entries[path] = Entry("dir", path, 0o755, ROOT)
            self._implied.add(path)
        elif entry.kind != "dir":
            # Whoever carries the tree out would write through the link, into its own world.
            raise ValueError(f"{path} is a {entry.kind}: nothing can be made below it")
