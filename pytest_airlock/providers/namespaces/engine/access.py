"""Looking at objects of a hostile file system: nothing is opened before it is known to be a file. PYTEST_DONT_REWRITE.

Where somebody swaps an object in between, O_NONBLOCK and a second look keep the call from hanging.
"""

from __future__ import annotations

import errno
import os
import stat

from .frames import FileRecord

__all__ = ["OPEN_FILE", "describe", "failure", "open_regular", "require_regular", "write_all"]

OPEN_FILE = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def failure(code: int, path: bytes) -> OSError:
    return OSError(code, os.strerror(code), path)


def require_regular(info: os.stat_result, path: bytes) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise failure(errno.EISDIR, path)
    if not stat.S_ISREG(info.st_mode):
        raise failure(errno.EINVAL, path)


def open_regular(path: bytes, directory: int | None = None) -> int:
    """A descriptor to read from. Below `directory` a link is not followed."""
    follow = directory is None
    require_regular(os.stat(path, dir_fd=directory, follow_symlinks=follow), path)
    fd = os.open(path, os.O_RDONLY | OPEN_FILE | (0 if follow else os.O_NOFOLLOW), dir_fd=directory)
    try:
        require_regular(os.fstat(fd), path)
    except OSError:
        os.close(fd)
        raise
    return fd


def describe(name: bytes, directory: int, depth: int) -> FileRecord:
    """lstat and readlink of an entry."""
    info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    target = os.readlink(name, dir_fd=directory) if stat.S_ISLNK(info.st_mode) else b""
    return FileRecord.of(info, depth=depth, name=name, target=target)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
