"""Connections that are looked at before they are carried: real sockets, a dialler that answers at once."""

from __future__ import annotations

import gc
import os
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_airlock.providers.namespaces.engine.net import hello
from pytest_airlock.providers.namespaces.engine.net.loop import Loop
from pytest_airlock.providers.namespaces.engine.net.passage import Passage
from pytest_airlock.providers.namespaces.engine.net.policy import LOCKED, Policy

NAME = "api.example"
RULE = Policy({"mode": "allow", "allow": [["name", NAME, 443, 0]], "routes": []})


def tcp() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for sock in (one, other):
        sock.setblocking(False)
    return one, other


def client_hello(name: str | None) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    sent = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name).do_handshake()
    return sent.read()


class Bench:
    """A program, a server, and the passage between them; `calls` counts how often the loop called anything."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.program, inner = tcp()
        self.server, self._outer = tcp()
        self.over: list[Passage] = []
        self.looks = 0
        self.passage = Passage(self.loop, self, inner, (NAME, "198.18.1.0", 443), self.over.append)  # type: ignore[arg-type]
        look = self.passage._look

        def counted(*ends: Any) -> None:
            self.looks += 1
            look(*ends)

        self.passage._look = counted  # type: ignore[method-assign]
        self.passage.begin(RULE)

    def dial(self, _way: object, _listed: object, done: Any, **_: object) -> None:
        done(0, self._outer)

    def turn(self, times: int = 20) -> None:
        self.loop._patience = lambda: 0.0  # type: ignore[method-assign]
        for _ in range(times):
            self.loop.turn()

    def arrived(self) -> bytes | None:
        try:
            return self.server.recv(1 << 20)
        except BlockingIOError:
            return None

    @property
    def reset(self) -> bool:
        try:
            self.program.recv(1)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        return False


@pytest.fixture
def way() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.passage.abort()
    bench.program.close()
    bench.server.close()
    assert bench.over == [bench.passage], "it is to be told once when it is over"
    assert all(each[2].call is None for each in bench.loop._later), "a timer is left"


def test_the_right_name_passes_and_all_of_it(way: Bench) -> None:
    data = client_hello(NAME)
    way.program.send(data)
    way.turn()
    assert way.arrived() == data


def test_in_whatever_pieces_it_comes(way: Bench) -> None:
    data, got = client_hello(NAME), b""
    for at in range(0, len(data), 7):
        way.program.send(data[at : at + 7])
        way.turn(2)
    while len(got) < len(data):
        way.turn()
        got += way.arrived() or b""
    assert got == data
    assert way.looks <= 5, "it is looked at when there is nothing new"


@pytest.mark.parametrize("name", [None, "other.example", f"below.{NAME}", "example"])
def test_any_other_name_is_reset_and_none_of_it_arrives(way: Bench, name: str | None) -> None:
    way.program.send(client_hello(name))
    way.turn()
    assert way.reset
    with pytest.raises(ConnectionResetError):
        way.arrived()


def test_an_old_hello_without_a_name_is_reset(way: Bench) -> None:
    way.program.send(b"\x80\x2e\1\3\3" + bytes(43))
    way.turn()
    assert way.reset


def test_who_is_no_tls_passes(way: Bench) -> None:
    way.program.send(b"GET / HTTP/1.1\r\n\r\n")
    way.turn()
    assert way.arrived() == b"GET / HTTP/1.1\r\n\r\n"


def test_a_server_may_speak_first_and_an_end_without_a_word_is_one(way: Bench) -> None:
    way.server.send(b"220 hello")
    way.turn()
    assert way.program.recv(100) == b"220 hello"
    way.program.send(b"EHLO\r\n")
    way.turn()
    assert way.arrived() == b"EHLO\r\n"
    way.program.shutdown(socket.SHUT_WR)
    way.turn()
    assert way.arrived() == b""


def test_once_a_handshake_has_begun_the_server_cannot_end_the_look(way: Bench) -> None:
    way.program.send(client_hello("other.example")[:50])
    way.turn()
    way.server.send(b"alert")
    way.turn()
    assert way.arrived() is None
    way.program.send(client_hello("other.example")[50:])
    way.turn()
    assert way.reset


@pytest.mark.parametrize("size", [1, 5, 50])
def test_half_a_hello_and_an_end_is_reset_and_not_looked_at_for_ever(way: Bench, size: int) -> None:
    way.program.send(client_hello(NAME)[:size])
    way.program.shutdown(socket.SHUT_WR)
    way.turn(200)
    assert way.looks <= 3
    assert way.reset


@pytest.mark.parametrize("at", [1, 5, 50])
def test_urgent_data_in_it_is_reset_and_not_looked_at_for_ever(way: Bench, at: int) -> None:
    data = client_hello(NAME)
    way.program.send(data[:at])
    way.turn()
    way.program.send(b"!", socket.MSG_OOB)
    way.program.send(data[at:])
    way.turn(200)
    assert way.looks <= 4
    assert way.arrived() is None if not way.over else way.reset


def test_urgent_data_before_it_hides_no_name(way: Bench) -> None:
    way.program.send(b"\x16", socket.MSG_OOB)
    way.turn()
    way.program.send(client_hello("other.example"))
    way.turn(200)
    assert way.reset


def test_more_than_a_hello_can_be_is_reset(way: Bench) -> None:
    record = b"\x16\3\1\x40\0"
    way.program.send(record + b"\1\0\x46\0" + bytes((1 << 14) - 4) + record + bytes(5000))
    way.turn(50)
    assert way.reset
    assert hello.LONGEST < 1 << 15


def test_a_new_policy_that_forbids_it_resets_it_at_every_stage(way: Bench) -> None:
    way.program.send(client_hello(NAME)[:50])
    way.turn()
    way.passage.review(RULE)
    assert not way.over
    way.passage.review(LOCKED)
    assert way.reset
    assert way.over == [way.passage]


def test_nothing_is_left_open(way: Bench) -> None:
    way.passage.abort()
    way.program.close()
    way.server.close()
    gc.collect()  # what other tests left to the collector must not go in the middle
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        other = Bench()
        other.program.send(client_hello("other.example"))
        other.turn()
        other.program.close()
        other.server.close()
        other.loop._epoll.close()
    assert len(os.listdir("/proc/self/fd")) == before
