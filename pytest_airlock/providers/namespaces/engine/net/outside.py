"""The network process' end of the channel to the dialler: questions with a number, and who waits for the answers."""

from __future__ import annotations

import _socket
import errno
import os
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from .. import protocol
from .loop import Loop
from .policy import End, Way

__all__ = ["Outside", "Share"]

#: Questions to it that are open at one time, of all sandboxes; of one life, and how many more of it wait.
_MOST, _MOST_OPEN, _MOST_WAITING = 2048, 16, 1024

Dialled = Callable[[int, "_socket.socket | None"], None]


class Outside:
    """Without a dialler, and if it dies, all that is asked fails with ENOTCONN."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._channel: _socket.socket | None = None
        self._waiting: dict[int, Dialled] = {}
        self._number = 0

    @property
    def usable(self) -> bool:
        return self._channel is not None

    def begin(self, channel: _socket.socket) -> None:
        """From now on this one is asked."""
        self._give_up()
        channel.setblocking(False)
        self._channel = channel
        self._loop.add(channel, self._take)

    def dial(self, way: Way, listed: list[End], done: Dialled, kind: str = "tcp") -> None:
        """`done` gets (0, the connection) or (errno, None), never before this returns; `kind` is "tcp" or "udp"."""
        self._ask(kind, way.host, way.port, listed, done, exact=way.exact, trusted=way.trusted)

    def look_up(self, name: str, listed: list[End], done: Callable[[int], None]) -> None:
        """`done` gets 0 if the name leads to an address that may be dialled."""
        self._ask("name", name, 0, listed, lambda code, _: done(code), exact=False, trusted=False)

    def _ask(self, kind: str, host: str, port: int, listed: list[End], done: Dialled, **words: bool) -> None:
        self._number += 1
        number = self._number
        request = {"number": number, "kind": kind, "host": host, "port": port, "listed": listed, **words}
        try:
            if self._channel is None or len(self._waiting) >= _MOST:
                raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
            protocol.send_json(self._channel, request)
        except OSError as error:
            self.refuse(done, error.errno or errno.EIO)
            return
        self._waiting[number] = done

    def refuse(self, done: Dialled, code: int = errno.ENOTCONN) -> None:
        """Tell so, not before this returns."""
        self._loop.later(0, lambda: done(code, None))

    def _take(self) -> None:
        if self._channel is None:
            return
        try:
            answer, fds = protocol.receive_json(self._channel)
        except BlockingIOError:
            return
        except OSError:
            # No descriptor was left for a connection: nobody knows whose it was.
            answer, fds = None, []
        if answer is None:
            self._give_up()
            return
        sockets = [_socket.socket(fileno=fd) for fd in fds]
        done = self._waiting.pop(answer["number"], None)
        made = sockets.pop() if sockets and done is not None else None
        for sock in sockets:
            sock.close()
        if done is not None:
            _call(done, answer["error"], made)

    def _give_up(self) -> None:
        if self._channel is not None:
            self._loop.close(self._channel)
            self._channel = None
        waiting, self._waiting = self._waiting, {}
        for done in waiting.values():
            _call(done, errno.ENOTCONN, None)


class Share:
    """What one life has of it: a few of its questions are open at a time and the rest wait, so that where nobody answers only who
    asked waits.
    """

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self._open = 0
        self._waiting: deque[tuple[Callable[[Dialled], None], Dialled, Callable[[], bool]]] = deque()

    def dial(
        self, way: Way, listed: list[End], done: Dialled, *, wanted: Callable[[], bool], kind: str = "tcp"
    ) -> None:
        """As that of Outside; what is not `wanted` any more when it could begin is not dialled."""
        self._ask(lambda told: self._outside.dial(way, listed, told, kind), done, wanted)

    def look_up(self, name: str, listed: list[End], done: Callable[[int], None]) -> None:
        """As that of Outside."""
        self._ask(
            lambda told: self._outside.look_up(name, listed, lambda code: told(code, None)),
            lambda code, _: done(code),
            lambda: True,
        )

    def _ask(self, ask: Callable[[Dialled], None], done: Dialled, wanted: Callable[[], bool]) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._outside.refuse(done)
            return
        self._waiting.append((ask, done, wanted))
        self._next()

    def _next(self) -> None:
        while self._waiting and self._open < _MOST_OPEN:
            ask, done, wanted = self._waiting.popleft()
            if wanted():
                self._open += 1
                ask(partial(self._told, done))
            else:
                self._outside.refuse(done)

    def _told(self, done: Dialled, code: int, made: _socket.socket | None) -> None:
        self._open -= 1
        self._next()
        done(code, made)

    def close(self) -> None:
        """That life is over: nobody waits any more."""
        self._waiting.clear()


def _call(done: Dialled, code: int, made: Any) -> None:
    """What fails is the matter of one connection."""
    try:
        done(code, made)
    except Exception:  # noqa: BLE001 - and must not be that of all
        sys.excepthook(*sys.exc_info())
        if made is not None:
            made.close()
