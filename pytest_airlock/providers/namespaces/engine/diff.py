"""What changed since a snapshot, from the layers of an overlay. PYTEST_DONT_REWRITE.

Runs in a fork of the fork server, beside a sandbox that may go on writing. Only directories that a layer since the
snapshot has are walked, so the cost follows the changes; below a directory that is gone or new, everything is told.

An entry that was copied up counts as modified if type, mode, owner, size, time of modification or the text of a link
differ; a file that agrees in all of these is compared byte by byte, since a time can be set back (up to COMPARE_LIMIT
bytes in all, beyond it counts as modified). Extended attributes are not compared, nor are the owner and times of a
view's own top directory, which belong to whoever mounted it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from .frames import (
    ADDED,
    CHANGE,
    CHANGES,
    CHUNK,
    DELETED,
    END,
    ERROR,
    MAX_PATH,
    MODIFIED,
    ChangeRecord,
    FrameWriter,
    SinkClosed,
    pack_error,
    write_to,
)
from .layers import Entry, Layer, look_up, open_layer

__all__ = ["DiffView", "diff"]

COMPARE_LIMIT = 1 << 30
_PIECE = 8192  # bytes told at once: some hundred changes, so that the other side reads them while we look for more
_OPEN_LIMIT = 512  # descriptors of directories, all layers together
_TOP_MODE = 0o1777  # set-id bits of a view's top are not carried over to its upper layer


class DiffView(NamedTuple):
    """One overlay mounted at `target`. Layers are paths or descriptors of directories, newest first: `uppers` since the
    snapshot, `lowers` what it stands on. Owners in both must be of one and the same id mapping.
    """

    target: str
    uppers: tuple[int | str, ...]
    lowers: tuple[int | str, ...]


def diff(views: Sequence[DiffView], sink: int, *, xattr_prefix: str, limit: int) -> None:
    """Write a CHANGE frame per changed path of all views to `sink`, then END, or ERROR with errno and path.

    `xattr_prefix` is "user." for overlays mounted with userxattr, else "trusted.": with the wrong one opaque directories
    would silently look like merged ones. More than `limit` changes are EOVERFLOW; a tree that is moved while it is walked
    deeper than descriptors reach is ESTALE.
    """
    if xattr_prefix not in ("user.", "trusted."):
        raise ValueError(f"xattr_prefix is 'user.' or 'trusted.', not {xattr_prefix!r}")
    out = FrameWriter(write_to(sink), bound=CHANGES, piece=_PIECE)
    try:
        try:
            differ = Differ(out, xattr_prefix, limit)
            for view in views:
                differ.view(view)
        except OSError as error:
            path = error.filename if isinstance(error.filename, (bytes, str)) else ""
            out.finish(ERROR, pack_error(error.errno or errno.EIO, os.fsencode(path)))
        else:
            out.finish(END)
    except SinkClosed:
        return


class Level(NamedTuple):
    """A directory under comparison: the layers that have it, and whether `uppers` let `lowers` show through."""

    path: bytes
    uppers: list[Layer]
    lowers: list[Layer]
    merged: bool
    names: list[str]


class Differ:
    """The walk; one for all views, so that the limits hold for all of them together."""

    def __init__(self, out: FrameWriter, prefix: str, limit: int) -> None:
        self.out, self.prefix, self.left = out, prefix, limit
        self.to_compare = COMPARE_LIMIT

    def view(self, view: DiffView) -> None:
        keep = max(2, _OPEN_LIMIT // (len(view.uppers) + len(view.lowers)))
        with contextlib.ExitStack() as stack:
            layers: list[list[Layer]] = [[], []]
            for places, opened in zip((view.uppers, view.lowers), layers, strict=True):
                for place in places:
                    opened.append(open_layer(place, self.prefix, keep=keep))
                    stack.callback(opened[-1].close)
            uppers, lowers = layers
            path = os.fsencode(view.target.rstrip("/"))
            if uppers and lowers:
                self.top(path, os.fstat(uppers[0].fd), os.fstat(lowers[0].fd))
            try:
                self.walk(_level(path, uppers, lowers, merged=True))
            except OSError as error:
                if error.filename is None or isinstance(error.filename, int):
                    raise OSError(error.errno, os.strerror(error.errno or 0), path or b"/") from error
                raise

    def top(self, path: bytes, now: os.stat_result, before: os.stat_result) -> None:
        if (now.st_mode ^ before.st_mode) & _TOP_MODE:
            self.tell(MODIFIED, path or b"/", now)

    def walk(self, top: Level) -> None:
        """Depth first, in the order of names. Layers go down and up with the levels that list them."""
        levels = [top]
        while levels:
            level = levels[-1]
            if level.names:
                below = self.entry(level, level.names.pop())
                if below is not None:
                    levels.append(below)
                continue
            levels.pop()
            if levels:
                for layer in (*level.uppers, *level.lowers):
                    layer.up()

    def entry(self, level: Level, name: str) -> Level | None:
        """Tell how one entry changed; the next level if it is, or was, a directory."""
        path = b"%b/%b" % (level.path, os.fsencode(name))
        now = look_up(level.uppers, name)
        merged = level.merged and not now.final
        if now.entry is None and merged:
            return None  # it is gone from the upper layers since they were listed
        before = look_up(level.lowers, name)
        if now.entry is not None and before.entry is not None:
            self.compare(path, name, now.entry, before.entry)
        elif now.entry is not None:
            self.tell(ADDED, path, now.entry.info)
        elif before.entry is not None:
            self.tell(DELETED, path, before.entry.info)
        if not now.entered and not before.entered:
            return None
        return _level(path, now.entered, before.entered, merged=merged)

    def compare(self, path: bytes, name: str, now: Entry, before: Entry) -> None:
        info, old = now.info, before.info
        if _metadata(info) != _metadata(old):
            self.tell(MODIFIED, path, info)
        elif stat.S_ISDIR(info.st_mode):
            if info.st_mtime_ns != old.st_mtime_ns:
                self.tell(MODIFIED, path, info, mtime_only=True)
        elif info.st_mtime_ns != old.st_mtime_ns or not self.same(name, now, before):
            self.tell(MODIFIED, path, info)

    def tell(self, kind: int, path: bytes, info: os.stat_result, *, mtime_only: bool = False) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW), path)
        if len(path) > MAX_PATH:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path[:1000])
        size = 0 if stat.S_ISDIR(info.st_mode) else info.st_size
        self.out.put(CHANGE, ChangeRecord(kind, info.st_mode, size, mtime_only, path).pack())

    def same(self, name: str, now: Entry, before: Entry) -> bool:
        """Whether two entries with equal metadata have the same content."""
        mode, size = now.info.st_mode, now.info.st_size
        if stat.S_ISLNK(mode):
            return os.readlink(name, dir_fd=now.layer.fd) == os.readlink(name, dir_fd=before.layer.fd)
        if not stat.S_ISREG(mode):
            return now.info.st_rdev == before.info.st_rdev
        self.to_compare -= size
        return self.to_compare >= 0 and _same_bytes(name, now.layer.fd, before.layer.fd)


def _level(path: bytes, uppers: list[Layer], lowers: list[Layer], *, merged: bool) -> Level:
    """Where the upper layers let the lower ones show through, only entries of their own can differ."""
    names = {name for layer in (uppers if merged else (*uppers, *lowers)) for name in layer.names()}
    return Level(path, uppers, lowers, merged, sorted(names, reverse=True))


def _metadata(info: os.stat_result) -> tuple[int, ...]:
    size = 0 if stat.S_ISDIR(info.st_mode) else info.st_size
    return info.st_mode, info.st_uid, info.st_gid, size


def _same_bytes(name: str, *directories: int) -> bool:
    """Compare two files; what is no file any more, or may not be read, is not the same."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with contextlib.ExitStack() as stack:
        files = []
        try:
            for directory in directories:
                files.append(os.open(name, flags, dir_fd=directory))
                stack.callback(os.close, files[-1])
            if not all(stat.S_ISREG(os.fstat(fd).st_mode) for fd in files):
                return False
            while True:
                one, other = (os.read(fd, CHUNK) for fd in files)
                if one != other:
                    return False
                if not one:
                    return True
        except OSError:
            return False
