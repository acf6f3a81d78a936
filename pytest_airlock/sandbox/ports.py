"""The way into a sandbox: connections of the test to what listens inside."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Literal

from pytest_airlock.sandbox.backend import Backend

__all__ = ["Forward", "Ports", "connect", "wait_for_port"]

Kind = Literal["tcp", "udp"]
#: Seconds between looks whether somebody listens: the kernel tells nobody of a listen(2).
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.02


class Forward:
    """A port of this host's loopback device that leads into the sandbox: `host` ("127.0.0.1"), `port`, `address` = both.

    For as long as it is open: until close(), the end of the `with` block, a reset, or the end of the sandbox.
    Connections that are open then see a reset. Every user of this machine can connect to it.
    """

    host = "127.0.0.1"

    def __init__(self, backend: Backend, port: int) -> None:
        self._backend = backend
        self.port = port

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    def close(self) -> None:
        self._backend.end_forward(self.port)

    def __enter__(self) -> Forward:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<forward {self.host}:{self.port} into sandbox {self._backend.name!r}>"


class Ports(Mapping[int, tuple[str, int]]):
    """The ports that the spec's `ports` names, with the addresses of this host that lead there; each is opened when it is
    first looked up.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._open: dict[int, Forward] = {}

    def __getitem__(self, port: int) -> tuple[str, int]:
        if port not in self._backend.ports():
            raise KeyError(port)
        if port not in self._open:
            self._open[port] = Forward(self._backend, self._backend.forward(("127.0.0.1", port)))
        return self._open[port].address

    def __iter__(self) -> Iterator[int]:
        return iter(self._backend.ports())

    def __len__(self) -> int:
        return len(self._backend.ports())

    def forget(self) -> None:
        """They are closed."""
        self._open.clear()


def connect(backend: Backend, port: int, *, host: str, kind: Kind, timeout: float | None) -> socket.socket:
    """A connected socket; its own time-out is `timeout`, too."""
    sock = backend.connect((host, port), kind, timeout)
    sock.settimeout(timeout)
    return sock


def wait_for_port(backend: Backend, port: int, timeout: float | None) -> None:
    """Until somebody inside listens there. Raises TimeoutError."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while not backend.listening(port):
        left = pause if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"nothing listens at port {port} of sandbox {backend.name!r} after {timeout:g} seconds")
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)
