"""Calls to a process of the engine: one JSON object each, answered in order, over one socket."""

from __future__ import annotations

import _socket
import os
import threading
from collections.abc import Callable
from typing import Any

from pytest_airlock.errors import ProviderError
from pytest_airlock.providers.namespaces.engine import protocol
from pytest_airlock.providers.namespaces.sending import explain_send

__all__ = ["Caller", "StepFailed"]

#: Seconds until a process of the engine that does not answer counts as stuck.
_PATIENCE = 120.0


class StepFailed(OSError):
    """A step of the engine failed: `step` and errno as diagnosis.py explains them."""

    def __init__(self, step: str, number: int, path: str) -> None:
        super().__init__(number, os.strerror(number) if number else "unknown", path or None)
        self.step = step


class Caller:
    """The client's end of a channel to `who`. Calls are serialised; thread-safe; of no use in a forked child.

    `ended` says what is known of how it ended.
    """

    def __init__(self, sock: _socket.socket, who: str, ended: Callable[[], str]) -> None:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, protocol.timeval(_PATIENCE))
        self.who = who
        self._pid = os.getpid()
        self._ended = ended
        self._lock = threading.Lock()
        self._number = 0  # of the last request
        self._sock: _socket.socket | None = sock

    @property
    def usable(self) -> bool:
        """Open, and of this process."""
        return self._sock is not None and self._pid == os.getpid()

    def call(self, op: str, fds: tuple[int, ...] = (), **request: object) -> tuple[Any, list[int]]:
        """One request. Raises StepFailed for a failed step, ProviderError if nobody is there any more."""
        with self._lock:
            if self._sock is None or self._pid != os.getpid():
                raise ProviderError(
                    "namespaces",
                    op,
                    f"the {self.who} belongs to another process" if self._sock else f"the {self.who} was closed",
                    hint="after os.fork, use sandboxes in the process that made them",
                )
            # Whoever was interrupted left an answer behind that is nobody's: it has another number.
            self._number += 1
            try:
                protocol.send_json(self._sock, {"op": op, "number": self._number, **request}, fds)
            except (BrokenPipeError, ConnectionResetError):
                raise self._gone(op) from None
            except OSError as error:
                raise explain_send(error, op) from None
            return self._receive(op)

    def introduce(self, fds: tuple[int, ...]) -> Any:
        """The first message, which is no request, and the answer to it. Raises as call() does."""
        with self._lock:
            if self._sock is not None:
                protocol.send_json(self._sock, {}, fds)
            return self._receive("start")[0]

    def _receive(self, op: str) -> tuple[Any, list[int]]:
        answer: Any = {"number": -1}
        fds: list[int] = []
        while answer["number"] not in (self._number, protocol.ANY):
            for fd in fds:
                os.close(fd)
            if self._sock is None:
                raise self._gone(op)
            try:
                answer, fds = protocol.receive_json(self._sock)
            except ConnectionResetError:
                raise self._gone(op) from None
            except BlockingIOError:
                self.close()
                raise ProviderError(
                    "namespaces", op, f"its {self.who} did not answer for {_PATIENCE:g} seconds"
                ) from None
            if answer is None:
                raise self._gone(op)
        if "error" in answer:
            raise StepFailed(*answer["error"])
        return answer["ok"], fds

    def _gone(self, op: str) -> ProviderError:
        return ProviderError("namespaces", op, f"its {self.who} ended {self._ended()}".strip())

    def close(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    def forget(self) -> None:
        """In a forked child: let go of the descriptor, whatever another thread was doing."""
        self._lock = threading.Lock()
        self.close()
