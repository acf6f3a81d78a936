"""network.route(): what it takes, which route counts, and when it ends."""

from __future__ import annotations

import socket

import pytest

from pytest_airlock.errors import ProviderError, StaleSandbox
from pytest_airlock.providers.base import Fault, Route

HERE = ("127.0.0.1", 8443)


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def routes(provider):
    return provider.rule("box").routes


def ends(provider):
    return [route.end for route in routes(provider)]


@pytest.mark.parametrize(
    ("end", "canonical"),
    [
        ("api.example.com:443", "api.example.com:443"),
        ("API.Example.com.:443", "api.example.com:443"),
        ("*.example.com:*", "*.example.com:*"),
        ("192.0.2.7:80", "192.0.2.7:80"),
        ("[2001:db8::/32]:443", "[2001:db8::/32]:443"),
    ],
)
def test_an_end_is_what_an_allow_list_has(box, provider, end, canonical):
    route = box.network.route(end, to=HERE)
    assert route.end == canonical
    assert route.to == HERE
    assert routes(provider) == (Route(canonical, HERE),)


@pytest.mark.parametrize("end", ["api.example.com", "", ":443", "api.example.com:0", "a b:80", "localhost:80"])
def test_a_bad_end_is_told_and_nothing_is_made(box, provider, end):
    with pytest.raises(ValueError):
        box.network.route(end, to=HERE)
    assert routes(provider) == ()


@pytest.mark.parametrize(
    ("to", "why"),
    [
        (("192.0.2.1", 80), "not this machine"),
        (("0.0.0.0", 80), "not this machine"),
        (("10.0.0.1", 80), "allow"),
        (("example.com", 80), "no address of this machine"),
        (("127.0.0.1", 0), "no port"),
        (("127.0.0.1", 65_536), "no port"),
        (("127.0.0.1", True), "no port"),
        (("127.0.0.1", "80"), "no port"),
        ("127.0.0.1:80", "no destination"),
        (("127.0.0.1",), "no destination"),
        (80, "no destination"),
    ],
)
def test_a_route_leads_to_this_machine_only(box, to, why):
    with pytest.raises(ValueError, match=why):
        box.network.route("api.example.com:443", to=to)


def test_destinations_of_this_machine(box, listener):
    assert box.network.route("a.test:1", to=("localhost", 80)).to == ("127.0.0.1", 80)
    assert box.network.route("a.test:1", to=("127.9.9.9", 80)).to == ("127.9.9.9", 80)
    assert box.network.route("a.test:1", to=("::1", 80)).to == ("::1", 80)
    assert box.network.route("a.test:1", to=listener).to == listener.getsockname()
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        assert box.network.route("a.test:1", to=everywhere).to == ("127.0.0.1", everywhere.getsockname()[1])


def test_a_socket_has_to_listen_for_tcp(box, tmp_path):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ValueError, match="does not listen"):
            box.network.route("a.test:1", to=sock)
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(ValueError, match="no TCP socket"):
        box.network.route("a.test:1", to=sock)
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(ValueError, match="no TCP socket"):
        box.network.route("a.test:1", to=sock)


def test_faults(box):
    made = box.network.route(
        "a.test:1", latency=0.5, bandwidth="64K", reset_after=0, dns="servfail", dns_delay=2
    )  # fmt: skip
    assert made.to is None
    assert made.fault == Fault(0.5, 65_536, 0, None, "accept", "servfail", 2.0)
    assert box.network.route("a.test:1", refuse=True).fault == Fault(connect="refuse")
    assert box.network.route("a.test:1", black_hole=True, cut_after=10).fault == Fault(
        cut_after=10, connect="black_hole"
    )
    assert box.network.route("a.test:1", to=HERE).fault == Fault()


@pytest.mark.parametrize(
    "wrong",
    [
        {"latency": -1}, {"latency": "1"}, {"latency": float("nan")}, {"latency": float("inf")}, {"latency": True},
        {"dns_delay": -0.1}, {"bandwidth": 0}, {"bandwidth": "fast"}, {"bandwidth": 1.5}, {"reset_after": -1},
        {"reset_after": False}, {"cut_after": "1X"}, {"cut_after": -2}, {"dns": "refused"},
        {"refuse": True, "black_hole": True}, {"reset_after": 1, "cut_after": 1},
    ],
)  # fmt: skip
def test_a_bad_fault_is_named(box, provider, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        box.network.route("a.test:1", **wrong)
    assert routes(provider) == ()


def test_an_unknown_fault_is_a_type_error(box):
    with pytest.raises(TypeError, match="slow"):
        box.network.route("a.test:1", slow=True)


def test_the_newest_route_comes_first_and_replaces_the_one_for_the_same_end(box, provider):
    old = box.network.route("a.test:1", to=HERE)
    box.network.route("b.test:1", to=HERE)
    assert ends(provider) == ["b.test:1", "a.test:1"]
    new = box.network.route("A.test:1", to=("127.0.0.1", 9))
    assert ends(provider) == ["a.test:1", "b.test:1"]
    old.close()
    assert routes(provider)[0].to == ("127.0.0.1", 9)
    new.close()
    assert ends(provider) == ["b.test:1"]


def test_a_route_ends_with_its_block_and_twice_is_fine(box, provider):
    with box.network.route("a.test:1", to=HERE) as route:
        assert repr(route) == "<route a.test:1 to 127.0.0.1:8443>"
        assert len(routes(provider)) == 1
    assert routes(provider) == ()
    count = len(provider.calls)
    route.close()
    assert len(provider.calls) == count


def test_a_route_that_cannot_be_put_in_force_is_none(box, provider, backend):
    provider.faults.fail("set_network", ProviderError("fake", "set the network", "EIO"))
    with pytest.raises(ProviderError):
        box.network.route("a.test:1", to=HERE)
    box.network.route("b.test:1", to=HERE)
    assert ends(provider) == ["b.test:1"]


def test_policies_keep_routes_and_lock_ends_them(box, provider):
    route = box.network.route("a.test:1", to=HERE)
    box.network.unlock()
    assert (provider.rule("box").mode, ends(provider)) == ("open", ["a.test:1"])
    box.network.lock()
    assert (provider.rule("box").mode, routes(provider)) == ("locked", ())
    route.close()
    box.network.route("b.test:1", to=HERE)
    assert ends(provider) == ["b.test:1"]


def test_reset_ends_them_and_restore_does_not(box, provider):
    kept = box.snapshot()
    route = box.network.route("a.test:1", to=HERE)
    box.restore(kept)
    assert ends(provider) == ["a.test:1"]
    box.reset()
    box.network.route("b.test:1", to=HERE)
    assert ends(provider) == ["b.test:1"]
    route.close()
    assert ends(provider) == ["b.test:1"]


def test_after_the_hand_back_close_is_no_error_and_a_new_one_is(box, backend):
    route = box.network.route("a.test:1", to=HERE)
    backend.end()
    route.close()
    with pytest.raises(StaleSandbox):
        box.network.route("a.test:1", to=HERE)


def test_close_while_it_is_being_handed_back_is_no_error(box, backend):
    route = box.network.route("a.test:1", to=HERE)
    backend.stale = True
    route.close()
