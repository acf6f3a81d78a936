"""What commands in a new sandbox can read: one text for all of it, equal only where nothing of it has changed.

Stats only, no file is read. Directories that a package manager owns: every directory, and the manager's database. All
else, that is /usr/local, /opt, the interpreter and every mount: every file, too. So a file of a package that somebody
edits in place, without a new name, goes unseen; one that is replaced, as package managers and `mv` do it, is seen.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from hashlib import blake2b

from pytest_airlock.providers.namespaces.engine.world import World

from .identity import IGNORED, Known, directories_identity, file_stamp, package_stamps

__all__ = ["origin"]

MAX_FILES = 500_000
#: Views of which a package manager is the author; below them, what is not its own.
_PACKAGED = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_LOCAL = "local"
#: All that counts of a git directory: which commit is checked out.
_GIT = ("HEAD", "packed-refs", "refs")


class _TooMany(Exception):
    """More files than are worth a look."""


def origin(world: World, known: Known) -> str:
    """Empty where it cannot be told: what is shared read-write with the host has no state of its own, and there is a
    limit to what is looked at. `known` remembers directories.
    """
    digest = blake2b(world.to_json(), digest_size=32)
    stamps = package_stamps()
    left = [MAX_FILES]
    try:
        if world.root:
            _add(digest, world.root, left)
        for entry in world.entries:
            if entry.kind == "copy":
                digest.update(file_stamp(entry.data).encode())
        for view in world.views:
            if view.mode == "rw":
                return ""
            if view.system and stamps and view.target in _PACKAGED:
                digest.update("\n".join([*stamps, directories_identity(view.source, known)]).encode())
                _add(digest, f"{view.source}/{_LOCAL}", left)
            else:
                _add(digest, view.source, left)
    except _TooMany:
        return ""
    return digest.hexdigest()


def _add(digest: blake2b, top: str, left: list[int]) -> None:
    """Every file below, and itself."""
    digest.update(_stamp("", os.lstat(top)) if os.path.lexists(top) else b"-")
    for path, info in _below(top):
        left[0] -= 1
        if not left[0]:
            raise _TooMany
        digest.update(_stamp(path, info))


def _stamp(path: str, info: os.stat_result) -> bytes:
    # Times of directories change with every cache that a tool keeps in them; names are here anyway.
    time = 0 if stat.S_ISDIR(info.st_mode) else info.st_mtime_ns
    size = 0 if stat.S_ISDIR(info.st_mode) else info.st_size
    return b"%b\0%d %d %d %d\n" % (os.fsencode(path), info.st_mode, info.st_ino, size, time)


def _below(top: str) -> Iterator[tuple[str, os.stat_result]]:
    stack = [""]
    while stack:
        here = stack.pop()
        try:
            with os.scandir(top + here) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:  # it is a file, may not be read, or is gone: its own stamp is all there is
            continue
        if {"HEAD", "objects", "refs"} <= {entry.name for entry in entries}:
            entries = [entry for entry in entries if entry.name in _GIT]
        for entry in entries:
            if entry.name in IGNORED:
                continue
            try:
                info = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            path = f"{here}/{entry.name}"
            yield path, info
            if stat.S_ISDIR(info.st_mode):
                stack.append(path)
