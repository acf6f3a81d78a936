"""What a rule says of names, addresses and ports."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from pytest_airlock.providers.base import Fault as Wish
from pytest_airlock.providers.base import NetworkRule, Route
from pytest_airlock.providers.namespaces.engine.net import divert
from pytest_airlock.providers.namespaces.engine.net.policy import ANY_PORT, LOCKED, NO_FAULT, End, Fault, Policy, Way
from pytest_airlock.providers.namespaces.network_client import _words

#: An address that stands for a name, and says nothing.
OURS = "198.18.1.0"


def policy(mode: Any = "allow", *allow: str, routes: tuple[Route, ...] = ()) -> Policy:
    return Policy(_words(NetworkRule(mode, allow, routes)))


def reached(rule: Policy, name: str, port: int, address: str = OURS) -> tuple[str, int] | None:
    way = rule.way(name, address, port)
    return None if way is None else (way.host, way.port)


@pytest.mark.parametrize(
    ("entry", "name", "port", "fits"),
    [
        ("a.test:443", "a.test", 443, True),
        ("a.test:443", "a.test", 444, False),
        ("a.test:443", "b.a.test", 443, False),
        ("a.test:443", "xa.test", 443, False),
        ("a.test:*", "a.test", 1, True),
        ("*.a.test:443", "b.a.test", 443, True),
        ("*.a.test:443", "c.b.a.test", 443, True),
        ("*.a.test:443", "a.test", 443, False),
        ("*.a.test:443", "xa.test", 443, False),
        ("*.a.test:443", ".a.test", 443, True),
        ("198.18.0.0/15:443", "a.test", 443, False),
    ],
)
def test_names(entry: str, name: str, port: int, fits: bool) -> None:
    rule = policy("allow", entry)
    assert reached(rule, name, port) == ((name, port) if fits else None)
    assert rule.knows(name) == any(end.names(name) for end in rule.allow)


@pytest.mark.parametrize(
    ("entry", "address", "port", "fits"),
    [
        ("192.0.2.7:80", "192.0.2.7", 80, True),
        ("192.0.2.7:80", "192.0.2.8", 80, False),
        ("192.0.2.7:80", "192.0.2.7", 81, False),
        ("192.0.2.7:*", "192.0.2.7", 81, True),
        ("192.0.2.0/24:80", "192.0.2.255", 80, True),
        ("192.0.2.0/24:80", "192.0.3.0", 80, False),
        ("192.0.2.128/25:80", "192.0.2.127", 80, False),
        ("0.0.0.0/0:80", "203.0.113.1", 80, True),
        ("0.0.0.0/0:80", "2001:db8::7", 80, False),
        ("[2001:db8::/32]:80", "2001:db8:ffff::1", 80, True),
        ("[2001:db8::/32]:80", "2001:db9::1", 80, False),
        ("[::/0]:80", "2001:db8::7", 80, True),
        ("[::/0]:80", "192.0.2.7", 80, False),
        ("a.test:80", "192.0.2.7", 80, False),
    ],
)
def test_addresses(entry: str, address: str, port: int, fits: bool) -> None:
    assert reached(policy("allow", entry), "", port, address) == ((address, port) if fits else None)


def test_a_connection_to_an_address_is_not_looked_up_and_one_to_a_name_says_its_name() -> None:
    rule = policy("allow", "a.test:443", "192.0.2.7:443")
    assert rule.way("a.test", OURS, 443) == Way("a.test", 443, exact=False, check=True, trusted=False, fault=NO_FAULT)
    assert rule.way("", "192.0.2.7", 443) == Way(
        "192.0.2.7", 443, exact=True, check=False, trusted=False, fault=NO_FAULT
    )


def test_open_leads_everywhere_and_checks_no_name() -> None:
    rule = policy("open")
    assert rule.way("a.test", OURS, 22) == Way("a.test", 22, exact=False, check=False, trusted=False, fault=NO_FAULT)
    assert rule.knows("anything.example")
    assert not rule.closed


def test_the_first_route_that_fits_counts_and_comes_before_the_list() -> None:
    slow = Wish(latency=1)
    rule = policy(
        "allow",
        "a.test:80",
        "b.test:80",
        routes=(
            Route("a.test:80", ("127.0.0.1", 1)),
            Route("*.test:80", ("127.0.0.1", 2), slow),
            Route("a.test:81", None),
        ),
    )
    assert reached(rule, "a.test", 80) == ("127.0.0.1", 1)
    way = rule.way("b.test", OURS, 80)
    assert way == Way("127.0.0.1", 2, exact=True, check=False, trusted=True, fault=Fault(latency=1))
    assert reached(rule, "a.test", 81) is None


def test_a_route_without_a_server_changes_how_it_is_reached_and_not_whether() -> None:
    broken = Route("a.test:80", None, Wish(reset_after=1))
    way = policy("allow", "a.test:80", routes=(broken,)).way("a.test", OURS, 80)
    assert way is not None
    assert (way.host, way.fault.reset_after, way.check) == ("a.test", 1, True)
    assert reached(policy("locked", routes=(broken,)), "a.test", 80) is None
    assert not policy("locked", routes=(broken,)).knows("a.test")


def test_locked_with_routes_knows_their_names_only() -> None:
    rule = policy("locked", routes=(Route("db.test:5432", ("127.0.0.1", 1)),))
    assert not rule.closed
    assert rule.knows("db.test")
    assert not rule.knows("other.test")
    assert LOCKED.closed
    assert not LOCKED.knows("db.test")


def test_what_is_listened_for() -> None:
    route = Route("db.test:5432", ("127.0.0.1", 1), Wish(connect="black_hole"))
    ends = list(policy("allow", "192.0.2.7:80", routes=(route,)).ends())
    assert ends == [
        (End("name", "db.test", 5432), Fault(connect="black_hole")),
        (End("network", "c0000207", 80, 32), NO_FAULT),
    ]
    assert list(policy("locked", routes=(Route("a.test:1", None),)).ends()) == []
    assert list(policy("open", "192.0.2.7:80").ends()) == []


def test_addresses_that_were_listed_as_such() -> None:
    rule = policy("allow", "a.test:80", "10.0.0.0/8:80", "192.0.2.7:*", "[::1]:81")
    assert [end.host for end in rule.listed(80)] == ["0a000000", "c0000207"]
    assert len(rule.listed()) == 3


@pytest.mark.parametrize(
    ("entry", "single", "family"),
    [
        ("192.0.2.7:80", "192.0.2.7", socket.AF_INET),
        ("192.0.2.0/24:80", "", socket.AF_INET),
        ("[2001:db8::7]:80", "2001:db8::7", socket.AF_INET6),
        ("[2001:db8::/32]:80", "", socket.AF_INET6),
        ("a.test:80", "", socket.AF_INET),
    ],
)
def test_an_end_of_one_address(entry: str, single: str, family: int) -> None:
    (end,) = policy("allow", entry).allow
    assert (end.single, end.family) == (single, family)


@pytest.mark.parametrize(
    ("fault", "slows"),
    [
        (Fault(), False),
        (Fault(connect="refuse", dns="nxdomain", dns_delay=1), False),
        (Fault(latency=0.1), True),
        (Fault(bandwidth=1), True),
        (Fault(reset_after=0), True),
        (Fault(cut_after=0), True),
    ],
)
def test_which_faults_are_about_bytes(fault: Fault, slows: bool) -> None:
    assert fault.slows is slows


def test_every_port_has_a_twisted_one() -> None:
    twisted = [divert.twisted(port) for port in range(1, 65_536)]
    assert all(0 < port < 65_536 for port in twisted)
    assert divert.twisted(0xF000) == 0xF000, "0 means the port as it is to the kernel"
    assert ANY_PORT not in twisted


def test_the_ports_of_most_services_are_twisted_beyond_those_of_clients() -> None:
    assert min(map(divert.twisted, range(1, 4096))) > 60_999
