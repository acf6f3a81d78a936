"""Carries bytes over a network that is bad on purpose: late, slow, or broken off."""

from __future__ import annotations

import _socket
import fcntl
import os
import select
import struct
import time
from collections import deque
from collections.abc import Callable

from .loop import Loop
from .policy import Fault
from .relay import reset

__all__ = ["FaultyRelay"]

_PIECE = 16 << 10
#: Bytes of each direction that are on their way; the sender waits for room.
_ON_THE_WAY = 256 << 10
#: Whoever sends byte by byte waits for room, too: each piece takes a hundred more.
_PIECES = 1024
_SIOCOUTQ = 0x5411
_TICK = 0.01  # seconds that a slow way is made of


class _Direction:
    """From `source` to `target`: what was read at one moment is written no earlier than `latency` later, and no faster than
    `bandwidth`.
    """

    def __init__(self, source: _socket.socket, target: _socket.socket, fault: Fault) -> None:
        self.source, self.target, self._fault = source, target, fault
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._free = 0.0  # when the way can take the next byte
        self.given = 0
        self.ended = self.told = False

    @property
    def reads(self) -> bool:
        return not self.ended and self._size < _ON_THE_WAY and len(self._pieces) < _PIECES

    @property
    def due(self) -> float | None:
        """When the first piece may arrive; None if there is none."""
        return max(self._pieces[0][0], self._free) if self._pieces else None

    def take(self, now: float) -> None:
        """Raises OSError if the end is broken."""
        while self.reads:
            try:
                data = self.source.recv(_PIECE)
            except BlockingIOError:
                return
            self.ended = not data
            if data:
                self._pieces.append((now + self._fault.latency, data))
                self._size += len(data)

    def give(self, now: float, most: int | None) -> bool:
        """Write what is due, of `most` bytes in all; whether the target has no room. Raises OSError if it is broken."""
        while (due := self.due) is not None and due <= now and most != self.given:
            when, data = self._pieces[0]
            room = len(data) if most is None else most - self.given
            if self._fault.bandwidth:
                room = min(room, max(1, int(self._fault.bandwidth * _TICK)))
            try:
                count = self.target.send(data[:room])
            except BlockingIOError:
                return True
            self.given += count
            self._size -= count
            if self._fault.bandwidth:
                self._free = max(self._free, now - _TICK) + count / self._fault.bandwidth
            if count < len(data):
                self._pieces[0] = when, data[count:]
            else:
                self._pieces.popleft()
        if self.ended and not self._pieces and not self.told:
            self.told = True
            self.target.shutdown(_socket.SHUT_WR)
        return False


def _unread(sock: _socket.socket) -> bool:
    """Whether the other end has not acknowledged all that was sent (SIOCOUTQ of tcp(7))."""
    count: int = struct.unpack("=i", fcntl.ioctl(sock, _SIOCOUTQ, bytes(4)))[0]
    return count > 0


class FaultyRelay:
    """Owns both sockets from now on: the program's, and that of what it speaks to. `over` is called once, when they are closed."""

    def __init__(
        self,
        loop: Loop,
        inner: _socket.socket,
        outer: _socket.socket,
        fault: Fault,
        over: Callable[[FaultyRelay], None],
    ) -> None:
        self._loop, self._fault, self._over = loop, fault, over
        self._up, self._down = _Direction(inner, outer, fault), _Direction(outer, inner, fault)
        limits = [size for size in (fault.reset_after, fault.cut_after) if size is not None]
        self._most = min(limits) if limits else None
        self._due = 0.0  # the earliest call that was asked for
        self.open = True
        for sock in (inner, outer):
            loop.add(sock, self._carry)
        self._carry()

    def _carry(self) -> None:
        if not self.open:
            return
        now = time.monotonic()
        try:
            for way in (self._up, self._down):
                code = way.source.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
                if code:
                    raise OSError(code, os.strerror(code))
                way.take(now)
            full_up = self._up.give(now, None)
            full_down = self._down.give(now, self._most)
        except OSError:
            self.abort()
            return
        if self._most is not None and self._down.given >= self._most:
            self._break_off()
        elif self._up.told and self._down.told:
            self._close(_socket.socket.close)
        else:
            self._wait(now, full_up=full_up, full_down=full_down)

    def _break_off(self) -> None:
        """As many bytes arrived as are to; a reset would take from the program what it has not read yet."""
        inner = self._down.target
        if self._fault.reset_after == self._most:
            if _unread(inner):
                for way in (self._up, self._down):
                    self._loop.change(way.source, 0)
                self._loop.later(_TICK, self._carry)
                return
            self.abort()
        else:
            self._close(_socket.socket.close)

    def _wait(self, now: float, *, full_up: bool, full_down: bool) -> None:
        for way, reverse_full in ((self._up, full_down), (self._down, full_up)):
            events = (select.EPOLLIN if way.reads else 0) | (select.EPOLLOUT if reverse_full else 0)
            self._loop.change(way.source, events)
        dues = [
            way.due for way, full in ((self._up, full_up), (self._down, full_down)) if way.due is not None and not full
        ]
        if dues and (self._due <= now or min(dues) < self._due):
            self._due = max(min(dues), now)
            self._loop.later(max(0.0, self._due - now), self._carry)

    def abort(self) -> None:
        """Both ends see a reset, at once."""
        if self.open:
            self._close(reset)

    def _close(self, close: Callable[[_socket.socket], None]) -> None:
        self.open = False
        for way in (self._up, self._down):
            self._loop.remove(way.source)
            close(way.source)
        self._over(self)
