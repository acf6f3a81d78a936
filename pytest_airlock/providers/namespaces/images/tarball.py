"""Unpack a root file system from a tarball, once per content, so that nothing in it can act on the host.

Every object is made relative to a descriptor of its directory, which is reached without following a link. Links keep their
text: an absolute one means a path inside. Devices and FIFOs are left out, set-uid and set-gid stripped, white-out names
are names like any other. Everything belongs to whoever unpacks: inside, to root.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from hashlib import blake2b
from pathlib import Path

from pytest_airlock.errors import InvalidSpec, StoreError

__all__ = ["Limits", "extract", "unpack"]

_FORMAT = 1  # counted up when the same tarball would be unpacked differently
_CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
#: What a full or broken disk says, as opposed to a name that no file system takes.
_OF_THE_CACHE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
)
#: Locks of trees in use, held until this process ends, so that nobody prunes them.
_held: dict[str, int] = {}


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of an archive: entries, and bytes of all its files together."""

    entries: int = 1_000_000
    size: int = 32 << 30


def unpack(archive: str, cache: Path, *, check: Callable[[str], None], limits: Limits | None = None) -> str:
    """The directory below `cache` with the content of `archive`, unpacked now or before; `check(directory)` may refuse it.

    Concurrent callers, other processes included, wait for the one that unpacks. Half-written trees are never seen;
    those of a former content of the same path go once nobody uses them.
    Raises InvalidSpec if the archive is missing, damaged or unsafe; StoreError if the cache cannot be written.
    """
    name = _key(archive)
    target = str(cache / name)
    if target in _held and os.path.isdir(target):
        return target
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Two locks: whoever waits to build must not wait for those who already use the tree until their end.
        builder = _lock(str(cache / "build.lock"), LOCK_EX)
        try:
            lock = _lock(f"{target}.lock", LOCK_SH)
            try:
                if not os.path.isdir(target):
                    _build(archive, target, check, limits or Limits())
            except BaseException:
                os.close(lock)
                raise
        finally:
            os.close(builder)
    except OSError as error:
        raise StoreError(
            str(cache), error.strerror or str(error), hint="is the disk full, or somebody else's?"
        ) from error
    other = _held.setdefault(target, lock)
    if other != lock:  # another thread was faster
        os.close(lock)
    _prune(cache, name)
    return target


def _key(archive: str) -> str:
    """NAME-CONTENT: digests of the path and of what tells one content from another without reading it."""
    try:
        info = os.stat(archive)
    except OSError as error:
        raise InvalidSpec("image", archive, error.strerror or str(error)) from error
    if not stat.S_ISREG(info.st_mode):
        raise InvalidSpec("image", archive, "it is neither a directory nor a file")
    content = f"{_FORMAT} {info.st_dev} {info.st_ino} {info.st_size} {info.st_mtime_ns}"
    return "-".join(blake2b(os.fsencode(text), digest_size=12).hexdigest() for text in (archive, content))


