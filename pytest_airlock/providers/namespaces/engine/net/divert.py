"""Two fixed steps of nf_tables by which what a sandbox sends reaches listeners of ours, whatever address it is for.

    1. to any address, port p     -> the listener at that address, or at every address, on port `twisted(p)`
    2. and if nobody is there     -> the listener at that address, or at every address, on port EVERY

Only sockets with IP_TRANSPARENT are led to (Documentation/networking/tproxy.rst); where none is, the packet goes its way and
is refused. So a policy is changed by opening and closing listeners, and never by changing rules, which takes the kernel
milliseconds. Ports are twisted so that programs inside can have the ports for themselves that they also connect to.

Constants are of linux/netfilter/nf_tables.h and nfnetlink.h.
"""

from __future__ import annotations

import _socket
import errno
import struct

from ..syscalls import StepError
from . import netlink
from .netlink import attribute

__all__ = ["EVERY", "install", "new_listener", "twisted"]

#: The port of the listener for every port.
EVERY = 1
#: So that the ports of most services come to lie above those that the kernel gives to clients (ip_local_port_range): one of
#: them would be in the way of a listener at every address.
_TWIST = 0xF000

_NETLINK_NETFILTER, _SUBSYSTEM = 12, 10 << 8
_BATCH_BEGIN, _BATCH_END, _NEWTABLE, _NEWCHAIN, _NEWRULE = 0x10, 0x11, 0, 3, 6
_REQUEST, _ACK, _CREATE, _APPEND = 0x1, 0x4, 0x400, 0x800
_INET, _NESTED = 1, 0x8000
_PREROUTING, _BEFORE_ROUTING = 0, -150
_NFPROTO, _L4PROTO = 15, 16
_EQUAL, _NOT_EQUAL = 0, 1
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_ACCEPT = 1
#: Registers: the address needs all of one.
_SCRATCH, _ADDRESS, _PORT = 1, 2, 3
_IP_TRANSPARENT, _IPV6_TRANSPARENT, _IPV6_FREEBIND = 19, 75, 78
_NAME = b"airlock\0"


def twisted(port: int) -> int:
    """The port at which is listened for what is sent to `port`."""
    return port ^ _TWIST or port  # tproxy takes 0 for the port as it is


def _number(value: int) -> bytes:
    return struct.pack(">I", value & 0xFFFFFFFF)


def _nest(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(attributes))


def _step(name: bytes, *attributes: bytes) -> bytes:
    """One expression of a rule."""
    return _nest(1, attribute(1, name + b"\0"), _nest(2, *attributes))


def _meta(key: int) -> bytes:
    return _step(b"meta", attribute(1, _number(_SCRATCH)), attribute(2, _number(key)))


def _payload(register: int, base: int, offset: int, length: int) -> bytes:
    parts = (register, base, offset, length)
    return _step(b"payload", *(attribute(kind, _number(part)) for kind, part in enumerate(parts, 1)))


def _compare(operation: int, value: bytes) -> bytes:
    return _step(
        b"cmp", attribute(1, _number(_SCRATCH)), attribute(2, _number(operation)), _nest(3, attribute(1, value))
    )


_TWISTED = (
    _payload(_PORT, _TRANSPORT_HEADER, 2, 2),
    _step(
        b"bitwise",
        *(attribute(kind, _number(value)) for kind, value in ((1, _PORT), (2, _PORT), (3, 2))),
        _nest(4, attribute(1, b"\xff\xff")),
        _nest(5, attribute(1, struct.pack(">H", _TWIST))),
    ),
)
_FIXED = (_step(b"immediate", attribute(1, _number(_PORT)), _nest(2, attribute(1, struct.pack(">H", EVERY)))),)
#: Not what stays inside: 127.0.0.0/8, ::1, the sandbox's own address and its resolver (a /24).
_OUTWARD = {
    _socket.AF_INET: (
        _payload(_SCRATCH, _NETWORK_HEADER, 16, 1),
        _compare(_NOT_EQUAL, b"\x7f"),
        _payload(_SCRATCH, _NETWORK_HEADER, 16, 3),
        _compare(_NOT_EQUAL, _socket.inet_aton(netlink.OWN)[:3]),
    ),
    _socket.AF_INET6: (
        _payload(_SCRATCH, _NETWORK_HEADER, 24, 16),
        _compare(_NOT_EQUAL, _socket.inet_pton(_socket.AF_INET6, "::1")),
    ),
}
_DESTINATION = {_socket.AF_INET: (16, 4), _socket.AF_INET6: (24, 16)}


