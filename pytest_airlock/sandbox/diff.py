"""What changed in a sandbox, comparable with plain sets of paths."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pytest_airlock.providers.base import Change, FileKind
from pytest_airlock.sandbox.transcript import escape

__all__ = ["DEFAULT_IGNORE", "ChangedPath", "Diff", "collect"]

#: What diff() leaves out: paths (with all below) and names (anywhere); `*` and `?` stay within one name.
DEFAULT_IGNORE = ("/tmp", "/run", "/dev", "/proc", "__pycache__")

#: Characters of a diff as text, each line counted as its path and LINE.
SHOWN = 1024 * 1024
LINE = 50


class ChangedPath(str):
    """A path that is equal to its text; `type` (file, dir, symlink …), `size` in bytes, `mode` (permission bits)."""

    __slots__ = ("mode", "size", "type")

    type: FileKind
    size: int
    mode: int

    def __new__(cls, path: str, type: FileKind = "file", size: int = 0, mode: int = 0) -> ChangedPath:  # noqa: A002
        self = super().__new__(cls, path)
        self.type = type
        self.size = size
        self.mode = mode
        return self


@dataclass(frozen=True)
class Diff:
    """Paths added, modified and deleted since a snapshot; false if there are none.

    Each compares with any set of str: `box.diff().added == {"/usr/local/bin/tool"}`. A directory made for it is in the
    set too.
    """

    added: frozenset[str] = frozenset()
    modified: frozenset[str] = frozenset()
    deleted: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name in ("added", "modified", "deleted"):
            object.__setattr__(self, name, frozenset(getattr(self, name)))

    def __bool__(self) -> bool:
        return bool(self.added or self.modified or self.deleted)

    def __str__(self) -> str:
        """One line for each path, by path; of very many the first ones, and how many are left out."""
        words = (("added", self.added), ("modified", self.modified), ("deleted", self.deleted))
        found = sorted((path, word) for word, paths in words for path in paths)
        lines: list[str] = []
        left = SHOWN
        for path, word in found:
            left -= len(path) + LINE
            if left < 0:
                lines.append(f"[… {len(found) - len(lines):,} more …]")
                break
            lines.append(f"{word:8} {_show(path)}")
        return "\n".join(lines) or "no changes"


def _show(path: str) -> str:
    if not isinstance(path, ChangedPath):
        return escape(path)
    detail = f"{path.type}, {path.size:,} bytes" if path.type == "file" else path.type
    return f"{escape(path)} ({detail}, {path.mode:04o})"


def collect(changes: Iterable[Change], ignore: Sequence[str]) -> Diff:
    """Sort changes into a Diff. With anything to ignore, directories of which only the times differ are left out too."""
    made: dict[str, set[str]] = {"added": set(), "modified": set(), "deleted": set()}
    ignored = _matcher(tuple(ignore))
    for change in changes:
        if ignored is None or not (change.mtime_only or ignored(change.path)):
            made[change.kind].add(ChangedPath(change.path, change.file, change.size, change.mode))
    return Diff(frozenset(made["added"]), frozenset(made["modified"]), frozenset(made["deleted"]))


@functools.lru_cache(maxsize=64)
def _matcher(ignore: tuple[str, ...]) -> Callable[[str], object] | None:
    """One pattern for all words: a diff of thousands of paths spends its time here."""
    if not ignore:
        return None
    parts = [f"{'' if word.startswith('/') else '(?:.*/)?'}{_glob(word.rstrip('/'))}(?:/|$)" for word in ignore]
    return re.compile("|".join(parts), re.DOTALL).match


def _glob(word: str) -> str:
    return "".join("[^/]*" if char == "*" else "[^/]" if char == "?" else re.escape(char) for char in word)
