"""First messages of TLS, made by OpenSSL."""

from __future__ import annotations

import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_airlock.providers.namespaces.engine.net import hello


def client_hello(name: str | None, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode, context.maximum_version = False, ssl.CERT_NONE, newest
    sent = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name).do_handshake()
    return sent.read()


def block(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size, "big") + data


def sni(*names: bytes, kind: int = 0) -> bytes:
    return struct.pack(">H", 0) + block(2, block(2, b"".join(bytes([kind]) + block(2, name) for name in names)))


def made(extensions: bytes | None) -> bytes:
    body = b"\3\3" + bytes(32) + block(1, b"") + block(2, b"\x13\x01") + block(1, b"\0")
    return b"\1" + block(3, body + (b"" if extensions is None else block(2, extensions)))


def records(message: bytes, size: int = 1 << 14) -> bytes:
    return b"".join(b"\x16\3\1" + block(2, message[at : at + size]) for at in range(0, len(message), size))


HELLO = client_hello("api.example")


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_name_is_read(newest: ssl.TLSVersion) -> None:
    data = client_hello("API.Example", newest)
    assert hello.is_tls(data)
    assert hello.server_name(data) == "api.example"


def test_what_follows_it_does_not_matter() -> None:
    assert hello.server_name(HELLO + b"\x17\3\3\0\1x") == "api.example"


def test_none_is_none() -> None:
    assert hello.server_name(client_hello(None)) == ""
    assert hello.server_name(records(made(None))) == ""
    assert hello.server_name(records(made(b""))) == ""


@pytest.mark.parametrize("size", [20, 40, 64, 1000])
def test_it_may_be_spread_over_records(size: int) -> None:
    assert hello.server_name(records(HELLO[5:], size)) == "api.example"


def test_but_not_over_any_number_of_them() -> None:
    with pytest.raises(ValueError):
        hello.server_name(records(HELLO[5:], 1))
    with pytest.raises(ValueError):
        hello.server_name(records(HELLO[5:], 1)[:1000])


@pytest.mark.parametrize(
    "extensions",
    [
        sni(b"a.test", b"b.test"),
        sni(b"a.test") + sni(b"b.test"),
        sni(b""),
        sni(b"a.test", kind=1),
        sni(b"\xff.test"),
        sni(b"a.test")[:-1],
        struct.pack(">HH", 0, 0),
        struct.pack(">H", 0) + block(2, block(2, b"\0" + block(2, b"a.test")) + b"more"),
        struct.pack(">H", 0) + block(2, b"\xff\xff\0\0\1a"),
        b"\0",
    ],
    ids=["two", "twice", "empty", "other kind", "not ASCII", "cut", "no list", "more behind", "huge", "a byte"],
)
def test_anything_doubtful_is_refused(extensions: bytes) -> None:
    with pytest.raises(ValueError):
        hello.server_name(records(made(extensions)))


def test_nothing_may_be_behind_the_extensions() -> None:
    message = made(sni(b"a.test"))
    longer = b"\1" + block(3, message[4:] + b"x")
    with pytest.raises(ValueError):
        hello.server_name(records(longer))


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\3\1\0\0" * 3,
        b"\x16\3\1\xff\xff",
        b"\x16\3\1\0\4\2\0\0\0",
        b"\x16\3\1\0\4\1\xff\xff\xff",
        b"\x17\3\1\0\4\1\0\0\0",
        HELLO[:5] + b"\1\0\0\0" + HELLO[9:],
    ],
    ids=["empty records", "long record", "a server's", "long message", "data", "no body"],
)
def test_what_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        hello.server_name(data)


def test_each_beginning_asks_for_more_and_never_for_more_than_there_is() -> None:
    for size in range(len(HELLO)):
        with pytest.raises(hello.Incomplete) as caught:
            hello.server_name(HELLO[:size])
        assert size < caught.value.size <= len(HELLO)


@pytest.mark.parametrize(
    ("data", "tls"),
    [
        (b"\x16", True),
        (b"GET / HTTP/1.1\r\n", False),
        (b"SSH-2.0-x", False),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", False),
        (b"\x80\x2e\1\3\3", True),
        (b"\x80\x2e\2\3\3", False),
        (b"\x80\x2e\1\0\2", False),
    ],
)
def test_whether_it_is_tls(data: bytes, tls: bool) -> None:
    assert hello.is_tls(data) is tls


def test_an_old_hello_which_has_no_name_is_recognised_and_refused() -> None:
    for data in (b"\x80", b"\x80\x2e", b"\x80\x2e\1"):
        with pytest.raises(hello.Incomplete):
            hello.is_tls(data)
    with pytest.raises(ValueError):
        hello.server_name(b"\x80\x2e\1\3\3\0\3\0\0\0\x20")


@given(st.binary(max_size=400))
def test_no_bytes_do_harm(data: bytes) -> None:
    for start in (data, b"\x16\3\1" + data, records(b"\1" + block(3, data)), records(made(data))):
        try:
            assert hello.server_name(start).isascii()
        except (ValueError, hello.Incomplete):
            pass


@given(st.integers(0, len(HELLO) - 1), st.integers(0, 255))
def test_nor_does_a_byte_that_is_wrong(at: int, byte: int) -> None:
    try:
        hello.server_name(HELLO[:at] + bytes([byte]) + HELLO[at + 1 :])
    except (ValueError, hello.Incomplete):
        pass
