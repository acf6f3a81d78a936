"""The network process' end of the channel to the dialler: questions with a number, and who waits for the answers.

Some answers take minutes: of a name server that says nothing, of an address where nobody is. So each life has a lane of its own, of
which only so many questions are under way at a time, and what one life asks holds up no other.
"""

from __future__ import annotations

import _socket
import array
import errno
import json
import os
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from .. import protocol
from .loop import Loop
from .policy import End, Way

__all__ = ["Lane", "Outside"]

#: Of one life: questions that are under way, and those that wait for that.
_UNDER_WAY, _WAITING = 32, 512
_LONGEST = 4096

Dialled = Callable[[int, "_socket.socket | None"], None]


class _Asked(NamedTuple):
    """`wanted` is asked when it could begin: whether it still is to be."""

    request: dict[str, Any]
    done: Dialled
    wanted: Callable[[], bool]


class Outside:
    """Without a dialler, and if it dies, all that is asked fails with ENOTCONN."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self._channel: _socket.socket | None = None
        self._asked: dict[int, tuple[Lane, Dialled]] = {}
        self._number = 0

    @property
    def usable(self) -> bool:
        return self._channel is not None

    def begin(self, channel: _socket.socket) -> None:
        """From now on this one is asked."""
        self._give_up()
        channel.setblocking(False)
        self._channel = channel
        self.loop.add(channel, self._take)

    def send(self, lane: Lane, asked: _Asked) -> None:
        """Raises OSError if it could not be asked."""
        if self._channel is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        self._number += 1
        protocol.send_json(self._channel, {"number": self._number, **asked.request})
        self._asked[self._number] = lane, asked.done

    def _take(self) -> None:
        if self._channel is None:
            return
        made = None
        try:
            data, rights, _, _ = self._channel.recvmsg(_LONGEST, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
            for level, kind, body in rights:
                if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                    made = _socket.socket(fileno=array.array("i", body)[0])
            answer = json.loads(data[1:])
            number, code = int(answer["number"]), int(answer["error"])
        except BlockingIOError:
            return
        except Exception as error:  # noqa: BLE001 - it is at its end, or does not know what it says any more
            if not isinstance(error, (OSError, json.JSONDecodeError)):
                sys.excepthook(*sys.exc_info())
            _close(made)
            self._give_up()
            return
        lane, done = self._asked.pop(number, (None, None))
        if lane is None or done is None:
            _close(made)
            return
        _call(done, code, made)
        lane.answered()

    def _give_up(self) -> None:
        if self._channel is not None:
            self.loop.close(self._channel)
            self._channel = None
        asked, self._asked = self._asked, {}
        for lane, done in asked.values():
            _call(done, errno.ENOTCONN, None)
            lane.answered()


class Lane:
    """The questions of one life."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self._waiting: deque[_Asked] = deque()
        self._under_way = 0

    def dial(
        self,
        way: Way,
        listed: list[End],
        done: Dialled,
        *,
        wanted: Callable[[], bool] = lambda: True,
        kind: str = "tcp",
    ) -> None:
        """`done` gets (0, the connection) or (errno, None), never before this returns; `kind` is "tcp" or "udp". What is not
        `wanted` any more when its turn has come is not dialled.
        """
        request = {"kind": kind, "host": way.host, "port": way.port, "exact": way.exact, "trusted": way.trusted}

        def connected(code: int, made: _socket.socket | None) -> None:
            # 0 without a connection: no descriptor was left for it.
            done(code or (0 if made is not None else errno.EMFILE), made)

        self._ask({**request, "listed": listed}, connected, wanted)

    def look_up(self, name: str, listed: list[End], done: Callable[[int], None]) -> None:
        """`done` gets 0 if the name leads to an address that may be dialled."""
        request = {"kind": "name", "host": name, "port": 0, "exact": False, "trusted": False, "listed": listed}
        self._ask(request, lambda code, _: done(code), lambda: True)

    def _ask(self, request: dict[str, Any], done: Dialled, wanted: Callable[[], bool]) -> None:
        if len(self._waiting) >= _WAITING:
            self._fail(done, errno.EAGAIN)
            return
        self._waiting.append(_Asked(request, done, wanted))
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and self._under_way < _UNDER_WAY:
            asked = self._waiting.popleft()
            if not asked.wanted():
                self._fail(asked.done, errno.ECANCELED)
                continue
            try:
                self._outside.send(self, asked)
            except OSError as error:
                self._fail(asked.done, error.errno or errno.EIO)
            else:
                self._under_way += 1

    def _fail(self, done: Dialled, code: int) -> None:
        self._outside.loop.later(0, lambda: done(code, None))

    def answered(self) -> None:
        """One that was under way is not any more."""
        self._under_way -= 1
        self._go_on()

    def close(self) -> None:
        """Nothing is reached any more: what waits is not asked."""
        while self._waiting:
            self._fail(self._waiting.popleft().done, errno.ECANCELED)


def _close(sock: _socket.socket | None) -> None:
    if sock is not None:
        sock.close()


def _call(done: Dialled, code: int, made: _socket.socket | None) -> None:
    """What fails is the matter of one connection."""
    try:
        done(code, made)
    except Exception:  # noqa: BLE001 - and must not be that of all
        sys.excepthook(*sys.exc_info())
        _close(made)
