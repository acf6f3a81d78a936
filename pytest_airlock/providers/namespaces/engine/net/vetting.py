"""Which addresses a name may lead to: nothing of this host, of its neighbours, or of networks that are nobody's.

The list is that of the IANA special-purpose registries (RFC 6890 and its updates). An address that carries another one inside
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
    ("198.51.100.0", 24), ("203.0.113.0", 24), ("224.0.0.0", 4), ("240.0.0.0", 4),
)  # fmt: skip
#: What is left of IPv6 is its global unicast, 2000::/3, less these.
_GLOBAL_6 = ("2000::", 3)
_SPECIAL_6 = (("2001::", 23), ("2001:db8::", 32), ("2002::", 16), ("3fff::", 20))


def _ends(family: int, networks: tuple[tuple[str, int], ...]) -> tuple[End, ...]:
    return tuple(End("network", _socket.inet_pton(family, first).hex(), 0, prefix) for first, prefix in networks)


_BAD_4, _BAD_6 = _ends(_socket.AF_INET, _SPECIAL_4), _ends(_socket.AF_INET6, _SPECIAL_6)
(_GOOD_6,) = _ends(_socket.AF_INET6, (_GLOBAL_6,))


def refusal(address: str, listed: list[End]) -> int:
    """0 if an address may be dialled, else the errno that says why not. `listed` are those that were named as such."""
    family, packed = _packed(address)
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
    """Whether this host has the address: then, and only then, a socket can be bound to it (bind(2))."""
    probe = _socket.socket(family, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        probe.bind((address, 0))
    except OSError:
        return False
    else:
        return True
    finally:
        probe.close()
