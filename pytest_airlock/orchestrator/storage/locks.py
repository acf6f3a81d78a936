"""Short-held locks between threads and processes: one file per name, flock(2), gone again when nothing needs it.

flock belongs to the open file description: two threads that open the file contend as two processes do, and a child
made by fork shares the lock with its parent. So after os.fork the child closes what it inherited; it must not unlock,
that would unlock the parent's.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_airlock.errors import StoreError
from pytest_airlock.orchestrator.storage.state_files import store_errors

__all__ = ["NameLocks"]

#: Seconds. What is done under these locks takes microseconds; a holder that was stopped must not hang everybody.
PATIENCE = 30.0


class _Held(threading.local):
    """What this thread holds, and how often it entered."""

    def __init__(self) -> None:
        self.depth: dict[str, int] = {}


_mine = _Held()
_descriptors: set[int] = set()
# Held while a descriptor is opened and entered above, and over a fork: no child inherits one that is not listed.
_guard = threading.RLock()


def _after_fork_in_child() -> None:
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()
    _mine.depth.clear()
    _guard.release()


os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_after_fork_in_child)


class NameLocks:
    """`hold(name)`: mutual exclusion for one name; a thread may enter again what it holds.

    `needed(name)` tells whether the lock's file has to stay when it is let go.
    """

    def __init__(self, directory: Path, needed: Callable[[str], bool], *, patience: float = PATIENCE) -> None:
        self._directory = directory
        self._needed = needed
        self._patience = patience

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        path = f"{self._directory}/{name}.lock"
        if path in _mine.depth:
            _mine.depth[path] += 1
            try:
                yield
            finally:
                _leave(path)
            return
        descriptor = self._acquire(path)
        pid = os.getpid()
        _mine.depth[path] = 1
        try:
            yield
        finally:
            _leave(path)
            if os.getpid() == pid:
                self._release(descriptor, path, name)

    def drop(self, name: str) -> None:
        """Remove the file if nothing needs it. Never waits: who holds the lock does it then."""
        path = f"{self._directory}/{name}.lock"
        descriptor = _try_lock(path) if os.path.exists(path) else None
        if descriptor is not None:
            self._release(descriptor, path, name)

    def _acquire(self, path: str) -> int:
        deadline = time.monotonic() + self._patience
        pause = 0.0002
        while True:
            descriptor = _try_lock(path)
            if descriptor is not None:
                return descriptor
            if time.monotonic() > deadline:
                raise StoreError(
                    path,
                    f"another process holds this lock for more than {self._patience:g} s",
                    hint="a process that uses airlock may be stopped (state T in ps); continue it or end it",
                )
            time.sleep(pause)
            pause = min(pause * 2, 0.02)

    def _release(self, descriptor: int, path: str, name: str) -> None:
        with _guard, store_errors(path):
            try:
                # Unlinked while locked: whoever waits on this inode sees that it has no name any more.
                if not self._needed(name):
                    os.unlink(path)
            except FileNotFoundError:
                pass  # the state directory was removed by hand
            finally:
                _descriptors.discard(descriptor)
                # close() alone would leave the lock with a child that is between fork and exec.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                os.close(descriptor)


def _try_lock(path: str) -> int | None:
    with _guard, store_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                _descriptors.add(descriptor)
                return descriptor
        except BlockingIOError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None


def _leave(path: str) -> None:
    # Empty in a child forked inside the block: it holds nothing.
    depth = _mine.depth.get(path, 0) - 1
    if depth > 0:
        _mine.depth[path] = depth
    else:
        _mine.depth.pop(path, None)
