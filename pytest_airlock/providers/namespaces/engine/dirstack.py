"""Walking a tree of any depth: no recursion, few descriptors, no long path, no followed link. PYTEST_DONT_REWRITE."""

from __future__ import annotations

import errno
import os

__all__ = ["DirStack", "names"]

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOCTTY | os.O_CLOEXEC


class DirStack:
    """The open directories from a root down to where one is. It owns `root`, a directory's descriptor.

    At most `keep` of them stay open beside the root. To come up again to one that was closed, `..` is opened and must be
    the same directory by device and inode, else OSError(ESTALE): somebody moved the tree while it was walked.
    """

    def __init__(self, root: int, *, keep: int = 64) -> None:
        self._keep = keep
        self._fds = [root]
        self._closed: dict[int, tuple[int, int]] = {}

    @property
    def fd(self) -> int:
        """The directory one is in; valid until the next move."""
        return self._fds[-1]

    def down(self, name: bytes | str, *, follow: bool = False) -> None:
        """Enter a subdirectory; one behind a symbolic link only with `follow` (else OSError(ENOTDIR))."""
        flags = OPEN_DIRECTORY if follow else OPEN_DIRECTORY | os.O_NOFOLLOW
        self._fds.append(os.open(name, flags, dir_fd=self._fds[-1]))
        depth = len(self._fds) - 1 - self._keep
        if depth > 0 and self._fds[depth] >= 0:
            self._closed[depth] = _identity(self._fds[depth])
            os.close(self._fds[depth])
            self._fds[depth] = -1

    def up(self) -> None:
        """Leave the directory for the one it was entered from."""
        depth = len(self._fds) - 2
        if self._fds[depth] < 0:
            above = os.open("..", OPEN_DIRECTORY, dir_fd=self._fds[-1])
            self._fds[depth] = above
            if _identity(above) != self._closed.pop(depth):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        os.close(self._fds.pop())

    def close(self) -> None:
        """Twice is fine."""
        while self._fds:
            fd = self._fds.pop()
            if fd >= 0:
                os.close(fd)


def names(fd: int) -> list[bytes]:
    """What is in a directory, the last name first, so that pop() goes through it in order."""
    return sorted(map(os.fsencode, os.listdir(fd)), reverse=True)


def _identity(fd: int) -> tuple[int, int]:
    info = os.fstat(fd)
    return info.st_dev, info.st_ino
