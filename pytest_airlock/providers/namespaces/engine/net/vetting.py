"""Which addresses a name may lead to: nothing of this host, of its neighbours, or of networks that are nobody's.

The list is that of the IANA special-purpose registries (RFC 6890 and its updates), and an address at which a cloud tells the
machines that it hosts their secrets though it looks like anybody's (Azure; the others' are link-local). An address that carries another one inside
it is as good as that one.
"""

from __future__ import annotations

import _socket
import errno

from .policy import End

__all__ = ["is_special", "refusal"]

_SPECIAL_4 = (
    ("0.0.0.0", 8),  # noqa: S104 - a network
    ("10.0.0.0", 8), ("100.64.0.0", 10), ("127.0.0.0", 8), ("169.254.0.0", 16), ("172.16.0.0", 12),
    ("192.0.0.0", 24), ("192.0.2.0", 24), ("192.88.99.0", 24), ("192.168.0.0", 16), ("198.18.0.0", 15),
    ("198.51.100.0", 24), ("203.0.113.0", 24), ("224.0.0.0", 4), ("240.0.0.0", 4), ("168.63.129.16", 32),
)  # fmt: skip
#: What is left of IPv6 is its global unicast, 2000::/3, less these.
_GLOBAL_6 = ("2000::", 3)
#: Addresses of IPv4 in the clothes of IPv6: the kernel connects to those, so even who lists ::/0 does not mean them.
_MAPPED = ("::ffff:0:0", 96)
_SPECIAL_6 = (("2001::", 23), ("2001:db8::", 32), ("2002::", 16), ("3fff::", 20))


def _ends(family: int, networks: tuple[tuple[str, int], ...]) -> tuple[End, ...]:
    return tuple(End("network", _socket.inet_pton(family, first).hex(), 0, prefix) for first, prefix in networks)


_BAD_4, _BAD_6 = _ends(_socket.AF_INET, _SPECIAL_4), _ends(_socket.AF_INET6, _SPECIAL_6)
_GOOD_6, _MAPPED_6 = _ends(_socket.AF_INET6, (_GLOBAL_6, _MAPPED))
#: Nobody's (RFC 5737, RFC 3849).
_NOBODYS = {_socket.AF_INET: "192.0.2.1", _socket.AF_INET6: "2001:db8::1"}


def refusal(address: str, listed: list[End]) -> int:
    """0 if an address may be dialled, else the errno that says why not. `listed` are those that were named as such."""
    family, packed = _packed(address)
    if family == _socket.AF_INET6 and _MAPPED_6.holds(packed):
        return errno.EACCES
    if any(end.holds(packed) for end in listed):
        return 0
    return errno.EACCES if is_special(address) or _is_ours(family, address) else 0


def is_special(address: str) -> bool:
    """Whether it is of a network that is nobody's, or only of the neighbours."""
    family, packed = _packed(address)
    if family == _socket.AF_INET:
        return any(end.holds(packed) for end in _BAD_4)
    return not _GOOD_6.holds(packed) or any(end.holds(packed) for end in _BAD_6)


def _packed(address: str) -> tuple[int, bytes]:
    family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
    return family, _socket.inet_pton(family, address)


def _is_ours(family: int, address: str) -> bool:
    """Whether this host has the address: then a socket can be bound to it (bind(2)); and only then, but where
    ip_nonlocal_bind is set (ip(7)).
    """
    if not _can_be_bound(family, address):
        return False
    return not _can_be_bound(family, _NOBODYS[family]) or _source(family, address) == address


def _can_be_bound(family: int, address: str) -> bool:
    probe = _socket.socket(family, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        probe.bind((address, 0))
    except OSError:
        return False
    else:
        return True
    finally:
        probe.close()


def _source(family: int, address: str) -> str:
    """The address from which one gets there: of one's own it is that one. Nothing is sent."""
    probe = _socket.socket(family, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        probe.connect((address, 9))
        return str(probe.getsockname()[0])
    except OSError:
        return ""
    finally:
        probe.close()
