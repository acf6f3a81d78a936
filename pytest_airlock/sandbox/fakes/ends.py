"""What route() and serve() may be given: ends, URLs, destinations on this machine, faults."""

from __future__ import annotations

import ipaddress
import socket
from typing import Literal, NamedTuple, TypedDict
from urllib.parse import urlsplit

from pytest_airlock.models import parse_size
from pytest_airlock.providers.base import Fault
from pytest_airlock.providers.endpoints import Endpoint, parse

__all__ = ["Address", "Faults", "ServedUrl", "destination", "fault", "served_url"]

Address = tuple[str, int]
DnsAnswer = Literal["answer", "nxdomain", "servfail", "silent"]

_PORTS = {"http": 80, "https": 443}
_LONGEST = 1e9


class Faults(TypedDict, total=False):
    """The keyword arguments of route() that make a network bad."""

    latency: float
    bandwidth: int | str | None
    reset_after: int | str | None
    cut_after: int | str | None
    refuse: bool
    black_hole: bool
    dns: DnsAnswer
    dns_delay: float


class ServedUrl(NamedTuple):
    """`secure`: with TLS. `host` as certificates have it: a name, "*.name" or an address."""

    end: Endpoint
    secure: bool
    host: str


def served_url(url: str) -> ServedUrl:
    """Of "https://api.example.com", "http://*.example.com:8080". Raises ValueError saying what is wrong with it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is no URL: {error}") from None
    if parts.scheme not in _PORTS:
        raise ValueError(f"{url!r} is not served: write http:// or https:// and a host name")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{url!r} has more than a host name and a port: the app sees the path of each request")
    if not parts.hostname:
        raise ValueError(f"{url!r} has no host name")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    end = parse(f"{host}:{_PORTS[parts.scheme] if port is None else port}")
    if end.kind != "network":
        return ServedUrl(end, parts.scheme == "https", f"*.{end.host}" if end.kind == "below" else end.host)
    network = ipaddress.ip_network(end.host)
    if network.num_addresses != 1:
        raise ValueError(f"{url!r} is many addresses: serve one name or one address, or use route()")
    return ServedUrl(end, parts.scheme == "https", str(network.network_address))


def destination(to: object) -> Address:
    """A loopback address of this machine, and a port. Raises ValueError saying what is wrong with it."""
    if isinstance(to, socket.socket):
        return _bound(to)
    if not (isinstance(to, tuple) and len(to) == 2 and isinstance(to[0], str)):
        raise ValueError(f"to={to!r} is no destination: give (host, port) or a listening socket")
    host, port = to
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise ValueError(f"to={to!r}: {host!r} is no address of this machine: give 127.0.0.1 or ::1") from None
    if not address.is_loopback:
        raise ValueError(
            f"to={to!r} is not this machine: a route leads to a server of the test at 127.0.0.1 or ::1; "
            "what may be reached elsewhere is a matter of the network policy, network.allow()"
        )
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65_536:
        raise ValueError(f"to={to!r}: {port!r} is no port: they are 1 to 65535")
    return str(address), port


def _bound(sock: socket.socket) -> Address:
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        raise ValueError(f"to={sock!r} is no TCP socket")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ValueError(f"to={sock!r} does not listen: call its listen() first")
    host, port = sock.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1" if sock.family == socket.AF_INET else "::1"
    return destination((host, port))


def fault(
    *,
    latency: float = 0.0,
    bandwidth: int | str | None = None,
    reset_after: int | str | None = None,
    cut_after: int | str | None = None,
    refuse: bool = False,
    black_hole: bool = False,
    dns: DnsAnswer = "answer",
    dns_delay: float = 0.0,
) -> Fault:
    """Raises ValueError saying which of them is wrong, and why."""
    if refuse and black_hole:
        raise ValueError("refuse and black_hole exclude each other: a connection is refused, or never answered")
    if reset_after is not None and cut_after is not None:
        raise ValueError("reset_after and cut_after exclude each other: a connection ends once")
    if dns not in ("answer", "nxdomain", "servfail", "silent"):
        raise ValueError(f"dns={dns!r} is no answer: it is 'answer', 'nxdomain', 'servfail' or 'silent'")
    return Fault(
        latency=_seconds("latency", latency),
        bandwidth=None if bandwidth is None else _size("bandwidth", bandwidth),
        reset_after=None if reset_after is None else _count("reset_after", reset_after),
        cut_after=None if cut_after is None else _count("cut_after", cut_after),
        connect="refuse" if refuse else "black_hole" if black_hole else "accept",
        dns=dns,
        dns_delay=_seconds("dns_delay", dns_delay),
    )


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _LONGEST:
        raise ValueError(f"{name}={value!r} is no time: it is a number of seconds, 0 or more")
    return float(value)


def _size(name: str, value: int | str) -> int:
    try:
        return parse_size(value)
    except ValueError as error:
        raise ValueError(f"{name}={value!r}: {error}") from None


def _count(name: str, value: int | str) -> int:
    """A size, or nothing at all: the connection ends before a byte has come."""
    return 0 if value == 0 and not isinstance(value, bool) else _size(name, value)
