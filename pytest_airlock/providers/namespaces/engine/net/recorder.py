"""What hears each try to use the network: a packet(7) socket on the loopback device, the only one a sandbox has.

Its filter lets the first packet of a TCP connection through, every UDP datagram, every echo request, and packets of any
other protocol; not what stays inside: to 127.0.0.0/8, ::1 and the sandbox's own address. The kernel puts a packet into
it before the program that sent it hears of the refusal, so whoever asks later finds it there.
"""

from __future__ import annotations

import _socket
import ctypes
import struct
from typing import NamedTuple

from ..bpf import (
    AND,
    HEADER_LENGTH,
    IF_ANY_BIT,
    IF_EQUAL,
    LOAD,
    LOAD_BYTE,
    LOAD_BYTE_BEHIND,
    LOAD_HALF,
    RETURN,
    Code,
    Op,
    assemble,
)
from . import dns
from .netlink import OWN

__all__ = ["ECHO", "ECHO6", "ICMP", "ICMP6", "TCP", "UDP", "Heard", "lost", "new", "read"]

ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58  # IANA protocol numbers
ECHO, ECHO6 = 8, 128  # echo request of RFC 792 and RFC 4443
#: Bytes kept of a packet: a DNS question with all headers before it, and an echo request that is answered as it came.
KEPT = 2048

_AF_PACKET, _SOL_PACKET = 17, 263
_SO_ATTACH_FILTER, _PACKET_STATISTICS, _PACKET_IGNORE_OUTGOING = 26, 6, 23
_ETH_P_ALL = 3
_OWN_NUMBER = struct.unpack(">I", _socket.inet_aton(OWN))[0]
_SYN, _SYN_ACK = 0x02, 0x12
_UDP_HEADER = 8

# Offsets are those of RFC 791, 8200, 9293, 792 and 4443.
_FILTER: Code = (
    Op(LOAD_BYTE, 0),
    Op(AND, 0xF0),
    Op(IF_EQUAL, 0x40, "v4"),
    Op(IF_EQUAL, 0x60, "v6", "no"),
    "v4",
    Op(LOAD_HALF, 6),
    Op(IF_ANY_BIT, 0x1FFF, "no"),  # a later fragment
    Op(HEADER_LENGTH, 0),
    Op(LOAD_BYTE, 9),
    Op(IF_EQUAL, ICMP, "echo"),
    Op(LOAD_BYTE, 16),
    Op(IF_EQUAL, 127, "no"),
    Op(LOAD, 16),
    Op(IF_EQUAL, _OWN_NUMBER, "no"),
    Op(LOAD_BYTE, 9),
    Op(IF_EQUAL, TCP, "", "yes"),
    Op(LOAD_BYTE_BEHIND, 13),
    Op(AND, _SYN_ACK),
    Op(IF_EQUAL, _SYN, "yes", "no"),
    "echo",
    Op(LOAD_BYTE_BEHIND, 0),
    Op(IF_EQUAL, ECHO, "yes", "no"),
    "v6",
    Op(LOAD_BYTE, 6),
    Op(IF_EQUAL, ICMP6, "echo6"),
    *(op for at in (24, 28, 32) for op in (Op(LOAD, at), Op(IF_EQUAL, 0, "", "far"))),
    Op(LOAD, 36),
    Op(IF_EQUAL, 1, "no"),
    "far",
    Op(LOAD_BYTE, 6),
    Op(IF_EQUAL, TCP, "", "yes"),
    Op(LOAD_BYTE, 53),
    Op(AND, _SYN_ACK),
    Op(IF_EQUAL, _SYN, "yes", "no"),
    "echo6",
    Op(LOAD_BYTE, 40),
    Op(IF_EQUAL, ECHO6, "yes", "no"),
    "yes",
    Op(RETURN, KEPT),
    "no",
    Op(RETURN, 0),
)
_PROGRAM = assemble(_FILTER)
_BUFFER = ctypes.create_string_buffer(_PROGRAM, len(_PROGRAM))
#: struct sock_fprog.
_FPROG = struct.pack("@HP", len(_PROGRAM) // 8, ctypes.addressof(_BUFFER))


class Heard(NamedTuple):
    """One packet: IP protocol number, addresses as text, port (-1 where there is none), and what follows the IP header."""

    protocol: int
    source: str
    address: str
    port: int
    content: bytes

    def question(self) -> dns.Question | None:
        """What it asks a name server, if it does."""
        if self.protocol != UDP or self.port != dns.PORT:
            return None
        try:
            return dns.question(self.content[_UDP_HEADER:])
        except ValueError:
            return None  # a datagram like any other


def new() -> _socket.socket:
    """The socket, listening from now on. Needs CAP_NET_RAW in the name space of the network."""
    kind = _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
    # Of no protocol at first: nothing may come before the filter.
    sock = _socket.socket(_AF_PACKET, kind, 0)
    try:
        sock.setsockopt(_socket.SOL_SOCKET, _SO_ATTACH_FILTER, _FPROG)
        sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        sock.bind(("lo", _ETH_P_ALL))
    except BaseException:
        sock.close()
        raise
    return sock


def lost(sock: _socket.socket) -> int:
    """Packets for which there was no room since the last time this was asked."""
    dropped: int = struct.unpack("=II", sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[1]
    return dropped


def read(packet: bytes) -> Heard | None:
    """What a packet says; None if it is too short to say anything. Its bytes are the attacker's."""
    if len(packet) < 20:
        return None
    if packet[0] >> 4 == 4:
        length, protocol, source, address = (packet[0] & 15) * 4, packet[9], packet[12:16], packet[16:20]
        family = _socket.AF_INET
    else:
        length, protocol, source, address = 40, packet[6], packet[8:24], packet[24:40]
        family = _socket.AF_INET6
        if len(packet) < 40:
            return None
    content = packet[length:]
    port = -1
    if protocol in (TCP, UDP):
        if len(content) < 4:
            return None
        port = content[2] << 8 | content[3]
    return Heard(protocol, _socket.inet_ntop(family, source), _socket.inet_ntop(family, address), port, content)
