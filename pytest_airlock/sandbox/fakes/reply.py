"""How an answer goes out: head, then pieces of the body, with a length if there is one and in chunks if not."""

from __future__ import annotations

import http
import re
from collections.abc import Iterable
from typing import Protocol

__all__ = ["Reply", "Sink", "reason_of"]

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BODILESS = (204, 304)


class Sink(Protocol):
    """Where the bytes go; raises OSError if the client is gone."""

    def write(self, data: bytes, /) -> object: ...


def reason_of(status: int) -> str:
    """The phrase of RFC 9110, or none."""
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return ""


class Reply:
    """The answer to one request. The app's mistakes are ValueError, a client that is gone is OSError.

    `keep_alive` is false once the connection has to end with this answer.
    """

    def __init__(self, sink: Sink, *, method: str, version: str, keep_alive: bool) -> None:
        self._sink = sink
        self._silent = method == "HEAD"
        self._modern = version >= "HTTP/1.1"
        self._chunked = False
        self._left: int | None = None
        self.started = False
        self.finished = False
        self.keep_alive = self._modern and keep_alive

    def start(self, status: int, reason: str, headers: Iterable[tuple[str, str]]) -> None:
        """Send the head. Fields of the connection (RFC 9110, 7.6.1) are this server's own and left out."""
        if not 200 <= status <= 999:
            raise ValueError(f"{status} is no status of an answer")
        fields = [(name, value) for name, value in headers if name.lower() not in ("connection", "transfer-encoding")]
        lengths = [value for name, value in fields if name.lower() == "content-length"]
        for name, value in [*fields, ("reason", reason)]:
            if not _NAME.fullmatch(name) or "\r" in value or "\n" in value or "\0" in value:
                raise ValueError(f"{name!r}: {value!r} is no header field")
        self._silent = self._silent or status in _BODILESS
        if lengths:
            self._left = int(lengths[0])
        elif not self._silent:
            self._chunked = self._modern
            if self._chunked:
                fields.append(("Transfer-Encoding", "chunked"))
        if not self.keep_alive:
            fields.append(("Connection", "close"))
        head = "".join([f"HTTP/1.1 {status} {reason}\r\n", *(f"{name}: {value}\r\n" for name, value in fields), "\r\n"])
        self.started = True
        self._sink.write(head.encode("latin-1"))

    def write(self, data: bytes) -> None:
        if not data or self._silent:
            return
        if self._left is not None:
            if len(data) > self._left:
                raise ValueError("the body is longer than its Content-Length")
            self._left -= len(data)
        self._sink.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end(self) -> None:
        if self._left and not self._silent:
            raise ValueError(f"the body is {self._left} bytes shorter than its Content-Length")
        if self._chunked:
            self._sink.write(b"0\r\n\r\n")
        self.finished = True

    def whole(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        """All of it at once."""
        fields = list(headers)
        if not any(name.lower() == "content-length" for name, _ in fields) and status not in _BODILESS:
            fields.append(("Content-Length", str(len(body))))
        self.start(status, reason_of(status), fields)
        self.write(body)
        self.end()
