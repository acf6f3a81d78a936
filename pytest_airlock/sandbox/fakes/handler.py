"""One connection to a served name. Everything that comes in is hostile: bounded, recorded, and never shown as it is."""

from __future__ import annotations

import email.errors
import io
import re
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, Protocol

from pytest_airlock.sandbox.fakes.bodies import BadBody, Room, read_body
from pytest_airlock.sandbox.fakes.received import BODY_KEPT, Headers, Received, Request
from pytest_airlock.sandbox.fakes.reply import Reply

__all__ = ["AppHandler", "Recording", "Responder"]

#: Bytes of a request line with its header fields.
HEAD_LIMIT = 64 * 1024
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Of the head itself: the parser also misses the parts of a multipart body, which it is never given.
_DEFECTS = (
    email.errors.MissingHeaderBodySeparatorDefect,
    email.errors.FirstHeaderLineIsContinuationDefect,
    email.errors.HeaderDefect,
)
_FOLD = re.compile(r"[\r\n]+[ \t]*")


class Responder(Protocol):
    """Who answers requests; called in the thread of the connection."""

    def answer(self, request: Request, body: bytes, reply: Reply) -> None: ...
    def close(self) -> None: ...


class _Server(Protocol):
    received: Received
    room: Room
    closing: bool
    responder: Responder | None


class _Head(io.BufferedIOBase):
    """The stream until the end of a head, which is no longer than HEAD_LIMIT."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self._left = HEAD_LIMIT

    def readline(self, size: int | None = -1, /) -> bytes:
        line = self._stream.readline(self._left + 1)
        begun = self._left < HEAD_LIMIT
        self._left -= len(line)
        if self._left < 0:
            raise BadBody(431, f"a request line and header fields of more than {HEAD_LIMIT:,} bytes")
        # What is cut off is whole to the standard library; only before a head may a connection end.
        if not line.endswith(b"\n") and (line or begun):
            raise BadBody(400, "the connection ended within the head")
        return line


class _Outward(io.BufferedIOBase):
    """The way to the client. `used`: something was sent; `gone`: it cannot be any more."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.used = self.gone = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.used = True
        try:
            return int(self._stream.write(data))
        except OSError:
            self.gone = True
            raise


class Recording(BaseHTTPRequestHandler):
    """Put before a class of http.server, it reads and records each request ahead of do_GET and its kind.

    The body is in `rfile`, then, and ends where it ends.
    """

    #: Seconds that a client may be silent.
    timeout = 60
    _stream: io.BufferedIOBase
    _out: _Outward

    def setup(self) -> None:
        super().setup()
        self._stream = self.rfile
        self.wfile = self._out = _Outward(self.wfile)

    def finish(self) -> None:
        self.rfile = self._stream
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that http.server gives it
        """Nothing is printed: what came in is in `requests`, what went wrong in `broken` and `errors`."""

    def handle_one_request(self) -> None:
        self.requestline = self.command = ""
        self.request_version = "HTTP/1.1"
        self._out.used = False
        try:
            self._converse()
        except BadBody as bad:
            self.close_connection = True
            if self._owner.closing:
                return
            self._owner.received.broke(f"{bad}: {self.requestline[:200]!r}")
            self.send_error(bad.status, str(bad))

    @property
    def _owner(self) -> _Server:
        owner: Any = self.server
        server: _Server = owner
        return server

    def _converse(self) -> None:
        head: Any = _Head(self._stream)
        self.rfile = head
        self.raw_requestline = head.readline()
        if not self.raw_requestline:
            self.close_connection = True
            return
        if not self.parse_request():
            self._owner.received.broke(f"no HTTP request: {self.requestline[:200]!r}")
            return
        if not _TOKEN.fullmatch(self.command) or any(isinstance(each, _DEFECTS) for each in self.headers.defects):
            raise BadBody(400, "a malformed request")
        headers = Headers(tuple((name, _FOLD.sub(" ", str(value))) for name, value in self.headers.items()))
        lengths = dict.fromkeys(headers.all("Content-Length"))
        if len(lengths) > 1:
            raise BadBody(400, "more than one Content-Length")
        room = self._owner.room
        read = read_body(self._stream, next(iter(lengths), None), headers.get("Transfer-Encoding"), room)
        size = len(read)
        try:
            body = bytes(read)
            del read
            self._reply_to(self._request(headers, body), body)
        finally:
            room.give_back(size)

    def _request(self, headers: Headers, body: bytes) -> Request:
        target = re.sub(r"(?i)^https?://[^/?#]*", "", self.path) or "/"
        path, _, query = target.partition("?")
        host = re.sub(r":[0-9]*$", "", headers.get("Host", "")).lower()
        kept = body[:BODY_KEPT]
        return Request(self.command, path, query, headers, kept, time.time(), host, len(kept) < len(body))

    def _reply_to(self, request: Request, body: bytes) -> None:
        self._owner.received.add(request)
        try:
            self.answer(request, body)
        except BaseException as error:  # noqa: BLE001 - an app may raise anything, pytest.fail() included
            self.close_connection = True
            if self._owner.closing or self._out.gone:
                self._owner.received.broke(f"ended before its answer: {request!r}")
                return
            self._owner.received.failed(error)
            if not self._out.used:
                self.send_error(500, "the app failed")

    def answer(self, request: Request, body: bytes) -> None:
        """By the method that is named after the request's, which finds the body in `rfile`."""
        method = getattr(self, f"do_{self.command}", None)
        if method is None:
            self.send_error(501, "no such method")
            return
        self.rfile = io.BytesIO(body)
        method()
        self.wfile.flush()


class AppHandler(Recording):
    """By the server's responder."""

    protocol_version = "HTTP/1.1"

    def answer(self, request: Request, body: bytes) -> None:
        if self._owner.responder is None:
            raise RuntimeError("a server without a responder")
        keep = not self.close_connection
        reply = Reply(self._out, method=request.method, version=self.request_version, keep_alive=keep)
        self._owner.responder.answer(request, body, reply)
        if not reply.finished:
            raise RuntimeError("the app ended without having answered")
        self.close_connection = not reply.keep_alive


if TYPE_CHECKING:
    _handler: type[BaseHTTPRequestHandler] = AppHandler
