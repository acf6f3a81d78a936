"""Paths inside a sandbox, with the methods of pathlib. No method opens anything on the host."""

from __future__ import annotations

import errno
import fnmatch
import io
import os
import stat as modes
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Union

from pytest_airlock.providers.base import FileKind, FileStat
from pytest_airlock.sandbox.backend import Backend

__all__ = ["READ_LIMIT", "SandboxPath"]

#: Most bytes that a read gives to the host, unless told otherwise.
READ_LIMIT = 64 * 1024 * 1024
#: Characters of all paths that a glob() looks at: half a million ordinary ones.
GLOB_LIMIT = 32 * 1024 * 1024

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_TYPES: dict[FileKind, int] = {
    "file": modes.S_IFREG, "dir": modes.S_IFDIR, "symlink": modes.S_IFLNK, "fifo": modes.S_IFIFO,
    "socket": modes.S_IFSOCK, "char": modes.S_IFCHR, "block": modes.S_IFBLK,
}  # fmt: skip

Pathish = Union[str, PurePosixPath, "SandboxPath"]


class SandboxPath:
    """An absolute path inside one sandbox; every access is as the sandbox's root user, links are resolved inside.

    It is no os.PathLike: open(path) would open the *host's* file of that name. Errors are those of pathlib (OSError
    with errno and filename), and StaleSandbox after the sandbox was handed back.
    """

    __slots__ = ("_backend", "_path")

    def __init__(self, backend: Backend, path: Pathish) -> None:
        self._backend = backend
        self._path = PurePosixPath(str(path))
        if not self._path.is_absolute():
            raise ValueError(f"{str(path)!r} is not absolute: paths inside a sandbox start with /")
        if "\0" in str(self._path):
            raise ValueError("embedded null byte")

    # -- pure ------------------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        return str(self._path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._path)!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SandboxPath):
            return NotImplemented
        return self._path == other._path and self._backend is other._backend

    def __lt__(self, other: SandboxPath) -> bool:
        return self._path < other._path

    def __hash__(self) -> int:
        return hash((self._path, id(self._backend)))

    def __truediv__(self, other: Pathish) -> SandboxPath:
        return SandboxPath(self._backend, self._path / str(other))

    def joinpath(self, *others: Pathish) -> SandboxPath:
        return SandboxPath(self._backend, self._path.joinpath(*map(str, others)))

    def with_name(self, name: str) -> SandboxPath:
        return SandboxPath(self._backend, self._path.with_name(name))

    def with_suffix(self, suffix: str) -> SandboxPath:
        return SandboxPath(self._backend, self._path.with_suffix(suffix))

    @property
    def parent(self) -> SandboxPath:
        return SandboxPath(self._backend, self._path.parent)

    @property
    def parents(self) -> tuple[SandboxPath, ...]:
        return tuple(SandboxPath(self._backend, path) for path in self._path.parents)

    @property
    def name(self) -> str:
        return self._path.name

    @property
    def stem(self) -> str:
        return self._path.stem

    @property
    def suffix(self) -> str:
        return self._path.suffix

    @property
    def parts(self) -> tuple[str, ...]:
        return self._path.parts

    # -- questions -------------------------------------------------------------------------------------------------

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Type and mode, owner, size and times; device, inode and link count are not told (0, 0, 1)."""
        return _result(self._stat(follow_symlinks=follow_symlinks))

    def lstat(self) -> os.stat_result:
        return self.stat(follow_symlinks=False)

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        return self._kind(follow_symlinks=follow_symlinks) is not None

    def is_file(self) -> bool:
        return self._kind() == "file"

    def is_dir(self) -> bool:
        return self._kind() == "dir"

    def is_symlink(self) -> bool:
        return self._kind(follow_symlinks=False) == "symlink"

    def readlink(self) -> str:
        """The text of the link, which may be anything."""
        found = self._stat(follow_symlinks=False)
        if found.kind != "symlink" or found.target is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(self))
        return found.target

    def iterdir(self) -> Iterator[SandboxPath]:
        """The entries of a directory, sorted."""
        for entry in self._backend.listdir(str(self)):
            yield SandboxPath(self._backend, entry.path)

    def glob(self, pattern: str) -> Iterator[SandboxPath]:
        """Matching paths below, sorted; `**` is any number of directories, links to directories are not entered.

        OSError(EOVERFLOW) where there are far too many.
        """
        parts = PurePosixPath(pattern).parts
        if not parts or pattern.startswith("/"):
            raise ValueError(f"unacceptable pattern: {pattern!r}")
        seen = dict.fromkeys(_glob(self, parts))
        yield from sorted(seen)

    # -- content ---------------------------------------------------------------------------------------------------

    def read_bytes(self, *, limit: int = READ_LIMIT) -> bytes:
        """The content of a regular file; OSError(EFBIG) beyond `limit` bytes, OSError for any other kind of file."""
        return self._backend.read(str(self), limit=limit)

    def read_text(self, encoding: str = "utf-8", errors: str = "strict", *, limit: int = READ_LIMIT) -> str:
        """As pathlib, newlines translated; the encoding does not depend on the host."""
        return io.TextIOWrapper(io.BytesIO(self.read_bytes(limit=limit)), encoding, errors).read()

    def write_bytes(self, data: bytes | bytearray | memoryview) -> int:
        """Create (mode 0644) or replace, keeping the mode."""
        content = bytes(memoryview(data))
        try:
            mode = self._stat().mode & 0o7777
        except FileNotFoundError:
            mode = 0o644
        self._backend.write(str(self), content, mode=mode)
        return len(content)

    def write_text(self, data: str, encoding: str = "utf-8", errors: str = "strict") -> int:
        self.write_bytes(data.encode(encoding, errors))
        return len(data)

    # -- changes ---------------------------------------------------------------------------------------------------

    def touch(self, mode: int = 0o644, *, exist_ok: bool = True) -> None:
        """Make an empty file if there is nothing."""
        if not self.exists():
            self._backend.write(str(self), b"", mode=mode)
        elif not exist_ok:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self))

    def mkdir(self, mode: int = 0o755, *, parents: bool = False, exist_ok: bool = False) -> None:
        if parents and not self.parent.exists():
            self.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._backend.change("mkdir", str(self), mode=mode)
        except FileExistsError:
            if not (exist_ok and self.is_dir()):
                raise

    def unlink(self, *, missing_ok: bool = False) -> None:
        try:
            if self._stat(follow_symlinks=False).kind == "dir":
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self))
            self._backend.change("remove", str(self))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmdir(self) -> None:
        if self._stat(follow_symlinks=False).kind != "dir":
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self))
        self._backend.change("remove", str(self))

    def rmtree(self) -> None:
        """The directory and all below it (pathlib has no word for shutil.rmtree)."""
        self._backend.change("rmtree", str(self))

    def rename(self, target: Pathish) -> SandboxPath:
        """Within the sandbox; a relative target is relative to this path's directory."""
        new = self.parent / str(target)
        self._backend.change("rename", str(self), to=str(new))
        return new

    def symlink_to(self, target: Pathish) -> None:
        """Make this path a link with the text `target`."""
        self._backend.change("symlink", str(self), to=str(target))

    def chmod(self, mode: int) -> None:
        self._backend.change("chmod", str(self), mode=mode)

    def _stat(self, *, follow_symlinks: bool = True) -> FileStat:
        return self._backend.stat(str(self), follow_symlinks=follow_symlinks)

    def _kind(self, *, follow_symlinks: bool = True) -> FileKind | None:
        try:
            return self._stat(follow_symlinks=follow_symlinks).kind
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            return None


