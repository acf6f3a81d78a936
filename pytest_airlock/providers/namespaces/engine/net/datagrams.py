"""UDP of a sandbox with an open network: for each pair of a program's port and a far address one socket inside and one outside."""

from __future__ import annotations

import _socket
import struct
from collections.abc import Callable
from typing import NamedTuple

from . import divert
from .hopper import Maker
from .loop import Loop
from .outside import Lane
from .policy import EVERYWHERE, Policy, Way

__all__ = ["Datagrams"]

#: Of one life: pairs at a time (the one that was idle longest makes room), and bytes of each that wait for its connection.
_MOST, _WAITING = 128, 16 << 10
_IDLE = 60.0  # seconds
_AT_ONCE = 64
_LONGEST, _COSTS = 65_535, 64  # bytes of a datagram, and of memory for even the smallest
#: So that the socket tells where a datagram was to go: IP_RECVORIGDSTADDR of ip(7), IPV6_RECVORIGDSTADDR of linux/in6.h.
_ORIGINAL: dict[int, tuple[int, int, struct.Struct]] = {
    _socket.AF_INET: (_socket.IPPROTO_IP, 20, struct.Struct("=H2s4s")),
    _socket.AF_INET6: (_socket.IPPROTO_IPV6, 74, struct.Struct("=H2s4x16s")),
}


class _Flow(NamedTuple):
    source: tuple[str, int]
    target: tuple[str, int]


class Datagrams:
    """Made when a network is opened. `host` tells the name that an address stands for. Raises OSError."""

    def __init__(self, loop: Loop, outside: Lane, maker: Maker, host: Callable[[str], str], family: int) -> None:
        self._loop, self._outside, self._maker, self._host, self._family = loop, outside, maker, host, family
        self.policy: Policy | None = None
        self._pairs: dict[_Flow, _Pair] = {}
        level, option, self._address = _ORIGINAL[family]
        self._option = level, option
        self._sock = maker.listener(family, _socket.SOCK_DGRAM, transparent=True)
        try:
            self._sock.setsockopt(level, option, 1)
            self._sock.bind((EVERYWHERE[family], divert.EVERY))
        except BaseException:
            self._sock.close()
            raise
        loop.add(self._sock, self._take)

    def _take(self) -> None:
        """First datagrams of pairs; what follows comes to the pair's own socket."""
        for _ in range(_AT_ONCE):
            try:
                data, notes, _, source = self._sock.recvmsg(_LONGEST, 256)
            except OSError:
                return
            target = self._target(notes)
            if target is not None:
                self._pass(_Flow(source[:2], target), data)

    def _target(self, notes: list[tuple[int, int, bytes]]) -> tuple[str, int] | None:
        for level, kind, body in notes:
            if (level, kind) == self._option and len(body) >= self._address.size:
                _, port, address = self._address.unpack_from(body)
                return _socket.inet_ntop(self._family, address), int.from_bytes(port, "big")
        return None

    def _pass(self, flow: _Flow, data: bytes) -> None:
        pair = self._pairs.get(flow)
        if pair is None:
            way = self.policy.way(self._host(flow.target[0]), *flow.target) if self.policy is not None else None
            if way is None or way.trusted or not flow.target[1]:
                return
            if len(self._pairs) >= _MOST:
                self._drop(min(self._pairs, key=lambda each: self._pairs[each].used))
            pair = self._pairs[flow] = _Pair(self._loop, lambda: self._drop(flow))
            self._begin(flow, way, pair)
        pair.send(data)

    def _begin(self, flow: _Flow, way: Way, pair: _Pair) -> None:
        policy = self.policy
        if policy is None:
            return

        def dialled(_: int, outer: _socket.socket | None) -> None:
            if outer is None:
                self._drop(flow)
            elif self._pairs.get(flow) is not pair:
                outer.close()
            else:
                self._connect(flow, pair, outer)

        self._outside.dial(
            way, policy.listed(flow.target[1]), dialled, wanted=lambda: self._pairs.get(flow) is pair, kind="udp"
        )

    def _connect(self, flow: _Flow, pair: _Pair, outer: _socket.socket) -> None:
        try:
            inner = self._maker.listener(self._family, _socket.SOCK_DGRAM, transparent=True)
        except OSError:
            outer.close()
            self._drop(flow)
            return
        try:
            inner.bind(flow.target)
            inner.connect(flow.source)
        except OSError:
            inner.close()
            outer.close()
            self._drop(flow)
            return
        pair.join(inner, outer)

    def _drop(self, flow: _Flow) -> None:
        pair = self._pairs.pop(flow, None)
        if pair is not None:
            pair.close()

    def close(self) -> None:
        """Nothing passes any more."""
        self._loop.close(self._sock)
        for flow in list(self._pairs):
            self._drop(flow)


class _Pair:
    """Two connected sockets, once they are made; `idle` is called when nothing passed for long, or an end is gone."""

    def __init__(self, loop: Loop, idle: Callable[[], None]) -> None:
        self._loop, self._idle = loop, idle
        self._ends: tuple[_socket.socket, _socket.socket] | None = None
        self._waiting: list[bytes] = []
        self._room = _WAITING
        self._closed = False
        self.used = loop.now()
        self._timer = loop.later(_IDLE, self._look)

    def _look(self) -> None:
        if self._closed:
            return
        left = self.used + _IDLE - self._loop.now()
        if left > 0:
            self._timer = self._loop.later(left, self._look)
        else:
            self._idle()

    def join(self, inner: _socket.socket, outer: _socket.socket) -> None:
        self._ends = inner, outer
        self._loop.add(inner, lambda: self._carry(inner, outer))
        self._loop.add(outer, lambda: self._carry(outer, inner))
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            self.send(data)

    def send(self, data: bytes) -> None:
        """To the far end. What there is no room for is lost, as everywhere."""
        self.used = self._loop.now()
        if self._ends is not None:
            _send(self._ends[1], data)
        elif len(data) <= self._room:
            self._room -= len(data) + _COSTS
            self._waiting.append(data)

    def _carry(self, source: _socket.socket, target: _socket.socket) -> None:
        self.used = self._loop.now()
        for _ in range(_AT_ONCE):
            try:
                data = source.recv(_LONGEST)
            except BlockingIOError:
                return
            except OSError:
                # Nobody is there, says the other end's host: so does this one from now on.
                self._idle()
                return
            _send(target, data)

    def close(self) -> None:
        self._closed = True
        self._timer.cancel()
        self._waiting.clear()
        for sock in self._ends or ():
            self._loop.close(sock)
        self._ends = None


def _send(sock: _socket.socket, data: bytes) -> None:
    try:
        sock.send(data)
    except OSError:
        pass  # a datagram may be lost; an end that is gone says so when it is read
