"""Skeletons of own directories, kept on disk below the cache directory: built once per machine and user.

    skeletons/NAME/list    the directories of a source when they were looked at (a Shape)
    skeletons/NAME/tree    own ones of the same shape
    skeletons/NAME/done    made last: the tree is whole
    skeletons/new-RANDOM   a list before it has its place; dead-RANDOM: what is being removed

The first server that meets a source leaves its list, the next one that finds the list still true has the tree built, by a
child in the background that dies with it and goes on where another was killed. So what does not last, such as a machine
made anew for every run, is not charged for it.

A server holds a shared flock(2) on `list` for as long as it lives, so that nobody removes what it stands on; who builds
or removes holds it alone. What may be used is decided by the source as it is now, never by age. Whatever is wrong
here costs time, not safety: without a tree the caller makes its directories in memory. Of a tree that is whole this trusts
whoever can write to the cache directory of this user; it is never mounted read-write in a sandbox.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from _blake2 import blake2b  # hashlib would load OpenSSL into every process of every sandbox
from collections import Counter
from collections.abc import Iterable

from .dirstack import OPEN_DIRECTORY
from .helpers import begin
from .shape import Shape
from .trees import remove_tree

__all__ = ["Skeletons", "open_home"]

#: Below so many directories memory is as fast, and a disk block each not worth it.
WORTHWHILE = 500
#: How many are kept in all, and of one source: those used last.
KEPT, KEPT_OF_ONE = 12, 2
#: Left free on the file system of the cache.
SPARE_BYTES, SPARE_INODES = 512 << 20, 100_000


class Skeletons:
    """All skeletons of a machine and user. Of one fork server, whose children build and remove."""

    def __init__(self) -> None:
        self.children: list[int] = []
        self._home = -1
        self._held: list[int] = []

    def find(self, cache: str, source: str, *, root: str = "") -> tuple[str | None, Shape | None]:
        """(path of a tree with the directories of `source` as they are now, their shape), each None if it is not known.

        `cache` is the directory for all of them, `root` where the machine is found. The tree stays until this process
        ends, and nobody writes to it.
        """
        try:
            if self._home < 0:
                self._home = open_home(root + cache, "skeletons")
            key = blake2b(os.fsencode(source), digest_size=8).hexdigest()
            return self._find(key, root + source)
        except OSError:  # a cache that is none, or damaged
            return None, None

    def reap(self) -> None:
        """Collect the children that are done."""
        self.children = [pid for pid in self.children if os.waitpid(pid, os.WNOHANG)[0] == 0]

    def _find(self, key: str, source: str) -> tuple[str | None, Shape | None]:
        for entry in self._entries():
            if entry.startswith(f"{key}-"):
                with contextlib.suppress(OSError):  # it is being removed, or damaged
                    found = self._try(entry, source)
                    if found[1] is not None:
                        return found
        now = time.time_ns()
        shape = Shape.of(source)
        if len(shape.paths) >= WORTHWHILE and shape.settled(now):
            self._note(key, shape)
        return None, shape

    def _try(self, entry: str, source: str) -> tuple[str | None, Shape | None]:
        """Use an entry, if it is of the source as it is now; if its tree is not whole, see that it gets so."""
        with open(os.open(self._at(f"{entry}/list"), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            shape = Shape.unpack(file.read())
        if shape is None or not shape.matches(source):
            return None, None
        if os.path.exists(self._at(f"{entry}/done")):
            with contextlib.suppress(OSError):  # it is being removed
                self._held.append(self._lock(entry, fcntl.LOCK_SH))
                os.utime(self._held[-1])
                return self._at(f"{entry}/tree"), shape
        elif _has_room(self._home):
            self.children.append(begin(lambda: self._build(entry, shape), nice=10))
        return None, shape

    def _at(self, name: str) -> str:
        # By its descriptor: who can rename directories above it does not lead us elsewhere.
        return f"/proc/self/fd/{self._home}/{name}"

    def _lock(self, entry: str, how: int) -> int:
        """The descriptor of its list, locked. Raises OSError if others have it locked, or it is gone."""
        path = self._at(f"{entry}/list")
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(fd), os.lstat(path)):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        except OSError:
            os.close(fd)
            raise
        return fd

    def _entries(self) -> list[str]:
        """Names of those that have a list, the one used last first."""
        found = []
        for name in os.listdir(self._home):
            if not name.startswith(("new-", "dead-")):
                with contextlib.suppress(OSError):  # removed since it was listed, or damaged
                    found.append((os.stat(self._at(f"{name}/list")).st_mtime_ns, name))
        return [name for _, name in sorted(found, reverse=True)]

    def _note(self, key: str, shape: Shape) -> None:
        """Leave the list of a source: whole or not at all, whatever happens."""
        self._tidy()
        data = shape.pack()
        aside = self._at(f"new-{os.urandom(8).hex()}")
        os.mkdir(aside, 0o700)
        fd = os.open(f"{aside}/list", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            fcntl.flock(fd, fcntl.LOCK_SH)
            file.write(data)
            file.flush()
            os.fsync(fd)
            with contextlib.suppress(OSError):  # somebody else had the same to note
                os.rename(aside, self._at(f"{key}-{blake2b(data, digest_size=8).hexdigest()}"))

    def _build(self, entry: str, shape: Shape) -> None:
        fd = self._lock(entry, fcntl.LOCK_EX)
        with contextlib.suppress(FileExistsError):  # begun by one who was killed
            os.mkdir(self._at(f"{entry}/tree"), 0o755)
        os.umask(0)
        os.chdir(self._at(f"{entry}/tree"))  # short paths, which is most of the time
        make_directories(".", shape, resume=True)
        done = os.open(self._at(f"{entry}/done"), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        # The journal keeps the order: with this on disk, so are the directories made before it.
        os.fsync(done)
        os.close(fd)

    def _tidy(self) -> None:
        """Remove what was not used for longest, what dead processes left, and what is none of ours."""
        kept: set[str] = set()
        of_one: Counter[str] = Counter()
        for entry in self._entries():
            source = entry.partition("-")[0]
            of_one[source] += 1
            # One less of each than may stay: another one is to be made.
            if len(kept) < KEPT - 1 and of_one[source] < KEPT_OF_ONE:
                kept.add(entry)
        old = [name for name in os.listdir(self._home) if name not in kept]
        if old:
            self.children.append(begin(lambda: self._remove(old), nice=10))

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError):  # somebody uses it, or removes it as we do
                self._remove_one(name)

    def _remove_one(self, name: str) -> None:
        fd = -1
        with contextlib.suppress(FileNotFoundError):  # killed before it was made, or after it was removed
            fd = self._lock(name, fcntl.LOCK_EX)
        dead = self._at(f"dead-{os.urandom(8).hex()}")
        os.rename(self._at(name), dead)
        remove_tree(os.fsencode(dead))
        if fd >= 0:
            os.close(fd)


def make_directories(top: str, shape: Shape, *, resume: bool = False) -> None:
    """The shape's directories below `top`, which is there; with `resume` some of them may be, too."""
    for path, mode in zip(shape.paths[1:], shape.modes[1:], strict=True):
        try:
            os.mkdir(top + path, mode)
        except FileExistsError:
            if not resume:
                raise


def open_home(cache: str, name: str) -> int:
    """The directory `name` in the cache, made if need be: ours alone, as the one above it is ours to write."""
    os.makedirs(cache, 0o700, exist_ok=True)
    above = os.open(cache, OPEN_DIRECTORY | os.O_NOFOLLOW)
    try:
        _require_ours(above, 0o022)
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=above)
        home = os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
    finally:
        os.close(above)
    try:
        _require_ours(home, 0o077)
    except OSError:
        os.close(home)
        raise
    return home


def _require_ours(fd: int, others: int) -> None:
    info = os.fstat(fd)
    if info.st_uid != os.geteuid() or info.st_mode & others:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def _has_room(home: int) -> bool:
    free = os.fstatvfs(home)
    # No inodes at all: a file system that makes them as needed.
    return free.f_bavail * free.f_frsize > SPARE_BYTES and (not free.f_files or free.f_favail > SPARE_INODES)