def _result(found: FileStat) -> os.stat_result:
    seconds = found.mtime_ns / 1_000_000_000
    mode = _TYPES[found.kind] | modes.S_IMODE(found.mode)
    whole = int(seconds)
    times = {"st_atime": seconds, "st_mtime": seconds, "st_ctime": seconds}
    exact = {"st_atime_ns": found.mtime_ns, "st_mtime_ns": found.mtime_ns, "st_ctime_ns": found.mtime_ns}
    return os.stat_result((mode, 0, 0, 1, found.uid, found.gid, found.size, whole, whole, whole), {**times, **exact})


def _glob(top: SandboxPath, pattern: tuple[str, ...]) -> Iterator[SandboxPath]:
    """Only what is listed is matched: no name of the pattern is trusted to exist. No recursion: a tree can be deep."""
    pending = [(top, pattern)]
    left = GLOB_LIMIT
    while pending:
        base, parts = pending.pop()
        first, rest = parts[0], parts[1:]
        if first == "**":
            if not rest:
                yield base
            else:
                pending.append((base, rest))
        for entry in base._backend.listdir(str(base)):
            left -= len(entry.path)
            if left < 0:
                raise OSError(errno.EOVERFLOW, "more files than a pattern is looked for in", str(top))
            path = SandboxPath(base._backend, entry.path)
            if first == "**":
                if entry.kind == "dir":
                    pending.append((path, parts))
            elif fnmatch.fnmatchcase(path.name, first):
                if not rest:
                    yield path
                elif entry.kind == "dir":
                    pending.append((path, rest))
