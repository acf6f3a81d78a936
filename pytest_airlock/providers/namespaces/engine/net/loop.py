"""Calls back when a descriptor is ready, and closes what takes long to close beside all that."""

from __future__ import annotations

import _socket
import _thread
import os
import select
from _queue import SimpleQueue
from collections.abc import Callable

__all__ = ["Loop"]

#: Threads that close. Each waits some 10 ms for all processors to have noticed (synchronize_net of the kernel), many at once
#: no longer than one.
_CLOSERS = 4


class Loop:
    """epoll(7), level-triggered. What is called must not wait and must do a bounded piece of work."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[], None]] = {}
        self._closing: SimpleQueue[int] = SimpleQueue()
        self._closers = 0

    def add(self, sock: _socket.socket, call: Callable[[], None]) -> None:
        self.watch(sock.fileno(), call)

    def watch(self, fd: int, call: Callable[[], None]) -> None:
        self._calls[fd] = call
        self._epoll.register(fd, select.EPOLLIN)

    def remove(self, sock: _socket.socket) -> None:
        """No more calls for it; none was there is no error."""
        if self._calls.pop(sock.fileno(), None) is not None:
            self._epoll.unregister(sock.fileno())

    def close(self, sock: _socket.socket) -> None:
        self.remove(sock)
        sock.close()

    def close_later(self, sock: _socket.socket) -> None:
        """Close what takes long."""
        self.remove(sock)
        self._closing.put(sock.detach())
        if self._closers < _CLOSERS and (not self._closers or self._closing.qsize() > 1):
            self._closers += 1
            _thread.start_new_thread(self._close_for_ever, ())

    def _close_for_ever(self) -> None:
        while True:
            os.close(self._closing.get())

    def turn(self) -> None:
        """Wait, and call whoever is ready."""
        for fd, _ in self._epoll.poll():
            call = self._calls.get(fd)  # an earlier one may have removed it
            if call is not None:
                call()
