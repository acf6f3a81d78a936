"""The directories of a tree: which there are, and whether they are still the same. PYTEST_DONT_REWRITE."""

from __future__ import annotations

import os
import stat
from _blake2 import blake2b  # hashlib would load OpenSSL into every process of every sandbox
from array import array
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Shape"]

_MAGIC = b"airlock shape 1\n"
_DIGEST = 32
_COLUMNS = 3
#: A directory that changed so shortly before it was looked at (ns) could change again without a new time.
_RACY = 2_000_000_000


class Shape(NamedTuple):
    """The directories of a tree, parents first, the top itself as "": their modes, inodes and ctimes (ns).

    A directory's ctime changes with its mode and with every entry that comes or goes, and nobody can set it back: where the
    inodes and ctimes of *all* directories are equal, the directories are. What may not be read has no entries here.
    """

    paths: list[str]
    modes: array[int]
    inodes: array[int]
    ctimes: array[int]

    @classmethod
    def of(cls, top: str) -> Shape:
        """As they are now."""
        shape = cls([], array("q"), array("q"), array("q"))
        shape._add("", os.lstat(top))
        stack = [""]
        while stack:
            relative = stack.pop()
            for name, info in _subdirectories(top + relative):
                path = f"{relative}/{name}"
                shape._add(path, info)
                stack.append(path)
        return shape

    def _add(self, path: str, info: os.stat_result) -> None:
        self.paths.append(path)
        self.modes.append(_mode(info))
        self.inodes.append(info.st_ino)
        self.ctimes.append(info.st_ctime_ns)

    def pack(self) -> bytes:
        columns = (self.modes, self.inodes, self.ctimes)
        body = b"".join(column.tobytes() for column in columns) + os.fsencode("\0".join(self.paths))
        body = len(self.paths).to_bytes(8, "little") + body
        return _MAGIC + blake2b(body, digest_size=_DIGEST).digest() + body

    @classmethod
    def unpack(cls, data: bytes) -> Shape | None:
        """None for what was not written, to its end, by `pack`."""
        at = len(_MAGIC) + _DIGEST
        body = data[at:]
        if data[:at] != _MAGIC + blake2b(body, digest_size=_DIGEST).digest():
            return None
        size = int.from_bytes(body[:8], "little") * 8
        columns = [array("q", body[8 + size * row : 8 + size * (row + 1)]) for row in range(_COLUMNS)]
        return cls(os.fsdecode(body[8 + size * _COLUMNS :]).split("\0"), *columns)

    def settled(self, now_ns: int) -> bool:
        """Whether it was taken, at `now_ns`, so long after the last change that every later one shows in a ctime."""
        return max(self.ctimes) < now_ns - _RACY

    def matches(self, top: str) -> bool:
        """Whether `top` has the same directories now: one lstat(2) each, and a look into those that have changed."""
        look, changed = os.lstat, []
        try:
            for path, inode, ctime in zip(self.paths, self.inodes, self.ctimes, strict=True):
                info = look(top + path)
                if info.st_ctime_ns != ctime or info.st_ino != inode:
                    changed.append(path)
            return not changed or self._same_below(top, changed)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _same_below(self, top: str, changed: list[str]) -> bool:
        """Whether only files came and went in these."""
        modes = dict(zip(self.paths, self.modes, strict=True))
        below: dict[str, set[str]] = {}
        for path in self.paths[1:]:
            parent, _, name = path.rpartition("/")
            below.setdefault(parent, set()).add(name)
        for path in changed:
            info = os.lstat(top + path)
            if not stat.S_ISDIR(info.st_mode) or _mode(info) != modes[path]:
                return False
            if {name for name, _ in _subdirectories(top + path)} != below.get(path, set()):
                return False
        return True


def _mode(info: os.stat_result) -> int:
    return stat.S_IMODE(info.st_mode) & 0o1777


def _subdirectories(path: str) -> Iterator[tuple[str, os.stat_result]]:
    try:
        entries = os.scandir(path)
    except PermissionError:
        return
    with entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield entry.name, entry.stat(follow_symlinks=False)
