"""Messages of rtnetlink(7): the addresses and routes of a network name space.

Constants are from linux/netlink.h, linux/rtnetlink.h, linux/if_link.h and linux/if_addr.h.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct
from collections.abc import Callable

from ..syscalls import StepError

__all__ = ["OWN", "RESOLVER", "attribute", "message", "set_up", "transact"]

#: Of 198.18.0.0/15, which RFC 2544 keeps free for tests of networks: nobody's address anywhere.
OWN, RESOLVER = "198.18.0.1", "198.18.0.53"

_AF_NETLINK, _NETLINK_ROUTE = 16, 0
_NLMSG_ERROR = 2
_REQUEST, _ACK, _EXCL, _CREATE = 0x1, 0x4, 0x200, 0x400
_RTM_NEWLINK, _RTM_NEWADDR, _RTM_NEWROUTE = 16, 20, 24
_IFA_ADDRESS, _IFA_LOCAL, _RTA_OIF, _RTA_PREFSRC = 1, 2, 4, 7
_RT_TABLE_LOCAL, _RTN_LOCAL, _RT_SCOPE_HOST, _RTPROT_BOOT = 255, 2, 254, 3
_LO, _IFF_UP = 1, 1
_HEADER = struct.Struct("=IHHII")


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def message(kind: int, flags: int, body: bytes, number: int) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, number, 0) + body


def _any_address(family: int, scope: int, *attributes: bytes) -> bytes:
    """A route by which every address is this machine's own."""
    head = struct.pack("=BBBBBBBBI", family, 0, 0, 0, _RT_TABLE_LOCAL, _RTPROT_BOOT, scope, _RTN_LOCAL, 0)
    return head + b"".join(attributes) + attribute(_RTA_OIF, struct.pack("=I", _LO))


_OWN = _socket.inet_aton(OWN)
_STEPS = ("link up", "address", "route", "IPv6 route")
_BODIES = (
    (_RTM_NEWLINK, 0, struct.pack("=BxHiII", 0, 0, _LO, _IFF_UP, _IFF_UP)),
    (
        _RTM_NEWADDR,
        _CREATE | _EXCL,
        struct.pack("=BBBBi", _socket.AF_INET, 32, 0, 0, _LO)
        + attribute(_IFA_LOCAL, _OWN)
        + attribute(_IFA_ADDRESS, _OWN),
    ),
    # Without a source of its own a connection would have both ends at one address, and could meet itself. That it is
    # none of 127.0.0.0/8 also makes resolvers ask for IPv4 addresses (AI_ADDRCONFIG).
    (_RTM_NEWROUTE, _CREATE | _EXCL, _any_address(_socket.AF_INET, _RT_SCOPE_HOST, attribute(_RTA_PREFSRC, _OWN))),
    (_RTM_NEWROUTE, _CREATE | _EXCL, _any_address(_socket.AF_INET6, 0)),
)


def _all(count: int) -> bytes:
    """The first messages in one packet; the last is acknowledged, of the others only a failure is told."""
    return b"".join(
        message(kind, flags | (_ACK if number == count - 1 else 0), body, number)
        for number, (kind, flags, body) in enumerate(_BODIES[:count])
    )


_PACKETS = {count: _all(count) for count in (3, 4)}


def set_up(*, v6: bool) -> None:
    """Make every address of this network name space its own. Raises StepError("network …")."""
    count = 4 if v6 else 3
    transact(_NETLINK_ROUTE, _PACKETS[count], count - 1, _STEPS.__getitem__)


def transact(family: int, packet: bytes, last: int, step: Callable[[int], str]) -> None:
    """Send messages to a part of the kernel; done when the one with number `last` is acknowledged. Raises StepError with the
    `step` of the message that failed.
    """
    sock = _socket.socket(_AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, family)
    try:
        sock.send(packet)
        while True:
            for number, code in _outcomes(sock.recv(8192)):
                if code:
                    raise StepError(code, f"network {step(number)}")
                if number == last:
                    return
    finally:
        sock.close()


def _outcomes(data: bytes) -> list[tuple[int, int]]:
    """(number of the message, errno or 0) of each acknowledgement."""
    found, at = [], 0
    while at + _HEADER.size <= len(data):
        length, kind, _, number, _ = _HEADER.unpack_from(data, at)
        if kind == _NLMSG_ERROR:
            found.append((number, -struct.unpack_from("=i", data, at + _HEADER.size)[0]))
        at += max(_HEADER.size, length + 3 & ~3)
    if not found:
        raise StepError(errno.EBADMSG, "network answer", os.strerror(errno.EBADMSG))
    return found
