"""A port of the host's loopback device that leads to one of a sandbox."""

from __future__ import annotations

import _socket
import select
from collections.abc import Callable

from .loop import Loop
from .relay import Relay, reset

__all__ = ["Forward"]

_HERE = "127.0.0.1"
_BACKLOG = 128
#: Connections of one forward at a time: each holds six descriptors and half a megabyte of pipes. Others wait.
_MOST = 256


class Forward:
    """`make` makes a socket in the sandbox's network. `port` is the one on the host, of 127.0.0.1 only."""

    def __init__(self, loop: Loop, make: Callable[[], _socket.socket], address: tuple[str, int]) -> None:
        self._loop, self._make, self._address = loop, make, address
        self._relays: set[Relay] = set()
        self._trying: dict[int, tuple[_socket.socket, _socket.socket]] = {}
        kind = _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
        self._listener = _socket.socket(_socket.AF_INET, kind)
        self._listener.bind((_HERE, 0))
        self._listener.listen(_BACKLOG)
        self.port: int = self._listener.getsockname()[1]
        loop.add(self._listener, self._accept)

    @property
    def _busy(self) -> bool:
        return len(self._relays) + len(self._trying) >= _MOST

    def _accept(self) -> None:
        if self._busy:
            self._loop.change(self._listener, 0)
            return
        outer = self._loop.accept(self._listener)
        if outer is None:
            return
        try:
            inner = self._make()
        except OSError:
            reset(outer)
            return
        try:
            inner.connect(self._address)
        except BlockingIOError:
            pass  # EINPROGRESS
        except OSError:
            # Nobody listens there: as near to a refusal as a connection that is made already can be.
            inner.close()
            reset(outer)
            return
        self._trying[inner.fileno()] = outer, inner
        self._loop.add(inner, lambda: self._connected(inner))
        self._loop.change(inner, select.EPOLLOUT)

    def _connected(self, inner: _socket.socket) -> None:
        outer, _ = self._trying.pop(inner.fileno())
        self._loop.remove(inner)
        if inner.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR):
            inner.close()
            reset(outer)
            self._go_on()
            return
        try:
            self._relays.add(relay := Relay(self._loop, outer, inner, self._over))
        except OSError:
            for sock in (outer, inner):
                self._loop.remove(sock)
                reset(sock)
            self._go_on()
            return
        if not relay.open:
            self._over(relay)

    def _over(self, relay: Relay) -> None:
        self._relays.discard(relay)
        self._go_on()

    def _go_on(self) -> None:
        if self._listener.fileno() >= 0 and not self._busy:
            self._loop.change(self._listener, select.EPOLLIN)

    def close(self) -> None:
        """No new connection, and those there are see a reset."""
        self._loop.close(self._listener)
        for outer, inner in list(self._trying.values()):
            self._loop.close(inner)
            reset(outer)
        self._trying.clear()
        for relay in list(self._relays):
            relay.abort()
