"""The grammar of endpoints."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_airlock.providers.endpoints import ANY_PORT, Endpoint, parse


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("example.com:443", ("name", "example.com", 443)),
        ("Example.COM.:443", ("name", "example.com", 443)),
        ("*.example.com:443", ("below", "example.com", 443)),
        ("db:5432", ("name", "db", 5432)),
        ("_dmarc.a-b.test:*", ("name", "_dmarc.a-b.test", ANY_PORT)),
        ("bücher.example:80", ("name", "xn--bcher-kva.example", 80)),
        ("192.0.2.7:1", ("network", "192.0.2.7/32", 1)),
        ("10.0.0.0/8:65535", ("network", "10.0.0.0/8", 65_535)),
        ("[2001:DB8::7]:443", ("network", "2001:db8::7/128", 443)),
        ("[2001:db8::/32]:*", ("network", "2001:db8::/32", ANY_PORT)),
    ],
)
def test_what_it_means(text: str, end: tuple[str, str, int]) -> None:
    assert parse(text) == end


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":443",
        "example.com",
        "example.com:",
        "example.com:0",
        "example.com:65536",
        "example.com:-1",
        "example.com:http",
        "example.com:4 4",
        "example.com:٤٤",
        "https://example.com:443",
        "example..com:443",
        ".example.com:443",
        "*:443",
        "*.:443",
        "a.*.com:443",
        "*a.com:443",
        "*.*.com:443",
        "-a.com:443",
        "a-.com:443",
        "a b.com:443",
        "a.com\n:443",
        "a.com/24:443",
        f"{'a' * 64}.com:443",
        f"{'a.' * 127}toolong:443",
        "1.2.3:443",
        "1.2.3.4.5:443",
        "256.0.0.1:443",
        "10.0.0.1/8:443",
        "10.0.0.0/33:443",
        "2001:db8::7:443",
        "[2001:db8::7]",
        "[192.0.2.7]:443",
        "[example.com]:443",
        "[fe80::1%eth0]:443",
        "localhost:80",
        "LOCALHOST.:80",
        "a.localhost:80",
        "*.localhost:80",
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


_label = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,10}[a-z0-9_])?", fullmatch=True)
_names = (
    st.lists(_label, min_size=1, max_size=5).map(".".join).filter(lambda name: not name.replace(".", "").isdecimal())
)
_ports = st.integers(0, 65_535)
_networks = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address), st.integers(0, 32)),
    st.tuples(st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address), st.integers(0, 128)),
).map(lambda pair: str(ipaddress.ip_network(f"{pair[0]}/{pair[1]}", strict=False)))


@given(
    st.one_of(
        st.builds(Endpoint, st.sampled_from(["name", "below"]), _names, _ports),
        st.builds(Endpoint, st.just("network"), _networks, _ports),
    ).filter(lambda end: not end.host.endswith("localhost"))
)
def test_each_has_a_text_that_means_it(end: Endpoint) -> None:
    assert parse(str(end)) == end


@given(st.text(max_size=80))
def test_any_text_is_one_or_is_refused(text: str) -> None:
    try:
        end = parse(text)
    except ValueError:
        return
    assert parse(str(end)) == end
    assert end.host.isascii()
