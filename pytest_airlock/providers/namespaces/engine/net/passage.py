"""One connection of a program inside to what the policy lets it reach: dialled outside, looked at once, then carried."""

from __future__ import annotations

import _socket
from collections.abc import Callable
from typing import Protocol

from . import hello
from .faulty import FaultyRelay
from .loop import Loop, Timer
from .outside import Lane
from .policy import Policy, Way
from .relay import Relay, reset

__all__ = ["Passage"]

#: Seconds within which a program that has begun a TLS handshake must have said the name.
_PATIENCE = 20.0


class _Carrier(Protocol):
    @property
    def open(self) -> bool: ...
    def abort(self) -> None: ...


class Passage:
    """Owns `inner`, the end of the connection that the program made to `target`: name ("" = none), address, port. `over` is
    called once, when all is closed.
    """

    def __init__(
        self,
        loop: Loop,
        outside: Lane,
        inner: _socket.socket,
        target: tuple[str, str, int],
        over: Callable[[Passage], None],
    ) -> None:
        self._loop, self._outside, self._target, self._over = loop, outside, target, over
        self._inner: _socket.socket | None = inner
        self._outer: _socket.socket | None = None
        self._carrier: _Carrier | None = None
        self._way: Way | None = None
        self._ended = False
        self._awaited = 0  # bytes of its first message that must come before it is looked at again
        self._patience: Timer | None = None

    def begin(self, policy: Policy) -> None:
        """Dial, if the policy knows a way."""
        self._way = policy.way(*self._target)
        if self._way is None or self._way.fault.connect != "accept":
            self.abort()
            return
        listed = policy.listed(self._target[2])
        self._outside.dial(self._way, listed, self._dialled, wanted=lambda: not self._ended)

    def review(self, policy: Policy) -> None:
        """Under a new policy: it goes on if that leads it the same way."""
        if policy.way(*self._target) != self._way:
            self.abort()

    def _dialled(self, code: int, outer: _socket.socket | None) -> None:
        if self._ended or self._way is None or self._inner is None:
            if outer is not None:
                outer.close()
            return
        if outer is None or code:
            self.abort()
            return
        self._outer = outer
        if not self._way.check:
            self._carry(self._inner, outer)
            return
        # Whoever speaks first decides: in TLS it is the client, in others it may be the server.
        inner = self._inner
        self._loop.add(inner, lambda: self._look(inner, outer))
        self._loop.add(outer, lambda: self._carry(inner, outer))

    def _look(self, inner: _socket.socket, outer: _socket.socket) -> None:
        """At what the program says first, without taking it: what is carried later is what was seen."""
        data = b""
        try:
            data = inner.recv(hello.LONGEST, _socket.MSG_PEEK)
            tls = bool(data) and hello.is_tls(data)
            name = hello.server_name(data) if tls else ""
        except BlockingIOError:
            return
        except hello.Incomplete as more:
            self._await(inner, outer, len(data), more.size)
            return
        except (ValueError, OSError):
            self.abort()
            return
        if tls and name != self._target[0]:
            self.abort()
        else:
            inner.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVLOWAT, 1)
            self._carry(inner, outer)

    def _await(self, inner: _socket.socket, outer: _socket.socket, size: int, wanted: int) -> None:
        """More of the first message. It was announced that all was there for which was waited: if it is not, then no more
        comes, or there is urgent data in it, behind which one cannot look; and it would be announced for ever.
        """
        if size < self._awaited or wanted > hello.LONGEST:
            self.abort()
            return
        if not self._awaited:
            # From here on the server's silence is none of its choice.
            self._loop.remove(outer)
            self._patience = self._loop.later(_PATIENCE, self.abort)
        self._awaited = wanted
        inner.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVLOWAT, wanted)

    def _carry(self, inner: _socket.socket, outer: _socket.socket) -> None:
        self._hurry_no_more()
        for sock in (inner, outer):
            self._loop.remove(sock)
        self._inner = self._outer = None
        fault = self._way.fault if self._way is not None else None
        try:
            if fault is not None and fault.slows:
                carrier: Relay | FaultyRelay = FaultyRelay(self._loop, inner, outer, fault, self._done)
            else:
                carrier = Relay(self._loop, inner, outer, self._done)
        except OSError:
            for sock in (inner, outer):
                self._loop.remove(sock)
                reset(sock)
            self._end()
            return
        self._carrier = carrier
        if not carrier.open:
            self._end()

    def _hurry_no_more(self) -> None:
        if self._patience is not None:
            self._patience.cancel()

    def _done(self, _: object) -> None:
        self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._over(self)

    def abort(self) -> None:
        """The program sees a reset, at once."""
        if self._ended:
            return
        self._hurry_no_more()
        if self._carrier is not None:
            self._carrier.abort()
            return
        for sock in (self._inner, self._outer):
            if sock is not None:
                self._loop.remove(sock)
                reset(sock)
        self._inner = self._outer = None
        self._end()