def _lock(path: str, kind: int) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            flock(fd, kind)
            with suppress(FileNotFoundError):  # pruned between open and flock: try again
                if os.stat(path).st_ino == os.fstat(fd).st_ino:
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _build(archive: str, target: str, check: Callable[[str], None], limits: Limits) -> None:
    """Called with the lock held: what lies about is of a builder that died."""
    partial = f"{target}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    os.mkdir(partial, 0o700)
    try:
        extract(archive, partial, limits)
        check(partial)
        os.rename(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _prune(cache: Path, name: str) -> None:
    """Remove trees of former contents of the same archive that no process holds; whatever resists stays."""
    for path in cache.glob(f"{name.partition('-')[0]}-*.lock"):
        tree = path.with_suffix("")
        if tree.name == name:
            continue
        try:
            lock = _lock(str(path), LOCK_EX | LOCK_NB)
        except OSError:  # in use
            continue
        try:
            shutil.rmtree(tree, ignore_errors=True)
            path.unlink(missing_ok=True)
        finally:
            os.close(lock)


def extract(archive: str, target: str, limits: Limits) -> None:
    """Unpack into an empty directory. Raises InvalidSpec for a damaged or unsafe archive, OSError for a bad disk."""
    with open(archive, "rb") as file:
        if file.read(4) == _ZSTANDARD and sys.version_info < (3, 14):
            hint = "decompress it first: zstd -d"
            raise InvalidSpec("image", archive, "Python reads zstd tarballs from 3.14 on", hint=hint)
    root = os.open(target, _DIRECTORY)
    unpacker = _Unpacker(archive, root, limits)
    try:
        _read(archive, unpacker)
        unpacker.finish()
    except tarfile.TarError as error:
        raise InvalidSpec("image", archive, f"it is no tarball, or a damaged one: {error}") from error
    except OSError as error:
        if error.errno in _OF_THE_CACHE:
            raise
        raise unpacker.refuse(unpacker.name, error.strerror or str(error)) from error
    finally:
        unpacker.close()


def _read(archive: str, unpacker: _Unpacker) -> None:
    ended = False

    class Member(tarfile.TarInfo):
        @classmethod
        def fromtarfile(cls, tar: tarfile.TarFile) -> Member:
            nonlocal ended
            try:
                return super().fromtarfile(tar)
            except tarfile.HeaderError as error:
                ended = type(error).__name__ == "EOFHeaderError"  # a block of zeros; no public name
                raise

    # A stream is read once, front to back: what a compressed file expands to is bounded by the sizes its members declare.
    with tarfile.open(archive, "r|*", tarinfo=Member, encoding="utf-8", errors="surrogateescape") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            unpacker.add(tar, member)
    if not ended:  # tarfile stops silently at a header it cannot read
        raise InvalidSpec("image", archive, "it ends in the middle: cut off or damaged")


class _Unpacker:
    """Makes members below one directory. Modes of directories are set at the end, when nothing is made in them any more."""

    def __init__(self, archive: str, root: int, limits: Limits) -> None:
        self.archive, self.root, self.limits = archive, root, limits
        self.entries = self.size = 0
        self.name = ""
        self.directories: dict[tuple[str, ...], tuple[int, float]] = {(): (0o755, 0)}
        self._parent: tuple[tuple[str, ...], int] = ((), os.dup(root))

    def refuse(self, name: str, why: str) -> InvalidSpec:
        return InvalidSpec("image", self.archive, f"member {name!r}: {why}")

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        self.name = member.name
        self.entries += 1
        if self.entries > self.limits.entries:
            raise self.refuse(member.name, f"there are more than {self.limits.entries} members")
        parts = self._parts(member.name)
        if not parts:
            if member.isdir():
                self.directories[()] = (_directory_mode(member), member.mtime)
            return
        if member.isdir():
            self._replace_link(parts)
            self._make_directory(parts)
            self.directories[parts] = (_directory_mode(member), member.mtime)
        elif member.isreg():
            self._make_file(tar, member, parts)
        elif member.issym():
            self._replace(parts)
            os.symlink(member.linkname, parts[-1], dir_fd=self._open(parts[:-1]))
        elif member.islnk():
            self._make_hard_link(member, parts)

    def finish(self) -> None:
        """Directories get their modes and times, the deepest first."""
        for parts in sorted(self.directories, key=len, reverse=True):
            self.name = "/".join(parts)
            mode, mtime = self.directories[parts]
            fd = self._walk(parts)
            try:
                os.fchmod(fd, mode)
                os.utime(fd, (mtime, mtime))
            finally:
                os.close(fd)

    def close(self) -> None:
        os.close(self._parent[1])
        os.close(self.root)

    def _parts(self, name: str) -> tuple[str, ...]:
        if "\0" in name:
            raise self.refuse(name, "the name has a NUL in it")
        if name.startswith("/"):
            raise self.refuse(name, "the name is absolute")
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if ".." in parts:
            raise self.refuse(name, "the name has '..' in it")
        return parts

    def _make_directory(self, parts: tuple[str, ...]) -> None:
        # What is in the way stays: _walk refuses to go through it.
        with suppress(FileExistsError):
            os.mkdir(parts[-1], 0o700, dir_fd=self._open(parts[:-1]))
            self.directories.setdefault(parts, (0o755, 0))

    def _make_file(self, tar: tarfile.TarFile, member: tarfile.TarInfo, parts: tuple[str, ...]) -> None:
        self.size += member.size
        if self.size > self.limits.size:
            raise self.refuse(member.name, f"the files are more than {self.limits.size} bytes together")
        self._replace(parts)
        source = tar.extractfile(member)
        if source is None:
            raise self.refuse(member.name, "it has no content")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(parts[-1], flags, 0o600, dir_fd=self._open(parts[:-1]))
        with source, os.fdopen(fd, "wb", buffering=0) as file:
            shutil.copyfileobj(source, file, _CHUNK)
            # Readable for us: the kernel reads it as us when it is copied up.
            os.fchmod(fd, (member.mode & 0o777) | 0o400)
            os.utime(fd, (member.mtime, member.mtime))

    def _make_hard_link(self, member: tarfile.TarInfo, parts: tuple[str, ...]) -> None:
        old = self._parts(member.linkname)
        if not old or old == parts:
            raise self.refuse(member.name, f"it is a hard link to {member.linkname!r}")
        directory = self._walk(old[:-1])
        try:
            kind = os.lstat(old[-1], dir_fd=directory).st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISLNK(kind)):
                raise self.refuse(member.name, f"it is a hard link to {member.linkname!r}, which is no file")
            self._replace(parts)
            parent = self._open(parts[:-1])
            os.link(old[-1], parts[-1], src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(directory)

    def _replace(self, parts: tuple[str, ...]) -> None:
        """A later member of the same name wins, unless a directory would go with all that is in it."""
        with suppress(FileNotFoundError):
            os.unlink(parts[-1], dir_fd=self._open(parts[:-1]))

    def _replace_link(self, parts: tuple[str, ...]) -> None:
        """The same for a directory: one that is there already is kept."""
        if parts not in self.directories:
            self._replace(parts)

    def _open(self, parts: tuple[str, ...]) -> int:
        """A descriptor of a directory, made where missing; it belongs to this object (neighbours mostly follow)."""
        if self._parent[0] != parts:
            for depth in range(1, len(parts) + 1):
                if parts[:depth] not in self.directories:
                    self._make_directory(parts[:depth])
            fd = self._walk(parts)
            os.close(self._parent[1])
            self._parent = (parts, fd)
        return self._parent[1]

    def _walk(self, parts: tuple[str, ...]) -> int:
        fd = os.dup(self.root)
        for part in parts:
            try:
                inner = os.open(part, _DIRECTORY, dir_fd=fd)
            except NotADirectoryError as error:
                raise self.refuse(self.name, f"its path runs through {part!r}, which is no directory") from error
            finally:
                os.close(fd)
            fd = inner
        return fd


def _directory_mode(member: tarfile.TarInfo) -> int:
    # Ours to enter and to delete; root inside would pass all the same.
    return (member.mode & 0o1777) | 0o700
