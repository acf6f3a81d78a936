"""Questions to a name server and the answers to them (RFC 1035), with every length bounded."""

from __future__ import annotations

import _socket
import struct
from typing import NamedTuple

__all__ = ["NO_ERROR", "NO_SUCH_NAME", "PORT", "SERVER_FAILURE", "Question", "answer", "question"]

PORT = 53
NO_ERROR, SERVER_FAILURE, NO_SUCH_NAME = 0, 2, 3  # NOERROR, SERVFAIL, NXDOMAIN
_KINDS = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV", 35: "NAPTR", 64: "SVCB",
    65: "HTTPS", 255: "ANY",
}  # fmt: skip
_OF_SERVICES = ("SRV", "SVCB", "HTTPS")
_HEADER = struct.Struct(">HHHHHH")
_RECORD = struct.Struct(">HHHIH")
_THE_NAME_ASKED = 0xC00C  # a pointer to it (RFC 1035, 4.1.4)
_IS_ANSWER, _AUTHORITATIVE, _RECURSION_WISHED, _RECURSION = 0x8000, 0x0400, 0x0100, 0x0080
_OPCODE = 0x7800
_LONGEST_NAME, _LONGEST_LABEL = 255, 63
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_*")


class Question(NamedTuple):
    r"""`name` in lower case, as printable ASCII: other bytes are \DDD (RFC 1035, 5.1). `raw` is the question as it came."""

    name: str
    kind: str
    raw: bytes

    @property
    def host(self) -> str:
        """The host that it is about: a question for a service has labels before it, `_https._tcp` (RFC 2782, RFC 9460)."""
        labels = self.name.split(".")
        while self.kind in _OF_SERVICES and len(labels) > 1 and labels[0].startswith("_"):
            del labels[0]
        return ".".join(labels)


def question(message: bytes) -> Question:
    """The one question of a query. Raises ValueError for anything else."""
    if len(message) < _HEADER.size:
        raise ValueError("shorter than a header")
    _, flags, questions, *_ = _HEADER.unpack_from(message)
    if flags & (_IS_ANSWER | _OPCODE) or questions != 1:
        raise ValueError("no query with one question")
    labels, at = [], _HEADER.size
    while True:
        if at >= len(message):
            raise ValueError("the name does not end")
        length = message[at]
        at += 1
        if not length:
            break
        label = message[at : at + length]
        at += length
        if length > _LONGEST_LABEL or len(label) < length or at - _HEADER.size > _LONGEST_NAME:
            raise ValueError("a name that is too long")
        labels.append("".join(chr(byte) if byte in _PLAIN else f"\\{byte:03}" for byte in label.lower()))
    if len(message) < at + 4:
        raise ValueError("a question without a type")
    kind = message[at] << 8 | message[at + 1]
    return Question(".".join(labels) or ".", _KINDS.get(kind, f"TYPE{kind}"), message[_HEADER.size : at + 4])


def answer(message: bytes, asked: Question, code: int, address: str = "") -> bytes:
    """The answer with a response code, and the one address of IPv4 if there is one: good for no longer than it takes to read."""
    number, flags, *_ = _HEADER.unpack_from(message)
    flags = _IS_ANSWER | _AUTHORITATIVE | (flags & _RECURSION_WISHED) | _RECURSION | code
    record = _RECORD.pack(_THE_NAME_ASKED, 1, 1, 0, 4) + _socket.inet_aton(address) if address else b""
    return _HEADER.pack(number, flags, 1, bool(address), 0, 0) + asked.raw + record
