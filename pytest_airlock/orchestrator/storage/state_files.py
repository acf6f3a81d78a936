"""Files of the state directory: private from the first moment, replaced as a whole, every error named with its path."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pytest_airlock.errors import StoreError

__all__ = [
    "FileIdentity",
    "default_state_dir",
    "ensure_private_dir",
    "file_identity",
    "read_file",
    "remove_file",
    "remove_tree",
    "store_errors",
    "write_file",
]

#: Bytes. A record is some kilobytes; whatever is larger is not one.
MAX_FILE = 16 * 1024**2
#: What the name of a file that is being written ends in.
NEW = ".new"

_HINTS = {
    errno.ENOSPC: "the disk is full: free some space, or put the state elsewhere with AIRLOCK_STATE_DIR",
    errno.EDQUOT: "the disk quota is used up: free some space, or put the state elsewhere with AIRLOCK_STATE_DIR",
    errno.EROFS: "the file system is read-only: put the state elsewhere with AIRLOCK_STATE_DIR",
    errno.EACCES: "give yourself access, or put the state elsewhere with AIRLOCK_STATE_DIR",
    errno.EPERM: "give yourself access, or put the state elsewhere with AIRLOCK_STATE_DIR",
    errno.ENOENT: "the state directory was removed while it was in use, or AIRLOCK_STATE_DIR leads nowhere: start again, "
    "or put the state elsewhere",
}


@contextmanager
def store_errors(path: str | Path) -> Iterator[None]:
    """Turn an OSError into a StoreError with path, cause and hint."""
    try:
        yield
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "put the state elsewhere with AIRLOCK_STATE_DIR")
        raise StoreError(str(path), error.strerror or str(error), hint=hint) from error


def default_state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """AIRLOCK_STATE_DIR, else what platformdirs says; absolute."""
    chosen = environ.get("AIRLOCK_STATE_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_state_dir("pytest-airlock", appauthor=False)).absolute()


def ensure_private_dir(path: Path, *, strict: bool = True) -> None:
    """Make `path` with mode 0700, or check that what is there is ours and closed to others; else StoreError.

    Not `strict`: others may look into it but not write. An existing mode is never changed: the directory may be shared
    on purpose (/tmp), and closing it would break others.
    """
    with store_errors(path):
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.mkdir(mode=0o700)
        except FileExistsError:
            pass
        found = os.stat(path, follow_symlinks=not strict)
    forbidden = 0o077 if strict else 0o022
    if not stat.S_ISDIR(found.st_mode):
        raise StoreError(str(path), "it is not a directory", hint="move it away, or set AIRLOCK_STATE_DIR")
    if found.st_uid != os.geteuid():
        raise StoreError(
            str(path), f"it belongs to uid {found.st_uid}", hint="set AIRLOCK_STATE_DIR to one of your own"
        )
    if found.st_mode & forbidden:
        raise StoreError(
            str(path),
            f"others have access to it (mode {stat.S_IMODE(found.st_mode):o})",
            hint=f"if nobody else needs it: chmod 700 {path}; else set AIRLOCK_STATE_DIR to a new directory",
        )


def write_file(path: str, data: bytes) -> None:
    """Replace `path` as a whole: readers see the old file or the new one. The caller holds the name's lock.

    No fsync: what the records describe does not survive a crash of the machine either, and a file that a crash left
    empty is moved aside as corrupt.
    """
    # One fixed name is enough under the lock, and whoever writes next clears what a killed writer left.
    temporary = path + NEW
    with store_errors(path):
        remove_file(temporary)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                _write_all(descriptor, data)
            finally:
                os.close(descriptor)
            os.rename(temporary, path)
        except OSError:
            # A full disk stays full of half a record otherwise.
            remove_file(temporary)
            raise


def remove_file(path: str) -> None:
    """Remove it if it is there."""
    with store_errors(path), suppress(FileNotFoundError):
        os.unlink(path)


def remove_tree(path: Path) -> None:
    """Remove a directory with all below it if it is there. No link is followed: one in its place is itself removed."""
    with store_errors(path):
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


FileIdentity = tuple[int, int, int, int]


def file_identity(path: str) -> FileIdentity | None:
    """What tells a file from the one that replaced it (inode, times in ns, size); None if there is none."""
    with store_errors(path):
        try:
            found = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            return None
    return found.st_ino, found.st_ctime_ns, found.st_mtime_ns, found.st_size


def read_file(path: str) -> bytes | None:
    """The content, None if there is no such file; StoreError if it cannot be read."""
    with store_errors(path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        with open(descriptor, "rb") as file:
            return file.read(MAX_FILE + 1)
