"""What was provisioned, kept between runs: one file for each content key, in the cache directory.

    layers/KEY.layer       MAGIC, sha256 of the rest, sha256 of the run's id, what the provider exported; replaced as a whole
    layers/KEY.lease       held by who provisions it; locks/, KEY.owner: as in the state directory (lease.py, locks.py)

The files hold whatever provisioning wrote. They are 0600 in a directory of our own; what is in them came from inside a
sandbox and is the provider's to distrust (contract 32). The digest finds damage, not enemies.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from pytest_airlock.models import Owner
from pytest_airlock.orchestrator.contracts import Clock, Lease
from pytest_airlock.orchestrator.storage.lease import LeaseFiles
from pytest_airlock.orchestrator.storage.locks import NameLocks
from pytest_airlock.orchestrator.storage.state_files import NEW, ensure_private_dir, remove_file, store_errors

__all__ = ["LayerFiles", "default_cache_dir"]

MAGIC = b"airlock layer file 1\n"
_DIGEST = 32
_PAYLOAD = len(MAGIC) + 2 * _DIGEST
#: Bytes of all files together, and seconds between two looks at a lease that somebody holds.
LIMIT = 2 << 30
_POLL = 0.05


def default_cache_dir() -> Path:
    """Of this user; XDG_CACHE_HOME moves it."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("pytest-airlock")).absolute()


class LayerFiles:
    """All methods raise StoreError for a directory that cannot be used. `owner` is who we are to others."""

    def __init__(self, root: Path, owner: Owner, clock: Clock, *, limit: int = LIMIT) -> None:
        self._root, self._owner, self._clock, self.limit = root, owner, clock, limit
        self._run = hashlib.sha256(owner.run_id.encode()).digest()
        self._locks = NameLocks(root / "locks", self._has_lease)
        self._leases = LeaseFiles(root, self._locks.hold)

    def _has_lease(self, key: str) -> bool:
        return self._leases.exists(key)

    def claim(self, key: str, *, waiting: Callable[[Owner | None], None]) -> Lease:
        """Only we provision `key` until the lease is released. While somebody else does, wait for the end of that, or of him;
        `waiting` is told who it is.
        """
        ensure_private_dir(self._root.parent, strict=False)
        for place in (self._root, self._root / "locks"):
            ensure_private_dir(place)
        lease = self._leases.take(key, self._owner)
        if lease is None:
            waiting(self._leases.holder(key))
        while lease is None:
            self._clock.sleep(_POLL)
            lease = self._leases.take(key, self._owner)
        return lease

    @contextlib.contextmanager
    def opened(self, key: str, *, of_this_run: bool = False) -> Iterator[IO[bytes] | None]:
        """What was exported, up to its end; None if there is nothing, or nothing `of_this_run`. Raises ValueError for a damaged file."""
        file = self._open(key)
        if file is None:
            yield None
            return
        with file:
            _verify(file)
            if of_this_run and file.read(_DIGEST) != self._run:
                yield None
                return
            os.utime(file.fileno())  # it was used last now
            file.seek(_PAYLOAD)
            yield file

    def _open(self, key: str) -> IO[bytes] | None:
        path = self._path(key)
        with store_errors(path):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
                os.close(fd)
                # Whoever owns a directory above ours can put another in its place.
                raise PermissionError(errno.EPERM, "it is not ours alone", path)
            return open(fd, "rb")

    def save(self, key: str, write: Callable[[IO[bytes]], None]) -> None:
        """Keep what `write` writes to the file it is given. Room is made by removing what was not used for longest."""
        path = self._path(key)
        aside = path + NEW
        remove_file(aside)
        try:
            with store_errors(aside):
                fd = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(fd, "w+b") as file:
                file.write(MAGIC + bytes(_DIGEST) + self._run)
                write(file)
                file.seek(len(MAGIC) + _DIGEST)
                digest = _digest(file)
                file.seek(len(MAGIC))
                file.write(digest)
            with store_errors(path):
                os.rename(aside, path)
        except BaseException:
            remove_file(aside)
            raise
        self._prune(key)

    def remove(self, key: str) -> None:
        remove_file(self._path(key))

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}.layer"

    def _prune(self, newest: str) -> None:
        for path in self._root.glob(f"*.layer{NEW}"):
            key = path.name.removesuffix(f".layer{NEW}")
            if self._leases.is_free(key):  # its writer was killed
                remove_file(str(path))
                self._leases.forget(key)
        sizes: dict[Path, os.stat_result] = {}
        for path in self._root.glob("*.layer"):
            with contextlib.suppress(FileNotFoundError):
                sizes[path] = path.stat()
        left = self.limit
        # Whoever reads one that is removed has it open, and keeps it.
        for path in sorted(sizes, key=lambda path: (path.stem != newest, -sizes[path].st_mtime_ns)):
            left -= sizes[path].st_size
            if left < 0:
                remove_file(str(path))


def _digest(file: IO[bytes]) -> bytes:
    """Of the rest of the file."""
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.digest()


def _verify(file: IO[bytes]) -> None:
    """Leaves the file where the digest's subject begins."""
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError("it is no such file")
    if file.read(_DIGEST) != _digest(file):
        raise ValueError("it is not what was written")
    file.seek(len(MAGIC) + _DIGEST)
