"""Answers to echo requests, which the kernel of a sandbox would answer for every address, since all are its own; and to
datagrams that an open network does not carry, of whose refusal nobody would tell otherwise.

To a loopback address the reply is what ping(8) expects; for every other one it is "administratively prohibited", as a
firewall says it (RFC 792, RFC 1812 5.2.7.1; RFC 4443 3.1 and 4.2).
"""

from __future__ import annotations

import _socket
import ctypes
import struct

from ..bpf import RETURN, Op, assemble
from .netlink import OWN
from .recorder import ICMP6, Heard

__all__ = ["answer", "hear_nothing", "is_inside", "new"]

_IPPROTO_RAW, _IPPROTO_ICMP = 255, 1
_SO_ATTACH_FILTER = 26
_IPV6_PKTINFO, _IPV6_FREEBIND = 50, 78
_NOTHING = assemble((Op(RETURN, 0),))
_BUFFER = ctypes.create_string_buffer(_NOTHING, len(_NOTHING))
_FPROG = struct.pack("@HP", 1, ctypes.addressof(_BUFFER))
_REPLY, _REPLY6 = b"\x00\x00", b"\x81\x00"
_PROHIBITED, _PROHIBITED6 = b"\x03\x0d", b"\x01\x01"
_LO = 1
_QUOTED = 200  # bytes of the refused packet


def hear_nothing(sock: _socket.socket) -> None:
    """All that is sent to it is dropped, and who sends is told nothing; a listener lets nobody connect."""
    sock.setsockopt(_socket.SOL_SOCKET, _SO_ATTACH_FILTER, _FPROG)


def new(*, v6: bool) -> tuple[_socket.socket, ...]:
    """Sockets that send and receive nothing. Need CAP_NET_RAW."""
    kind = _socket.SOCK_RAW | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
    made = [_socket.socket(_socket.AF_INET, kind, _IPPROTO_RAW)]
    if v6:
        sock = _socket.socket(_socket.AF_INET6, kind, ICMP6)
        hear_nothing(sock)
        sock.setsockopt(_socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        made.append(sock)
    return tuple(made)


def is_inside(address: str) -> bool:
    return address.startswith("127.") or address in ("::1", OWN)


def answer(sockets: tuple[_socket.socket, ...], packet: bytes, heard: Heard) -> None:
    """Answer one packet, as whom it was sent to. Raises OSError."""
    inside = is_inside(heard.address)
    if ":" in heard.address:
        if len(sockets) < 2:
            return
        content = _REPLY6 + bytes(2) + heard.content[4:] if inside else _PROHIBITED6 + bytes(6) + packet[:_QUOTED]
        # The kernel adds the checksum.
        source = _socket.inet_pton(_socket.AF_INET6, heard.address) + struct.pack("=I", _LO)
        sockets[1].sendmsg([content], [(_socket.IPPROTO_IPV6, _IPV6_PKTINFO, source)], 0, (heard.source, 0, 0, 0))
        return
    head = _REPLY if inside else _PROHIBITED
    rest = heard.content[4:] if inside else bytes(4) + packet[:_QUOTED]
    content = head + struct.pack(">H", checksum(head + bytes(2) + rest)) + rest
    source, target = _socket.inet_aton(heard.address), _socket.inet_aton(heard.source)
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(content), 0, 0, 64, _IPPROTO_ICMP, 0, source, target)
    sockets[0].sendto(header + content, (heard.source, 0))


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) & ~1])) + (
        data[-1] << 8 if len(data) & 1 else 0
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
