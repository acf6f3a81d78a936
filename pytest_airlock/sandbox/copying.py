"""Files and trees across the wall. What comes out is hostile: its names, kinds, links, sizes and number.

Rules of both directions: only regular files, directories and links cross; modes are masked to 0755; devices, FIFOs
and sockets are never opened but listed in `Copied.skipped`. On the host each step is one openat(2) with
O_NOFOLLOW from the directory before, so no link, old or new, leads a write out of the tree.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pytest_airlock.providers.base import TreeEntry
from pytest_airlock.sandbox.backend import Backend
from pytest_airlock.sandbox.paths import SandboxPath

__all__ = ["COPY_LIMIT", "Copied", "Landing", "copy_in", "copy_out"]

COPY_LIMIT = 1024**3
MAX_ENTRIES = 1_000_000
MAX_DEPTH = 200
#: Characters of names in `Copied.skipped`: a deep path is 50 KB, and a million entries can have it.
MAX_SKIPPED = 16 * 1024 * 1024
CHUNK = 1 << 20
MASK = 0o755

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass
class Copied:
    """What a copy did: the number of files and bytes, and (path, reason) of what was left out."""

    files: int = 0
    bytes: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


# -- host to sandbox -------------------------------------------------------------------------------------------------


def copy_in(backend: Backend, host: str | os.PathLike[str], inside: str | SandboxPath) -> Copied:
    """See Sandbox.copy_in."""
    source = Path(host).resolve(strict=True)
    if not (source.is_file() or source.is_dir()):
        raise OSError(errno.EINVAL, "neither a file nor a directory, so not copied", os.fspath(host))
    target = SandboxPath(backend, inside)
    if source.is_file() and (str(inside).endswith("/") or target.is_dir()):
        target /= Path(os.path.abspath(host)).name
    target.parent.mkdir(parents=True, exist_ok=True)
    copied = Copied()
    with ExitStack() as opened:
        parent = os.open(source.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, parent)
        backend.import_tree(str(target), _entries(parent, source.name or ".", "", copied))
    return copied


def _entries(parent: int, name: str, path: str, copied: Copied, depth: int = 0) -> Iterator[TreeEntry]:
    if depth > MAX_DEPTH:
        # What a sandbox made in a directory mounted read-write can be deeper than descriptors and recursion reach.
        raise OSError(errno.ELOOP, f"refused to copy in: more than {MAX_DEPTH} levels", path)
    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    mode = stat.S_IMODE(found.st_mode) & MASK
    if stat.S_ISREG(found.st_mode):
        copied.files += 1
        yield TreeEntry(
            path, "file", mode, found.st_size, found.st_mtime_ns, None, _content(parent, name, found, copied)
        )
    elif stat.S_ISLNK(found.st_mode):
        yield TreeEntry(path, "symlink", 0o777, target=os.readlink(name, dir_fd=parent))
    elif stat.S_ISDIR(found.st_mode):
        yield TreeEntry(path, "dir", mode, mtime_ns=found.st_mtime_ns)
        here = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            for child in sorted(os.listdir(here)):
                yield from _entries(here, child, f"{path}/{child}" if path else child, copied, depth + 1)
        finally:
            os.close(here)
    else:
        copied.skipped.append((path or name, "neither file, directory nor link"))


def _content(parent: int, name: str, found: os.stat_result, copied: Copied) -> Iterator[bytes]:
    """At most the size that was announced: a file that grows meanwhile does not overrun its header."""
    # O_NONBLOCK: should it have become a FIFO since lstat, open does not hang; fstat tells.
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    try:
        now = os.fstat(fd)
        if not stat.S_ISREG(now.st_mode) or (now.st_dev, now.st_ino) != (found.st_dev, found.st_ino):
            raise OSError(errno.ESTALE, "the file was replaced while it was copied", name)
        left = found.st_size
        while left > 0 and (data := os.read(fd, min(left, CHUNK))):
            left -= len(data)
            copied.bytes += len(data)
            yield data
    finally:
        os.close(fd)


# -- sandbox to host -------------------------------------------------------------------------------------------------


def copy_out(backend: Backend, inside: str | SandboxPath, host: str | os.PathLike[str], *, limit: int) -> Copied:
    """See Sandbox.copy_out."""
    source = SandboxPath(backend, inside)
    target = Path(os.path.abspath(host))
    copied = Copied()
    with ExitStack() as opened:
        landing: Landing | None = None
        for number, entry in enumerate(backend.export_tree(str(source), limit=limit)):
            if number >= MAX_ENTRIES:
                raise OSError(errno.EFBIG, f"more than {MAX_ENTRIES:,} entries", str(source))
            if landing is None:
                if entry.path:
                    raise _refused(entry.path, "the first entry of a tree is its root")
                if entry.kind == "file" and (str(host).endswith("/") or target.is_dir()):
                    target /= source.name
                landing = opened.enter_context(Landing(target, limit, copied))
            landing.make(entry)
    return copied


def _refused(path: str, why: str) -> OSError:
    """A path can be 64 KiB: an error that nobody can read helps nobody."""
    return OSError(errno.EINVAL, f"refused to copy out: {why}", path if len(path) <= 1000 else f"{path[:1000]}…")


class Landing:
    """Where a tree is made on the host, entry by entry: at `target`, at most `limit` bytes, counted in `copied`.

    Entries come as export_tree has them, the root first. Raises OSError, EINVAL for a name that is no plain name.
    """

    def __init__(self, target: Path, limit: int, copied: Copied) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        self._name = target.name
        self._left = limit
        self._copied = copied
        self._skipped = MAX_SKIPPED
        above = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open: list[tuple[str, int]] = [("", above)]  # the directories above the next entry

    @property
    def left(self) -> int:
        """The bytes of content that may still come."""
        return max(self._left, 0)

    def __enter__(self) -> Landing:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            os.close(self._open.pop()[1])

    def make(self, entry: TreeEntry, *, parents: bool = False) -> None:
        """Make one entry, or list it in `copied.skipped`; with `parents` also the directories above that are missing."""
        parts = _parts(entry.path)
        names = [self._name, *parts]
        self._leave(names[:-1], parents=parents)
        parent, name = self._open[-1][1], names[-1]
        if entry.kind == "dir":
            self._enter(parent, name, entry.mode & MASK)
        elif entry.kind == "file":
            self._copied.files += 1
            self._file(parent, name, entry)
        elif entry.kind == "symlink" and (why := _leads_out(entry.target, len(parts) - 1)):
            self._skip(entry.path, why)
        elif entry.kind == "symlink":
            _clear(parent, name)
            os.symlink(entry.target or "", name, dir_fd=parent)
        else:
            self._skip(entry.path, f"a {entry.kind}")

    def _skip(self, path: str, why: str) -> None:
        self._skipped -= len(path)
        if self._skipped < 0:
            raise OSError(errno.EFBIG, "the names alone of what cannot be copied are too much", path)
        self._copied.skipped.append((path, why))

    def discard(self, path: str) -> None:
        """Remove what make() left of a file that did not come whole."""
        *above, name = [self._name, *path.split("/")]
        if [opened for opened, _ in self._open[1:]] != above:
            return
        with suppress(FileNotFoundError):
            parent = self._open[-1][1]
            if stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=parent)

    def _leave(self, above: list[str], *, parents: bool) -> None:
        """Close directories until the open ones are those above the entry; parents come first, so none is missing."""
        while [name for name, _ in self._open[1:]] != above[: len(self._open) - 1]:
            os.close(self._open.pop()[1])
        missing = above[len(self._open) - 1 :]
        if missing and not parents:
            raise _refused("/".join(above[1:]), "an entry came before its directory")
        for name in missing:
            self._enter(self._open[-1][1], name, MASK)

    def _enter(self, parent: int, name: str, mode: int) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            mode = -1
        here = os.open(name, _DIRECTORY, dir_fd=parent)
        self._open.append((name, here))
        if mode >= 0:
            os.fchmod(here, mode | 0o700)

    def _file(self, parent: int, name: str, entry: TreeEntry) -> None:
        _clear(parent, name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            for chunk in entry.chunks:
                self._left -= len(chunk)
                if self._left < 0:
                    raise OSError(errno.EFBIG, "more bytes than limit= allows", entry.path or name)
                self._copied.bytes += len(chunk)
                view = memoryview(chunk)
                while view:
                    view = view[os.write(fd, view) :]
            os.fchmod(fd, entry.mode & MASK)
        finally:
            os.close(fd)


def _parts(path: str) -> list[str]:
    if not path:
        return []
    parts = path.split("/")
    if "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise _refused(path, "a name that is empty, '.', '..' or has a NUL in it")
    if len(parts) > MAX_DEPTH:
        raise _refused(path, f"more than {MAX_DEPTH} levels")
    return parts


def _leads_out(target: str | None, depth: int) -> str:
    """Why a link `depth` directories below the root may not be made, "" if it may.

    `..` is good only at the start: its own directory is real, what comes later may be a link itself, and `..` behind
    a link is another place than the text says.
    """
    if not target or "\0" in target or target.startswith("/"):
        return "a link that is not relative"
    parts = [part for part in target.split("/") if part not in ("", ".")]
    ups = 0
    while ups < len(parts) and parts[ups] == "..":
        ups += 1
    return "a link that leads out of the tree" if ups > depth or ".." in parts[ups:] else ""


def _clear(parent: int, name: str) -> None:
    """Make room for a file or link; a directory in its place is an error, not removed."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    os.unlink(name, dir_fd=parent)
