"""What is read out of a packet."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_airlock.providers.namespaces.engine.net import pings, recorder
from pytest_airlock.providers.namespaces.engine.net.recorder import TCP, UDP
from pytest_airlock.providers.namespaces.engine.net.records import MOST, Records


def packet(protocol: int, content: bytes, *, v6: bool = False, options: bytes = b"") -> bytes:
    if v6:
        source, target = (socket.inet_pton(socket.AF_INET6, text) for text in ("2001:db8::1", "2001:db8::2"))
        return struct.pack(">IHBB", 6 << 28, len(content), protocol, 64) + source + target + content
    head = struct.pack(">BBHHHBBH", 0x45 + len(options) // 4, 0, 20 + len(content), 0, 0, 64, protocol, 0)
    return head + socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2") + options + content


@pytest.mark.parametrize("options", [b"", b"\x01" * 8])
def test_ipv4(options: bytes) -> None:
    content = struct.pack(">HH", 40000, 443) + bytes(16)
    heard = recorder.read(packet(TCP, content, options=options))
    assert heard == (TCP, "192.0.2.1", "192.0.2.2", 443, content)


def test_ipv6() -> None:
    content = struct.pack(">HHHH", 40000, 53, 8, 0)
    assert recorder.read(packet(UDP, content, v6=True)) == (UDP, "2001:db8::1", "2001:db8::2", 53, content)


def test_other_protocols_have_no_port() -> None:
    heard = recorder.read(packet(132, b"x" * 12))
    assert heard is not None
    assert (heard.protocol, heard.port) == (132, -1)


@given(st.binary(max_size=100))
def test_no_bytes_do_harm(data: bytes) -> None:
    records = Records()
    for head in (b"", b"\x45" + bytes(8) + b"\x11" + bytes(10), b"\x60" + bytes(5) + b"\x11"):
        heard = recorder.read(head + data)
        if heard is not None:
            records.hear(heard, heard.question(), "", allowed=False)
    assert all(each.host.isascii() for each in records.kept)


def test_a_datagram_to_port_53_that_is_no_question_is_a_datagram() -> None:
    records = Records()
    heard = recorder.read(packet(UDP, struct.pack(">HHHH", 1, 53, 12, 0) + b"tunnel"))
    assert heard is not None
    records.hear(heard, heard.question(), "", allowed=False)
    (kept,) = records.kept
    assert kept[1:] == ("udp", "", "192.0.2.2", 53, "", "refused")


def test_more_than_are_kept_are_counted() -> None:
    records = Records()
    heard = recorder.read(packet(TCP, struct.pack(">HH", 1, 443)))
    assert heard is not None
    for _ in range(MOST + 5):
        records.hear(heard, heard.question(), "", allowed=False)
    assert (len(records), records.lost, records.full) == (MOST, 5, True)


def test_pages_hold_all_in_order_and_none_is_larger_than_a_message() -> None:
    records = Records()
    for number in range(3000):
        heard = recorder.read(packet(UDP, struct.pack(">HHHH", 1, number, 12, 0) + b"x"))
        assert heard is not None
        records.hear(heard, heard.question(), "", allowed=False)
    ports: list[int] = []
    while page := records.page(len(ports)):
        assert len(repr(page)) < 96 * 1024
        ports += [each.port for each in page]
    assert ports == list(range(3000))


# RFC 1071, 3: the sum of its example is ddf2.
@pytest.mark.parametrize(("data", "value"), [("0001f203f4f5f6f7", 0x220D), ("", 0xFFFF), ("01", 0xFEFF)])
def test_the_internet_checksum(data: str, value: int) -> None:
    assert pings.checksum(bytes.fromhex(data)) == value
