"""What a sandbox may reach: the rule that the client gave, and what it says of one name or one connection."""

from __future__ import annotations

import _socket
from collections.abc import Iterable
from typing import Any, NamedTuple

__all__ = ["ANY_PORT", "EVERYWHERE", "LOCKED", "NO_FAULT", "End", "Fault", "Policy", "Way"]

ANY_PORT = 0
#: The address that stands for all of a family.
EVERYWHERE: dict[int, str] = {_socket.AF_INET: "0.0.0.0", _socket.AF_INET6: "::"}  # noqa: S104 - of a sandbox
_ADDRESS_SIZES = {4: _socket.AF_INET, 16: _socket.AF_INET6}


class End(NamedTuple):
    """Names or addresses at one port. `kind` is "name", "below" (names below `host`) or "network": then `host` is the first
    address in hexadecimal digits and `prefix` how many of its bits count.
    """

    kind: str
    host: str
    port: int
    prefix: int = 0

    def names(self, name: str) -> bool:
        """Whether it is about that name, at whichever port."""
        return name == self.host if self.kind == "name" else self.kind == "below" and name.endswith(f".{self.host}")

    def holds(self, address: bytes) -> bool:
        """Whether it is about that address."""
        if self.kind != "network" or len(self.host) != 2 * len(address):
            return False
        left = 8 * len(address) - self.prefix
        return int.from_bytes(address, "big") >> left == int(self.host, 16) >> left

    def fits(self, name: str, address: bytes, port: int) -> bool:
        """`name` is "" for a connection that was made to an address; else the address is one of ours and says nothing."""
        return self.port in (ANY_PORT, port) and (self.names(name) if name else self.holds(address))

    @property
    def single(self) -> str:
        """The address, if it is about one only; else ""."""
        size = len(self.host) // 2
        if self.kind != "network" or self.prefix != 8 * size:
            return ""
        return _socket.inet_ntop(_ADDRESS_SIZES[size], bytes.fromhex(self.host))

    @property
    def family(self) -> int:
        """Of connections to it: names have addresses of IPv4 inside."""
        return _ADDRESS_SIZES[len(self.host) // 2] if self.kind == "network" else _socket.AF_INET


class Fault(NamedTuple):
    """How the way is bad on purpose: as providers/values.py has it."""

    latency: float = 0.0
    bandwidth: int | None = None
    reset_after: int | None = None
    cut_after: int | None = None
    connect: str = "accept"
    dns: str = "answer"
    dns_delay: float = 0.0

    @property
    def slows(self) -> bool:
        """Whether bytes must be looked after one by one."""
        return bool(self.latency or self.bandwidth or self.reset_after is not None or self.cut_after is not None)


NO_FAULT = Fault()


class Way(NamedTuple):
    """Where a connection goes: to `host` (a name, or an address if `exact`) at `port`; `check` is whether the name in a TLS
    handshake must be that one. `trusted`: the test's own server, which needs no second look.
    """

    host: str
    port: int
    exact: bool
    check: bool
    trusted: bool
    fault: Fault


class _Route(NamedTuple):
    end: End
    to: tuple[str, int] | None
    fault: Fault

    @property
    def alone(self) -> bool:
        """Whether nobody out there is needed for it: it counts under every policy, and no name has to be looked up."""
        return self.to is not None or self.fault.connect != "accept"


class Policy:
    """Immutable. `rule` is the client's: {"mode", "allow": [[kind, host, port, prefix], …], "routes": [[end, to, fault], …]}."""

    def __init__(self, rule: dict[str, Any]) -> None:
        self.rule = rule
        self.mode: str = rule["mode"]
        self.allow = tuple(End(*end) for end in rule["allow"])
        self.routes = tuple(
            _Route(End(*end), tuple(to) if to else None, Fault(**fault)) for end, to, fault in rule["routes"]
        )

    def with_routes_of(self, other: Policy) -> Policy:
        """This one with the routes of another; a locked one has none."""
        return self if self.mode == "locked" else Policy({**self.rule, "routes": other.rule["routes"]})

    @property
    def closed(self) -> bool:
        """Whether nothing is reached at all."""
        return self.mode == "locked" and not self.routes

    def ends(self) -> Iterable[tuple[End, Fault]]:
        """All that is listened for by itself, routes first."""
        yield from ((route.end, route.fault) for route in self.routes if route.alone or self.mode != "locked")
        if self.mode == "allow":
            yield from ((end, NO_FAULT) for end in self.allow)

    def route(self, name: str) -> _Route | None:
        """The first route for a name, at whichever port."""
        return next((route for route in self.routes if route.end.names(name)), None)

    def knows(self, name: str) -> bool:
        """Whether the name leads anywhere."""
        if self.mode == "open":
            return True
        if any(route.end.names(name) and (route.alone or route.fault.dns != "answer") for route in self.routes):
            return True
        return self.mode == "allow" and any(end.names(name) for end in self.allow)

    def way(self, name: str, address: str, port: int) -> Way | None:
        """Where a connection goes that a program made to a name ("" = to an address); None if nowhere."""
        packed = _socket.inet_pton(_socket.AF_INET6 if ":" in address else _socket.AF_INET, address)
        route = next((route for route in self.routes if route.end.fits(name, packed, port)), None)
        fault = route.fault if route is not None else NO_FAULT
        if route is not None and route.to is not None:
            return Way(*route.to, exact=True, check=False, trusted=True, fault=fault)
        if self.mode == "open":
            return Way(name or address, port, exact=not name, check=False, trusted=False, fault=fault)
        if self.mode == "allow" and any(end.fits(name, packed, port) for end in self.allow):
            return Way(name or address, port, exact=not name, check=bool(name), trusted=False, fault=fault)
        return None

    def listed(self, port: int | None = None) -> list[End]:
        """Addresses that were named as such, at this port or at any."""
        return [end for end in self.allow if end.kind == "network" and (port is None or end.port in (ANY_PORT, port))]


LOCKED = Policy({"mode": "locked", "allow": [], "routes": []})
