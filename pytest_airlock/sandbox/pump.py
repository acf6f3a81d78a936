"""The one loop that moves bytes between a command's streams and the host, until the command has ended.

Lean on purpose: it runs for each command of each test. No threads, one select.poll, reads as large as the pipe.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import select
import stat
import sys
import termios
import time
from collections.abc import Callable
from typing import Any

from pytest_airlock.providers.base import Exit, Process
from pytest_airlock.sandbox.transcript import HALF, Excerpt

__all__ = ["Late", "Overflow", "Reader", "Target", "Writer", "drain", "pump"]

PIPE_SIZE = 65_536
BIG = 1 << 20
_SET_PIPE_SIZE: int | None = getattr(fcntl, "F_SETPIPE_SZ", None)


class Late(Exception):
    """The deadline passed; the command may still run."""


class Overflow(Exception):
    """A stream carried more than its limit; the command may still run."""


class Reader:
    """A stream coming out of the sandbox. Keeps its bytes, or hands them to `target` and keeps head and tail."""

    __slots__ = ("_chunk", "_head", "_keep", "_small", "_tail", "fd", "limit", "seen", "target")

    def __init__(self, fd: int, limit: int | None, target: Target | None = None) -> None:
        self.fd = fd
        self.limit = limit
        self.target = target
        self.seen = 0
        self._keep: list[bytes] = []
        self._small = bytearray()
        self._head = self._tail = b""
        self._chunk = PIPE_SIZE

    def pull(self, deadline: float | None, most: int = BIG) -> int:
        """One read; 0 at the end of the stream."""
        data = os.read(self.fd, min(self._chunk, most))
        size = len(data)
        if size:
            if size == PIPE_SIZE == self._chunk:
                self._grow()
            self.seen += size
            if self.target is None:
                self._add(data)
            else:
                self._head += data[: HALF - len(self._head)]
                self._tail = (self._tail + data)[-HALF:]
                self.target.write(data, deadline)
            if self.limit is not None and self.seen > self.limit:
                raise Overflow
        return size

    def captured(self) -> bytes:
        """What was captured, at most `limit` bytes of it."""
        if self.target:
            return b""
        data = b"".join((*self._keep, self._small))
        return data if self.limit is None or len(data) <= self.limit else data[: self.limit]

    def excerpt(self, captured: bytes) -> Excerpt:
        """Head and tail; `captured` is what captured() gave."""
        if self.target is None:
            return Excerpt.of(captured)
        rest = self.seen - len(self._head)
        return Excerpt(self._head, self._tail[-rest:] if rest else b"", self.seen)

    def _add(self, data: bytes) -> None:
        """Small pieces share one buffer: each object costs 50 bytes, so that a writer of single bytes would cost us 25 times
        what it wrote.
        """
        if len(data) < PIPE_SIZE // 16:
            self._small += data
            if len(self._small) < PIPE_SIZE:
                return
            data = b""
        if self._small:
            self._keep.append(bytes(self._small))
            self._small.clear()
        if data:
            self._keep.append(data)

    def _grow(self) -> None:
        """A full pipe: a writer of much. One system call per 64 KiB is what such a capture would cost."""
        self._chunk = BIG
        if _SET_PIPE_SIZE is not None:
            try:
                fcntl.fcntl(self.fd, _SET_PIPE_SIZE, BIG)
            except OSError as error:
                # No pipe (EBADF, EINVAL), or over the user's quota of pipe pages (EPERM, pipe(7)).
                if error.errno not in (errno.EBADF, errno.EINVAL, errno.EPERM, errno.EBUSY, errno.ENOMEM):
                    raise


class Writer:
    """The command's stdin: bytes given, or the content of a host descriptor `source`."""

    __slots__ = ("_data", "_stream", "fd", "source")

    def __init__(self, stream: Any, data: bytes | memoryview = b"", source: int | None = None) -> None:
        self._stream = stream
        self._data = memoryview(data).cast("B")
        self.source = source
        self.fd: int = stream.fileno()
        os.set_blocking(self.fd, False)

    @property
    def waits_for(self) -> tuple[int, int] | None:
        """The descriptor and event that lets it go on; None if all is written and closed."""
        if self._data:
            return self.fd, select.POLLOUT
        if self.source is not None:
            return self.source, select.POLLIN
        if not self._stream.closed:
            self._stream.close()
        return None

    def push(self) -> None:
        if not self._data:
            self._data = memoryview(os.read(self.source, PIPE_SIZE) if self.source is not None else b"")
            if not self._data:
                self.source = None
            return
        try:
            self._data = self._data[os.write(self.fd, self._data[:BIG]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it does not want to read more: no error, as in subprocess
            self._data, self.source = memoryview(b""), None


class Target:
    """A host file that receives a stream: a descriptor, or an object with `write`."""

    def __init__(self, file: Any, encoding: str, errors: str) -> None:
        self._write: Callable[[bytes], object]
        self._fd: int | None = None
        self._blocks = False
        if isinstance(file, int):
            self._fd = file
        else:
            if hasattr(file, "flush"):
                file.flush()
            try:
                self._fd = file.fileno()
            except (AttributeError, io.UnsupportedOperation):
                self._write = _writer(file, encoding, errors)
        if self._fd is not None:
            self._blocks = not stat.S_ISREG(os.fstat(self._fd).st_mode)

    def write(self, data: bytes, deadline: float | None) -> None:
        if self._fd is None:
            self._write(data)
            return
        view = memoryview(data)
        while view:
            if self._blocks:
                _wait(self._fd, deadline)
            # Room for PIPE_BUF bytes is all that POLLOUT promises of a pipe.
            view = view[os.write(self._fd, view[: select.PIPE_BUF] if self._blocks else view) :]


def _writer(file: Any, encoding: str, errors: str) -> Callable[[bytes], object]:
    if not isinstance(file, io.TextIOBase):
        return file.write  # type: ignore[no-any-return]
    if hasattr(file, "buffer"):
        return file.buffer.write  # type: ignore[no-any-return]
    from codecs import getincrementaldecoder

    decoder = getincrementaldecoder(encoding)(errors)
    return lambda data: file.write(decoder.decode(data))


def _wait(fd: int, deadline: float | None) -> None:
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    if not poller.poll(_left(deadline)):
        raise Late


def _left(deadline: float | None) -> float | None:
    """Milliseconds until the deadline."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise Late
    return left * 1000 + 1  # poll(2) counts whole milliseconds: never wake just before


def pump(process: Process, readers: list[Reader], writer: Writer | None, deadline: float | None) -> Exit:
    """Move bytes until the direct child has ended and what it left in the pipes is read.

    A descendant that keeps a stream open is not waited for. Raises Late and Overflow, leaving the command as it
    is, and SandboxDied.
    """
    end = process.fileno()
    poller = select.poll()
    poller.register(end, select.POLLIN)
    open_ = {reader.fd: reader for reader in readers}
    for fd in open_:
        poller.register(fd, select.POLLIN)
    wanted: tuple[int, int] | None = None
    while True:
        if writer is not None:
            wanted = _rearm(poller, wanted, writer)
            writer = writer if wanted else None
        ended = False
        for fd, _ in poller.poll(_left(deadline)):
            if fd == end:
                ended = True
            elif fd in open_:
                if not open_[fd].pull(deadline):
                    poller.unregister(fd)
                    del open_[fd]
            elif writer is not None:
                writer.push()
        if ended:
            result = process.poll()
            if result is not None:
                drain(list(open_.values()), deadline)
                return result


def _rearm(poller: select.poll, old: tuple[int, int] | None, writer: Writer) -> tuple[int, int] | None:
    new = writer.waits_for
    if new != old:
        if old is not None:
            poller.unregister(old[0])
        if new is not None:
            poller.register(*new)
    return new


def drain(readers: list[Reader], deadline: float | None = None) -> None:
    """Read what is in the pipes now, and no more: a daemon may write for ever."""
    for reader in readers:
        left = int.from_bytes(fcntl.ioctl(reader.fd, termios.FIONREAD, bytes(4)), sys.byteorder)
        while left > 0:
            size = reader.pull(deadline, left)
            if not size:
                break
            left -= size
