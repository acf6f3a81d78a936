"""The network of one life of a sandbox as the network process sees it: what hears, who answers, what was tried."""

from __future__ import annotations

import _socket
import select
import struct
from functools import partial
from typing import Any

from . import dns, pings, recorder
from .forward import Forward
from .gate import Gate
from .hopper import Maker
from .loop import Loop
from .netlink import RESOLVER
from .outside import Outside
from .policy import Policy
from .records import Records

__all__ = ["Wire"]

#: Packets and questions that are taken at one go: one sandbox that floods must not make the others wait.
_AT_ONCE = 64
_PACKET = 512  # bytes of a socket's buffer that even the smallest packet takes
_CONNECTIONS = 64  # to the resolver by TCP, per life; the oldest makes room
_LONGEST_QUERY = 4096
_LENGTH = struct.Struct(">H")


class Wire:
    """Owns the sockets it is given: the resolver's two, and where tries are recorded what hears them and what answers pings."""

    def __init__(
        self, loop: Loop, outside: Outside, maker: Maker, sockets: list[_socket.socket], *, recorded: bool
    ) -> None:
        self.records = Records()
        self.maker = maker
        self._gate = Gate(loop, outside, maker)
        self._diverted = False
        self.forwards: dict[int, Forward] = {}
        self._loop = loop
        self._datagrams, self._listener = sockets[:2]
        self._ear = sockets[2] if recorded else None
        self._pings = tuple(sockets[3:])
        self._connections: dict[int, _Connection] = {}
        loop.add(self._datagrams, self._take_datagrams)
        loop.add(self._listener, self._take_connection)
        if self._ear is not None:
            ear = self._ear
            loop.add(ear, lambda: self._listen(ear))

    @property
    def policy(self) -> Policy:
        return self._gate.policy

    def rule(self, policy: Policy, *, divert: bool) -> None:
        """Put a policy in force; `divert`: by the steps of divert.py. Raises OSError; then the one of before is in force,
        or it is locked.
        """
        self.settle()  # by the policy under which it was tried
        if divert and not self._diverted and not policy.closed:
            self.maker.divert()
            self._diverted = True
        self._gate.set(policy, diverted=self._diverted)

    def _listen(self, ear: _socket.socket, most: int = _AT_ONCE) -> None:
        """Note what was heard, up to `most` packets."""
        for _ in range(most):
            try:
                packet = ear.recv(recorder.KEPT)
            except OSError:
                return  # nothing more, or the device is down, which is told once
            self._hear(packet)
            if self.records.full:
                # The kernel counts on, which costs nothing.
                self._loop.remove(ear)

    def _hear(self, packet: bytes) -> None:
        if self.records.full:
            self.records.lost += 1  # what it says costs more than to count it
            return
        heard = recorder.read(packet)
        if heard is None:
            return
        ping = heard.protocol in (recorder.ICMP, recorder.ICMP6)
        to_resolver = (heard.address, heard.port) == (RESOLVER, dns.PORT)
        allowed = True
        # Of a connection to the resolver each question is recorded, by the verdict of its name.
        if not (to_resolver and heard.protocol == recorder.TCP) and not (ping and pings.is_inside(heard.address)):
            asked = heard.question()
            host, allowed = self._gate.verdict(heard, asked)
            self.records.hear(heard, asked, host, allowed=allowed)
        untold = heard.protocol == recorder.UDP and self._gate.carries_datagrams and not (allowed or to_resolver)
        if ping or untold:
            try:
                pings.answer(self._pings, packet, heard)
            except OSError:
                pass  # what cannot be answered is what was lost

    def settle(self) -> None:
        """Note all that was tried until now, and how much more there was no room for."""
        if self._ear is None:
            return
        # No more than was there when this began: a flood fills the queue as fast as it is read.
        self._listen(self._ear, self._ear.getsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF) // _PACKET)
        self.records.lost += recorder.lost(self._ear)

    def _take_datagrams(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                query, sender = self._datagrams.recvfrom(_LONGEST_QUERY)
            except OSError:
                return
            asked = _question(query)
            if asked is not None:
                self._gate.ask(asked, partial(self._tell, query, asked, sender))

    def _tell(self, query: bytes, asked: dns.Question, sender: Any, code: int, address: str) -> None:
        try:
            self._datagrams.sendto(dns.answer(query, asked, code, address), sender)
        except OSError:
            pass  # nobody waits for it any more

    def _take_connection(self) -> None:
        # Before: without a descriptor left the next one could not be accepted, and would be announced for ever.
        if len(self._connections) >= _CONNECTIONS:
            self._drop(next(iter(self._connections)))
        sock = self._loop.accept(self._listener)
        if sock is None:
            return
        fd = sock.fileno()
        self._connections[fd] = _Connection(sock)
        self._loop.add(sock, lambda: self._converse(fd))

    def _converse(self, fd: int) -> None:
        """Questions by TCP: each behind two bytes of length (RFC 1035, 4.2.2)."""
        connection = self._connections[fd]
        try:
            data = connection.sock.recv(_LONGEST_QUERY)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        connection.pending += data
        if self._ear is not None:
            self._listen(self._ear)  # in order with what was heard before
        try:
            for query in connection.queries():
                asked = dns.question(query)
                known = self._gate.ask(asked, partial(self._answer, connection, query, asked))
                self.records.ask(asked, allowed=known)
        except ValueError:
            data = b""
        if not data and self._connections.get(fd) is connection:
            self._drop(fd)

    def _answer(self, connection: _Connection, query: bytes, asked: dns.Question, code: int, address: str) -> None:
        fd = connection.sock.fileno()
        if self._connections.get(fd) is not connection:
            return  # it did not wait
        answer = dns.answer(query, asked, code, address)
        message = _LENGTH.pack(len(answer)) + answer
        try:
            sent = connection.sock.send(message)
        except OSError:
            sent = 0
        if sent < len(message):
            self._drop(fd)  # it is gone, or asks and does not read

    def _drop(self, fd: int) -> None:
        self._loop.close(self._connections.pop(fd).sock)
        self._loop.change(self._listener, select.EPOLLIN)

    def give_up(self) -> list[_socket.socket]:
        """All ends: what takes long to close."""
        return [self._ear] if self._ear is not None else []

    def close(self) -> None:
        """Its life is dead: note the rest, and let go of everything. The records stay."""
        self.settle()
        for forward in self.forwards.values():
            forward.close()
        self._gate.close()
        for connection in self._connections.values():
            self._loop.close(connection.sock)
        self._connections.clear()
        for sock in (self._datagrams, self._listener, *self._pings):
            self._loop.close(sock)
        if self._ear is not None:
            self._loop.close_later(self._ear)
            self._ear = None


class _Connection:
    """A connection to the resolver and what came of a query so far."""

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock
        self.pending = b""

    def queries(self) -> list[bytes]:
        """Those that are whole. Raises ValueError for one that is too long."""
        whole = []
        while len(self.pending) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self.pending)
            if length > _LONGEST_QUERY:
                raise ValueError("a query that is too long")
            if len(self.pending) < _LENGTH.size + length:
                break
            whole.append(self.pending[_LENGTH.size : _LENGTH.size + length])
            self.pending = self.pending[_LENGTH.size + length :]
        return whole


def _question(query: bytes) -> dns.Question | None:
    """None for what is no question: it gets no answer."""
    try:
        return dns.question(query)
    except ValueError:
        return None
