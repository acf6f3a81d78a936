"""What came in at a served name: requests in bounds, and connections that brought none."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_airlock.sandbox.transcript import escape

__all__ = ["Headers", "Received", "Request"]

#: Bytes kept of each body, requests kept, bytes kept of all of them, broken connections kept: who sends them may be hostile.
BODY_KEPT = 1024**2
REQUESTS_KEPT = 1000
BYTES_KEPT = 64 * 1024**2
BROKEN_KEPT = 100


class Headers(Mapping[str, str]):
    """Header fields in the order they came; names compare without regard to case, the first of equal ones counts."""

    def __init__(self, fields: tuple[tuple[str, str], ...] = ()) -> None:
        self.fields = fields

    def all(self, name: str) -> tuple[str, ...]:
        """Every value of that name."""
        return tuple(value for key, value in self.fields if key.lower() == name.lower())

    def __getitem__(self, name: str) -> str:
        found = self.all(name)
        if not found:
            raise KeyError(name)
        return found[0]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key.lower() for key, _ in self.fields))

    def __len__(self) -> int:
        return len({key.lower() for key, _ in self.fields})

    def __repr__(self) -> str:
        return repr(self.fields)


@dataclass(frozen=True, repr=False)
class Request:
    """One received request: `method`, `path` and `query` (what is behind the "?") as they were sent, `headers`, `body`,
    `time` (seconds since the epoch) and `host` (what its Host header says, in lower case and without the port).

    `truncated`: the body was longer than the 1 MiB that is kept of it.
    """

    method: str
    path: str
    query: str
    headers: Headers
    body: bytes
    time: float
    host: str
    truncated: bool = False

    def json(self) -> Any:
        """The body as JSON; raises ValueError."""
        return json.loads(self.body)

    def __repr__(self) -> str:
        """What a failed assertion shows."""
        query = f"?{self.query}" if self.query else ""
        return f"<{escape(self.method)} {escape(self.host + self.path + query)[:500]}, {len(self.body):,} bytes>"


class Received:
    """The record of one served name; thread-safe, readable after its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._bytes = 0
        self._broken: list[str] = []
        self._errors: list[BaseException] = []
        self.lost = 0
        self.errors_lost = 0

    def add(self, request: Request) -> None:
        size = len(request.body) + sum(len(name) + len(value) for name, value in request.headers.fields)
        size += len(request.path) + len(request.query)
        with self._lock:
            if len(self._requests) >= REQUESTS_KEPT or self._bytes + size > BYTES_KEPT:
                self.lost += 1
                return
            self._requests.append(request)
            self._bytes += size

    def broke(self, why: str) -> None:
        """A connection brought no request that could be answered; `why` may have hostile text in it."""
        with self._lock:
            if len(self._broken) < BROKEN_KEPT:
                self._broken.append(escape(why)[:500])

    def failed(self, error: BaseException) -> None:
        """The app did."""
        with self._lock:
            if len(self._errors) < BROKEN_KEPT:
                self._errors.append(error)
            else:
                self.errors_lost += 1

    @property
    def requests(self) -> tuple[Request, ...]:
        with self._lock:
            return tuple(self._requests)

    @property
    def broken(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._broken)

    @property
    def errors(self) -> tuple[BaseException, ...]:
        with self._lock:
            return tuple(self._errors)
