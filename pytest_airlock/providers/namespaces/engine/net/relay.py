"""Carries bytes between two sockets in both directions, without looking at them.

By splice(2), through a pipe for each direction: what a reader that is slow or stopped has not taken waits in the pipe and
then at the sender, never in this process' memory.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import select
import struct
from collections.abc import Callable

from .loop import Loop

__all__ = ["Relay", "reset"]

_PIPE = 256 << 10  # bytes; what the kernel gives less of is slower, no more
_F_SETPIPE_SZ = 1031
_SPLICE_F_MOVE, _SPLICE_F_NONBLOCK = 1, 2
_PIECE = 4096  # fits any empty pipe
_AT_ONCE = 8  # pieces in each direction, so that one connection does not hold up all others


def reset(sock: _socket.socket) -> None:
    """Close it, so that the other end is told of an abort (SO_LINGER of socket(7))."""
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class _Way:
    """One direction: a source, a pipe, a target."""

    def __init__(self, source: _socket.socket, target: _socket.socket) -> None:
        self.source, self.target = source, target
        self.read, self.write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.waiting = 0  # bytes in the pipe
        self.ended = self.told = False
        try:
            fcntl.fcntl(self.write, _F_SETPIPE_SZ, _PIPE)
        except PermissionError:
            pass  # the user has many pipes already (pipe-user-pages-soft of pipe(7))

    def carry(self) -> None:
        """Move what can be moved now. Raises OSError if an end is broken."""
        for _ in range(_AT_ONCE):
            moved = self._take() | self._give()
            if not moved:
                break
        if self.ended and not self.waiting and not self.told:
            self.told = True
            self.target.shutdown(_socket.SHUT_WR)

    def _take(self) -> bool:
        if self.ended:
            return False
        try:
            count = os.splice(self.source.fileno(), self.write, _PIPE, flags=_SPLICE_F_MOVE | _SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return not self.waiting and self._step_over_mark()
        self.ended = count == 0
        self.waiting += count
        return count > 0

    def _step_over_mark(self) -> bool:
        """splice(2) stops before urgent data (MSG_OOB) for ever; recv(2) does not."""
        try:
            data = self.source.recv(_PIECE)
        except BlockingIOError:
            return False
        self.ended = not data
        if data:
            self.waiting += os.write(self.write, data)
        return bool(data)

    def _give(self) -> bool:
        if not self.waiting:
            return False
        try:
            count = os.splice(self.read, self.target.fileno(), self.waiting, flags=_SPLICE_F_MOVE | _SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return False
        self.waiting -= count
        return count > 0

    def close(self) -> None:
        os.close(self.read)
        os.close(self.write)


class Relay:
    """Owns both sockets from now on; `over` is called once, when they are closed."""

    def __init__(self, loop: Loop, one: _socket.socket, other: _socket.socket, over: Callable[[Relay], None]) -> None:
        self._loop, self._over = loop, over
        there = _Way(one, other)
        try:
            self._ways = (there, _Way(other, one))
        except OSError:
            there.close()
            raise
        self.open = True
        for sock in (one, other):
            loop.add(sock, self._carry)
        self._carry()

    def _carry(self) -> None:
        if not self.open:
            return
        try:
            for way in self._ways:
                # A reset that came while nobody read or wrote shows in no call of splice.
                if way.source.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR):
                    raise ConnectionResetError
                way.carry()
        except OSError:
            self.abort()
            return
        if all(way.told for way in self._ways):
            self._close(_socket.socket.close)
            return
        there, back = self._ways
        for way, reverse in ((there, back), (back, there)):
            # Its source is read while the pipe is empty; it is written to while the other pipe is not.
            events = (0 if way.ended or way.waiting else select.EPOLLIN) | (select.EPOLLOUT if reverse.waiting else 0)
            self._loop.change(way.source, events)

    def abort(self) -> None:
        """Both ends see a reset, at once."""
        if self.open:
            self._close(reset)

    def _close(self, close: Callable[[_socket.socket], None]) -> None:
        self.open = False
        for way in self._ways:
            self._loop.remove(way.source)
        for way in self._ways:
            close(way.source)
            way.close()
        self._over(self)
