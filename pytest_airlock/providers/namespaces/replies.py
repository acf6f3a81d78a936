"""Reading what comes out of a sandbox: bounded in bytes and in time, and every fault of the stream is an error of ours."""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from collections.abc import Callable, Iterator
from typing import IO

from pytest_airlock.errors import ProviderError
from pytest_airlock.providers.base import FileKind
from pytest_airlock.providers.namespaces.engine.frames import END, ERROR, FrameError, FrameReader, unpack_error

__all__ = ["DEADLINE", "KINDS", "Patience", "Replies"]

#: Seconds a call may spend waiting for its worker, whose processor time the sandbox can take away, or stop it.
DEADLINE = 600.0
#: Seconds without any progress until a worker counts as stopped: the longest step without a frame takes a fraction of it.
IDLE = 60.0

KINDS: dict[int, FileKind] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}


class Patience:
    """Seconds to wait for a peer in all, however it drips, and IDLE at a time. What the caller does in between does not
    count.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = self._left = seconds

    def wait(self, poll: select.poll) -> list[tuple[int, int]]:
        """The events, none when patience has run out."""
        before = time.monotonic()
        events = poll.poll(max(0.0, min(self._left, IDLE)) * 1000)
        self._left -= time.monotonic() - before
        return events


class Replies:
    """The frames a worker sends until END or ERROR; `ended` tells that one of them has come.

    `operation` names the call in a ProviderError, `path` is the filename of the OSErrors that tell of none.
    """

    def __init__(
        self,
        stream: IO[bytes],
        operation: str,
        *,
        bound: int,
        patience: Patience,
        path: str | None = None,
        died: Callable[[], Exception] | None = None,
    ) -> None:
        self.operation, self.path = operation, path
        self.ended = False
        self._died, self._patience = died, patience
        self._fd = stream.fileno()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._reader = FrameReader(self._receive, bound=bound)

    def refuse(self, why: str) -> ProviderError:
        """The error for a reply that no honest worker gives; `why` completes "its worker …"."""
        return ProviderError(
            "namespaces", self.operation, f"its worker {why}", hint="the sandbox may be hostile or broken"
        )

    def stuck(self) -> ProviderError:
        return self.refuse(f"kept us waiting for more than {min(self._patience.seconds, IDLE):g} seconds")

    def frames(self, *kinds: int) -> Iterator[tuple[int, bytes]]:
        """Frames of these kinds. Raises OSError for an ERROR frame, ProviderError for anything else, and what `died`
        returns if the stream ends before its last frame.
        """
        while True:
            try:
                kind, payload = self._reader.next()
            except FrameError as error:
                raise self.refuse(f"sent {error}") from error
            except EOFError as error:
                raise (self._died() if self._died else self.refuse("ended before its work")) from error
            if kind == END:
                self.ended = True
                return
            if kind == ERROR:
                raise self._outcome(payload)
            if kind not in kinds:
                raise self.refuse(f"sent a frame of kind {kind} out of place")
            yield kind, payload

    def kind(self, mode: int) -> FileKind:
        if stat.S_IFMT(mode) not in KINDS:
            raise self.refuse(f"sent the file type {stat.S_IFMT(mode):#o}")
        return KINDS[stat.S_IFMT(mode)]

    def _outcome(self, payload: bytes) -> Exception:
        try:
            code, path = unpack_error(payload)
        except FrameError as error:
            return self.refuse(f"sent {error}")
        if code not in errno.errorcode:
            return self.refuse(f"sent the unknown errno {code}")
        self.ended = True
        return OSError(code, os.strerror(code), os.fsdecode(path) if self.path is None else self.path)

    def _receive(self, size: int) -> bytes:
        if not self._patience.wait(self._poll):
            raise self.stuck()
        return os.read(self._fd, size)
