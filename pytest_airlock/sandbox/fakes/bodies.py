"""Reading the body of a request: as long as it says, in chunks, or not at all; never more than there is room for."""

from __future__ import annotations

import io
import threading

__all__ = ["BODY_LIMIT", "BadBody", "Room", "read_body"]

#: Bytes of one body, and of all bodies that one server holds at the same time.
BODY_LIMIT = 64 * 1024**2
ROOM = 256 * 1024**2
_PIECE = 64 * 1024
_LINE = 8 * 1024
_TRAILERS = 100


class BadBody(Exception):
    """It cannot be read; `status` is the answer."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Room:
    """Memory for bodies, shared by the connections of one server."""

    def __init__(self, size: int = ROOM) -> None:
        self._left = size
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        with self._lock:
            if size > self._left:
                raise BadBody(503, "too many large bodies at the same time")
            self._left -= size

    def give_back(self, size: int) -> None:
        with self._lock:
            self._left += size


def read_body(stream: io.BufferedIOBase, length: str | None, coding: str | None, room: Room) -> bytearray:
    """Its bytes, for which `room` is taken; of a failure none. `length`, `coding`: Content-Length, Transfer-Encoding.

    Raises BadBody, and OSError if the connection breaks.
    """
    body = bytearray()
    try:
        if coding is not None:
            if coding.strip().lower() != "chunked" or length is not None:
                raise BadBody(400 if length is not None else 501, f"Transfer-Encoding {coding!r} is not understood")
            _read_chunks(stream, body, room)
        elif length is not None:
            _read_exactly(stream, _number(length, 10), body, room)
    except BaseException:
        room.give_back(len(body))
        raise
    return body


def _read_exactly(stream: io.BufferedIOBase, size: int, body: bytearray, room: Room) -> None:
    if len(body) + size > BODY_LIMIT:
        raise BadBody(413, f"a body of more than {BODY_LIMIT:,} bytes")
    while size:
        # As it comes, not as it is announced: an announcement costs its sender nothing.
        piece = stream.read(min(size, _PIECE))
        if not piece:
            raise BadBody(400, "the connection ended within the body")
        room.take(len(piece))
        body += piece
        size -= len(piece)


def _read_chunks(stream: io.BufferedIOBase, body: bytearray, room: Room) -> None:
    """RFC 9112, 7.1. Trailers are dropped."""
    while size := _number(_line(stream).partition(b";")[0].decode("latin-1"), 16):
        _read_exactly(stream, size, body, room)
        if _line(stream):
            raise BadBody(400, "a chunk is longer than it says")
    for _ in range(_TRAILERS):
        if not _line(stream):
            return
    raise BadBody(431, "too many trailers")


def _line(stream: io.BufferedIOBase) -> bytes:
    line = stream.readline(_LINE)
    if not line.endswith(b"\n"):
        raise BadBody(400, "a line within the body does not end")
    return line.rstrip(b"\r\n")


def _number(text: str, base: int) -> int:
    digits = text.strip(" \t")
    valid = "0123456789abcdefABCDEF" if base == 16 else "0123456789"
    if not digits or len(digits) > 16 or digits.strip(valid):
        raise BadBody(400, f"{text[:100]!r} is no length")
    return int(digits, base)
