"""Leases: a name held for as long as its owner lives.

A lease is a filelock (flock) on `NAME.lease` and, beside it, `NAME.owner`, which says who holds it. The kernel drops the
lock with the last process that has the file open: usually the owner. A child that the owner forked keeps it, so a lock
that is held is no proof of life; pid, start time and boot id are. Of an owner that is proved dead the lock file is
unlinked, and a new one taken in its place.

Every step here runs under the name's short lock (locks.py), so nobody is ever between opening and locking the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pytest_airlock.models import Owner
from pytest_airlock.orchestrator.storage.process_identity import Verdict, verdict
from pytest_airlock.orchestrator.storage.state_files import NEW, read_file, remove_file, store_errors, write_file

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["FileLease", "LeaseFiles"]

# Strong references: a FileLock unlocks when it is collected, and a lease ends by release() or death only.
_held: set[BaseFileLock] = set()


def _after_fork_in_child() -> None:
    """Close, never unlock: unlocking the shared file description would free the parent's lease.

    filelock does it itself from version 4 on; then the descriptor is None here.
    """
    for lock in list(_held):
        context = lock._context
        if context.lock_file_fd is not None:
            os.close(context.lock_file_fd)
            context.lock_file_fd = None
    _held.clear()


class FileLease:
    """contracts.Lease. In a child made by fork it holds nothing, and release() does nothing."""

    def __init__(self, name: str, lock: BaseFileLock, release: Callable[[], None]) -> None:
        self.name = name
        self._lock = lock
        self._release = release
        self._pid = os.getpid()
        self._over = False

    def release(self) -> None:
        if self._over or os.getpid() != self._pid:
            return
        self._over = True
        self._release()


class LeaseFiles:
    """The lease files of one state directory. `locked` is the name's short lock; methods enter it themselves."""

    def __init__(self, directory: Path, locked: Callable[[str], AbstractContextManager[None]]) -> None:
        self._directory = directory
        self._locked = locked

    def take(self, name: str, owner: Owner) -> FileLease | None:
        """The lease of `name`, or None if whoever holds it is not proved dead."""
        with self._locked(name):
            lock = self._try(name)
            if lock is None and self._holder_verdict(name) == "dead":
                remove_file(self._path(name))
                lock = self._try(name)
            if lock is None:
                return None
            try:
                write_file(self._owner_path(name), owner.model_dump_json().encode())
            except BaseException:
                self._drop(lock, self._path(name))
                raise
            inode = _inode(self._path(name))
            return FileLease(name, lock, lambda: self._give_back(name, lock, inode))

    def is_free(self, name: str) -> bool:
        """Nobody has it locked."""
        with self._locked(name):
            path = self._path(name)
            if not os.path.exists(path):
                return True
            lock = self._try(name)
            if lock is None:
                return False
            self._drop(lock, path)
            return True

    def holder(self, name: str) -> Owner | None:
        """Who took it last, None if that is not known."""
        data = read_file(self._owner_path(name))
        if not data:
            return None
        try:
            return Owner.model_validate_json(data)
        except ValidationError:
            return None

    def exists(self, name: str) -> bool:
        return os.path.exists(self._path(name)) or os.path.exists(self._owner_path(name))

    def forget(self, name: str) -> None:
        """Remove the files of a lease that the caller took, or of which the holder is dead."""
        for path in (self._path(name), self._owner_path(name), self._owner_path(name) + NEW):
            remove_file(path)

    def _holder_verdict(self, name: str) -> Verdict:
        owner = self.holder(name)
        return "unknown" if owner is None else verdict(owner)

    def _try(self, name: str) -> BaseFileLock | None:
        from filelock import FileLock, Timeout

        _register_fork_hook()
        path = self._path(name)
        # Any thread of the owner may give it back.
        lock = FileLock(path, mode=0o600, thread_local=False)
        with store_errors(path):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return None
        _held.add(lock)
        return lock

    def _give_back(self, name: str, lock: BaseFileLock, inode: tuple[int, int] | None) -> None:
        with self._locked(name):
            try:
                # Somebody removed the state directory and took the name anew: theirs stays.
                if _inode(self._path(name)) == inode:
                    self.forget(name)
            finally:
                self._drop(lock, self._path(name))

    def _drop(self, lock: BaseFileLock, path: str) -> None:
        _held.discard(lock)
        with store_errors(path):
            lock.release()

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}.lease"

    def _owner_path(self, name: str) -> str:
        return f"{self._directory}/{name}.owner"


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


_hooked = False


def _register_fork_hook() -> None:
    # After filelock was imported: its own hook has to run first, or a descriptor would be closed twice.
    global _hooked  # noqa: PLW0603 - once per process
    if not _hooked:
        _hooked = True
        os.register_at_fork(after_in_child=_after_fork_in_child)