def _rule(family: int, protocol: int, port: tuple[bytes, ...]) -> bytes:
    steps = (
        _meta(_NFPROTO),
        _compare(_EQUAL, bytes([family])),
        *_OUTWARD[family],
        _meta(_L4PROTO),
        _compare(_EQUAL, bytes([protocol])),
        _payload(_ADDRESS, _NETWORK_HEADER, *_DESTINATION[family]),
        *port,
        _step(
            b"tproxy",
            attribute(1, _number(family)),
            attribute(2, _number(_ADDRESS)),
            attribute(3, _number(_PORT)),
        ),
        _step(b"immediate", attribute(1, _number(0)), _nest(2, _nest(2, attribute(1, _number(_ACCEPT))))),
    )
    return attribute(1, _NAME) + attribute(2, _NAME) + _nest(4, *steps)


def _bodies(families: tuple[int, ...]) -> list[tuple[int, int, bytes]]:
    """(kind, flags, attributes) of each message of the batch."""
    hook = _nest(4, attribute(1, _number(_PREROUTING)), attribute(2, _number(_BEFORE_ROUTING)))
    made = [
        (_NEWTABLE, _CREATE, attribute(1, _NAME)),
        (_NEWCHAIN, _CREATE, attribute(1, _NAME) + attribute(3, _NAME) + hook + attribute(7, b"filter\0")),
    ]
    for family in families:
        made += [
            (_NEWRULE, _CREATE | _APPEND, _rule(family, _socket.IPPROTO_TCP, _TWISTED)),
            (_NEWRULE, _CREATE | _APPEND, _rule(family, _socket.IPPROTO_TCP, _FIXED)),
            (_NEWRULE, _CREATE | _APPEND, _rule(family, _socket.IPPROTO_UDP, _FIXED)),
        ]
    return made


def _batch(*families: int) -> tuple[bytes, int]:
    """All in one packet, and the number of the message that is acknowledged."""
    bodies = _bodies(families)
    frame = struct.pack(">BBH", _socket.AF_UNSPEC, 0, _SUBSYSTEM >> 8)
    head = struct.pack(">BBH", _INET, 0, 0)
    packets = [netlink.message(_BATCH_BEGIN, 0, frame, 0)]
    for number, (kind, flags, body) in enumerate(bodies, 1):
        flags |= _ACK if number == len(bodies) else 0
        packets.append(netlink.message(_SUBSYSTEM | kind, flags, head + body, number))
    packets.append(netlink.message(_BATCH_END, 0, frame, 0))
    return b"".join(packets), len(bodies)


_BOTH, _V4 = _batch(_socket.AF_INET, _socket.AF_INET6), _batch(_socket.AF_INET)


def install() -> None:
    """In the network name space of the calling process, which needs CAP_NET_ADMIN there; of IPv4 alone in a kernel without
    IPv6. Raises StepError("network divert").
    """
    try:
        netlink.transact(_NETLINK_NETFILTER, *_BOTH, lambda _: "divert")
    except StepError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
            raise
        # Of a batch that fails nothing stays.
        netlink.transact(_NETLINK_NETFILTER, *_V4, lambda _: "divert")


def new_listener(family: int, kind: int, *, transparent: bool = True) -> _socket.socket:
    """A socket that may be bound to every address; `transparent`: and is led to, which needs CAP_NET_ADMIN in this network."""
    sock = _socket.socket(family, kind | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK, 0)
    try:
        # One at an address and one at every address have the same port; the kernel prefers the first.
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 1)
        if family == _socket.AF_INET6:
            sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
            sock.setsockopt(_socket.IPPROTO_IPV6, _IPV6_TRANSPARENT if transparent else _IPV6_FREEBIND, 1)
        elif transparent:
            sock.setsockopt(_socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
    except BaseException:
        sock.close()
        raise
    return sock
