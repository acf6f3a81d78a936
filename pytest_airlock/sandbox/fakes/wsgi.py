"""A WSGI callable (PEP 3333) as who answers."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

from pytest_airlock.sandbox.fakes.received import Request
from pytest_airlock.sandbox.fakes.reply import Reply

__all__ = ["Wsgi"]

_Fields = Iterable[tuple[str, str]]


class _Response:
    """start_response and write(): the head goes out with the first byte of the body."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._head: tuple[int, str, list[tuple[str, str]]] | None = None

    def start(self, status: str, headers: _Fields, exc_info: Any = None) -> Callable[[bytes], None]:
        if exc_info and self._reply.started:
            raise exc_info[1].with_traceback(exc_info[2])
        if self._head is not None and not exc_info:
            raise RuntimeError("start_response() was called twice")
        code, _, reason = status.partition(" ")
        self._head = int(code), reason, list(headers)
        return self.write

    def write(self, data: bytes) -> None:
        if not isinstance(data, bytes):
            raise TypeError(f"a WSGI body is bytes, not {type(data).__name__}")
        if data:
            self._begin()
            self._reply.write(data)

    def end(self) -> None:
        self._begin()
        self._reply.end()

    def _begin(self) -> None:
        if self._head is None:
            raise RuntimeError("the app did not call start_response()")
        if not self._reply.started:
            self._reply.start(*self._head)


class Wsgi:
    """`port` is the one of the URL. Its errors are whatever the app raises, and ValueError and its kind for what it must not do."""

    def __init__(self, app: Callable[..., Iterable[bytes]], *, secure: bool, port: int) -> None:
        self._app, self._secure, self._port = app, secure, port

    def close(self) -> None: ...

    def answer(self, request: Request, body: bytes, reply: Reply) -> None:
        response = _Response(reply)
        pieces = self._app(self._environ(request, body), response.start)
        try:
            for piece in pieces:
                response.write(piece)
            response.end()
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                close()

    def _environ(self, request: Request, body: bytes) -> dict[str, Any]:
        environ: dict[str, Any] = {
            "REQUEST_METHOD": request.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(request.path.encode("latin-1")).decode("latin-1"),
            "QUERY_STRING": request.query,
            "SERVER_NAME": request.host,
            "SERVER_PORT": str(self._port),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "https" if self._secure else "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name in request.headers:
            # An underscore would make a name that another header has (CVE-2011-4140 and its kind).
            if "_" in name or name in ("content-length", "transfer-encoding"):
                continue
            key = name.upper().replace("-", "_")
            environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = ",".join(request.headers.all(name))
        return environ
