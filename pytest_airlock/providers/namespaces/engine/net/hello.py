"""The name in the first message of a TLS connection (RFC 8446, 4.1.2; RFC 6066, 3), read without any of it being taken."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["LONGEST", "Incomplete", "is_tls", "server_name"]

#: Bytes of a first message at most, with what frames it; browsers' with post-quantum keys have some 2,000.
LONGEST = 18_000
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _HOST_NAME = 0, 0
#: Records at most: with each all is read again from the start.
_RECORDS = 32
_RECORD_HEADER, _MESSAGE_HEADER = 5, 4
_LONGEST_RECORD = 1 << 14
_BEFORE_SESSION = 2 + 32  # version and random


class _Start(NamedTuple):
    """How a connection can begin beside: what may be the first byte, and bytes with their places."""

    first: range
    others: dict[int, int]

    @property
    def size(self) -> int:
        return max(self.others) + 1

    def begins(self, data: bytes) -> bool:
        """Whether it may be that, as far as `data` goes."""
        return data[0] in self.first and all(data[at] == byte for at, byte in self.others.items() if at < len(data))


#: Records of other types, which servers may step over, and the ClientHello of the form of version 2.0, which they still take from
#: clients that can do 3.1 = TLS 1.0 (RFC 5246, E.2): it has no name.
_OTHER_STARTS = (
    _Start(range(20, 25), {1: 3}),
    _Start(range(128, 256), {2: _CLIENT_HELLO, 3: 3}),
)


class Incomplete(Exception):
    """More must come first: `size` bytes in all, at least."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def is_tls(data: bytes) -> bool:
    """Whether a connection that begins so is one of TLS. `data` is not empty. Raises Incomplete."""
    if data[0] == _HANDSHAKE:
        return True
    start = next((start for start in _OTHER_STARTS if start.begins(data)), None)
    if start is not None and len(data) < start.size:
        raise Incomplete(start.size)
    return start is not None


def server_name(data: bytes) -> str:
    """The host name asked for, in lower case; "" if none is. Raises ValueError for what is no ClientHello, Incomplete."""
    message = _Reader(_message(data))
    message.take(_BEFORE_SESSION)
    message.block(1)  # session id
    message.block(2)  # cipher suites
    message.block(1)  # compression methods
    if not message.left:
        return ""
    extensions = _Reader(message.last_block(2))
    found = ""
    while extensions.left:
        kind, body = extensions.number(2), extensions.block(2)
        if kind != _SERVER_NAME:
            continue
        names = _Reader(_Reader(body).last_block(2))
        while names.left:
            name_kind, name = names.number(1), names.block(2)
            if name_kind != _HOST_NAME or found:
                raise ValueError("more than one server name")
            found = name.decode("ascii").lower()  # UnicodeDecodeError is a ValueError
            if not found:
                raise ValueError("an empty server name")
    return found


def _message(data: bytes) -> bytes:
    """The body of the ClientHello, which may be spread over records."""
    body, at = b"", 0
    for _ in range(_RECORDS):
        if len(data) < at + _RECORD_HEADER:
            raise Incomplete(at + _RECORD_HEADER)
        length = data[at + 3] << 8 | data[at + 4]
        if data[at] != _HANDSHAKE or not 0 < length <= _LONGEST_RECORD:
            raise ValueError("no handshake")
        at += _RECORD_HEADER
        if len(data) < at + length:
            raise Incomplete(at + length)
        body += data[at : at + length]
        at += length
        if len(body) < _MESSAGE_HEADER:
            continue
        size = int.from_bytes(body[1:_MESSAGE_HEADER], "big")
        if body[0] != _CLIENT_HELLO or size > LONGEST:
            raise ValueError("no ClientHello")
        if len(body) >= _MESSAGE_HEADER + size:
            return body[_MESSAGE_HEADER : _MESSAGE_HEADER + size]
    raise ValueError("in too many pieces")


class _Reader:
    """Takes one thing after the other. Raises ValueError if there is less than is taken."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise ValueError("it says more than there is")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def block(self, size: int) -> bytes:
        """What follows its own length of `size` bytes."""
        return self.take(self.number(size))

    def last_block(self, size: int) -> bytes:
        """What follows its own length, and behind which nothing is."""
        found = self.block(size)
        if self.left:
            raise ValueError("there is more than it says")
        return found
