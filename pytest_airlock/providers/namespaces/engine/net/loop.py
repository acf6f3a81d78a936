"""Calls back when a descriptor is ready, and closes what takes long to close beside all that."""

from __future__ import annotations

import _socket
import _thread
import errno
import os
import select
import sys
import time
from _heapq import heapify, heappop, heappush
from _queue import Empty, SimpleQueue
from collections.abc import Callable, Sequence

__all__ = ["Loop", "Timer"]

#: What accept(2) says when there is no room.
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

# To close what hears packets waits some 10 ms until all processors have noticed (synchronize_net of the kernel); many threads
# that wait at once wait no longer than one. In the end there is one for each.
_CLOSERS, _CLOSERS_IN_THE_END = 4, 128
_BREATH = 0.1  # seconds after which there may be room again
#: Timers that were cancelled are thrown away when there are more of them than of others, and than this.
_FEW = 64


class Timer:
    """A call that is still to come, as long as `call` is not None."""

    __slots__ = ("_loop", "call")

    def __init__(self, loop: Loop, call: Callable[[], None]) -> None:
        self._loop = loop
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Nothing is called any more, nor held; it was called already is no error."""
        if self.call is not None:
            self.call = None
            self._loop.cancelled()


class Loop:
    """epoll(7), level-triggered. What is called must not wait and must do a bounded piece of work."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[], None]] = {}
        self._events: dict[int, int] = {}
        self._vital: set[int] = set()
        self._closing: SimpleQueue[int] = SimpleQueue()
        self._closers = 0
        self._later: list[tuple[float, int, Timer]] = []
        self._count = self._cancelled = 0

    @staticmethod
    def now() -> float:
        """Seconds, of a clock that only goes on."""
        return time.monotonic()

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call it once, then; at the earliest in the next turn."""
        self._count += 1
        timer = Timer(self, call)
        heappush(self._later, (time.monotonic() + seconds, self._count, timer))
        return timer

    def cancelled(self) -> None:
        """A timer was: without this those of connections that are over would pile up until they are due."""
        self._cancelled += 1
        if self._cancelled > max(_FEW, len(self._later) // 2):
            self._later = [each for each in self._later if each[2].call is not None]
            heapify(self._later)
            self._cancelled = 0

    def add(self, sock: _socket.socket, call: Callable[[], None]) -> None:
        self.watch(sock.fileno(), call)

    def watch(self, fd: int, call: Callable[[], None], *, vital: bool = False) -> None:
        """A `vital` one that fails ends the loop."""
        if vital:
            self._vital.add(fd)
        self._calls[fd] = call
        self._listen(fd, select.EPOLLIN)

    def change(self, sock: _socket.socket, events: int) -> None:
        """What it is called for from now on: EPOLLIN, EPOLLOUT, 0 = nothing, not even an error or a hang-up."""
        self._listen(sock.fileno(), events)

    def _listen(self, fd: int, events: int) -> None:
        before = self._events.get(fd, 0)
        if events == before:
            return
        if not before:
            self._epoll.register(fd, events)
        elif events:
            self._epoll.modify(fd, events)
        else:
            self._epoll.unregister(fd)
        self._events[fd] = events

    def remove(self, sock: _socket.socket) -> None:
        """No more calls for it; none was there is no error."""
        fd = sock.fileno()
        if self._calls.pop(fd, None) is not None:
            self._listen(fd, 0)
            del self._events[fd]

    def accept(self, listener: _socket.socket) -> _socket.socket | None:
        """Who waits there, not blocking; None if it is gone. Where there is no room for it `listener` is not called for a
        while: whoever waits still waits, and would be announced again at once.
        """
        try:
            fd, _ = listener._accept()  # type: ignore[attr-defined]  # of the C class: socket.py is not loaded
        except OSError as error:
            if error.errno in _SHORT:
                self.change(listener, 0)
                call = self._calls[listener.fileno()]
                self.later(_BREATH, lambda: self._go_on(listener, call))
            return None
        sock = _socket.socket(fileno=fd)
        sock.setblocking(False)
        return sock

    def _go_on(self, listener: _socket.socket, call: Callable[[], None]) -> None:
        if self._calls.get(listener.fileno()) is call:
            self.change(listener, select.EPOLLIN)

    def close(self, sock: _socket.socket) -> None:
        self.remove(sock)
        sock.close()

    def close_later(self, sock: _socket.socket) -> None:
        """Close what takes long."""
        self.remove(sock)
        if self._closers < _CLOSERS and (not self._closers or self._closing.qsize()):
            try:
                _thread.start_new_thread(self._close_for_ever, ())
            except RuntimeError:
                pass  # this user has too many: the ones there are do it, or this one
            else:
                self._closers += 1
        if self._closers:
            self._closing.put(sock.detach())
        else:
            sock.close()

    def _close_for_ever(self) -> None:
        while True:
            os.close(self._closing.get())

    def close_all_slow(self, sockets: Sequence[_socket.socket]) -> None:
        """Close them and what is still to be closed, side by side; done when this returns."""
        for sock in sockets:
            self._closing.put(sock.detach())
        over = []
        for _ in range(min(self._closing.qsize(), _CLOSERS_IN_THE_END)):
            lock = _thread.allocate_lock()
            lock.acquire()
            try:
                _thread.start_new_thread(self._close_the_rest, (lock,))
            except RuntimeError:
                break  # the end of the process closes the rest
            over.append(lock)
        for lock in over:
            lock.acquire()

    def _close_the_rest(self, over: _thread.LockType) -> None:
        try:
            while True:
                os.close(self._closing.get_nowait())
        except Empty:
            over.release()

    def turn(self) -> None:
        """Wait, and call whoever is ready. What fails is told in the log and not called again: it is the matter of one
        sandbox, and must not be that of all.
        """
        for fd, _ in self._epoll.poll(self._patience()):
            call = self._calls.get(fd)  # an earlier one may have removed it
            if call is None:
                continue
            try:
                call()
            except Exception:
                if fd in self._vital:
                    raise
                sys.excepthook(*sys.exc_info())
                if fd in self._calls:
                    self._listen(fd, 0)
        self._call_due()

    def _patience(self) -> float:
        """Seconds until the next is due; -1 = there is none."""
        return max(0.0, self._later[0][0] - time.monotonic()) if self._later else -1

    def _call_due(self) -> None:
        now, last = time.monotonic(), self._count
        while self._later and self._later[0][0] <= now and self._later[0][1] <= last:
            _, _, timer = heappop(self._later)
            call, timer.call = timer.call, None
            if call is None:
                self._cancelled -= 1
                continue
            try:
                call()
            except Exception:  # noqa: BLE001 - as above
                sys.excepthook(*sys.exc_info())
