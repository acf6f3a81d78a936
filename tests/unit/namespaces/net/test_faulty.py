"""Relays over bad networks: real sockets, a clock that stands still until it is set."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

import pytest

from pytest_airlock.providers.namespaces.engine.net import faulty
from pytest_airlock.providers.namespaces.engine.net import loop as loops
from pytest_airlock.providers.namespaces.engine.net.faulty import FaultyRelay
from pytest_airlock.providers.namespaces.engine.net.loop import Loop
from pytest_airlock.providers.namespaces.engine.net.policy import Fault


class Clock:
    """Stands in for the module time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Bench:
    """A program, what it speaks to, and a faulty relay between them."""

    def __init__(self, clock: Clock, fault: Fault) -> None:
        self.clock, self.loop = clock, Loop()
        self.program, inner = tcp()
        self.server, outer = tcp()
        self.over: list[FaultyRelay] = []
        self.relay = FaultyRelay(self.loop, inner, outer, fault, self.over.append)

    def turn(self, seconds: float = 0.0) -> None:
        self.clock.now += seconds
        self.loop._patience = lambda: 0.0  # type: ignore[method-assign]
        for _ in range(20):
            self.loop.turn()

    def close(self) -> None:
        self.relay.abort()
        self.program.close()
        self.server.close()


def tcp() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    for sock in (one, other):
        sock.setblocking(False)
    return one, other


def got(sock: socket.socket) -> bytes | None:
    """What is there; None if nothing is."""
    try:
        return sock.recv(1 << 20)
    except BlockingIOError:
        return None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (faulty, loops):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def benches(clock: Clock) -> Iterator[list[Bench]]:
    made: list[Bench] = []
    yield made
    for bench in made:
        bench.close()
    assert faulty._Direction.everything == 0, "what is over is still counted"


def bench(benches: list[Bench], clock: Clock, fault: Fault) -> Bench:
    benches.append(Bench(clock, fault))
    return benches[-1]


def test_what_comes_arrives_later_and_in_order(benches: list[Bench], clock: Clock) -> None:
    way = bench(benches, clock, Fault(latency=5))
    way.server.send(b"one")
    way.turn()
    way.turn(2)
    way.server.send(b"two")
    way.turn()
    assert got(way.program) is None
    way.turn(2.9)
    assert got(way.program) is None
    way.turn(0.2)
    assert got(way.program) == b"one"
    way.turn(2)
    assert got(way.program) == b"two"


def test_each_direction_waits(benches: list[Bench], clock: Clock) -> None:
    way = bench(benches, clock, Fault(latency=5))
    way.program.send(b"up")
    way.turn(4.9)
    assert got(way.server) is None
    way.turn(5.2)
    assert got(way.server) == b"up"


def test_no_more_bytes_a_second_than_the_bandwidth(benches: list[Bench], clock: Clock) -> None:
    way = bench(benches, clock, Fault(bandwidth=1000))
    way.server.send(bytes(3000))
    way.turn()
    arrived = len(got(way.program) or b"")
    seconds = 0
    while arrived < 3000:
        for _ in range(100):
            way.turn(0.01)
        seconds += 1
        arrived += len(got(way.program) or b"")
        assert arrived <= 1000 * seconds + 20, "it is too fast"
    assert seconds <= 4, "it is too slow"


@pytest.mark.parametrize("most", [0, 1, 1000])
def test_a_reset_after_exactly_so_many_bytes(benches: list[Bench], clock: Clock, most: int) -> None:
    way = bench(benches, clock, Fault(reset_after=most))
    with contextlib.suppress(ConnectionResetError):
        way.server.send(bytes(5000))
    arrived = b""
    for _ in range(20):
        way.turn(0.1)
        try:
            arrived += got(way.program) or b""
        except ConnectionResetError:
            break
    else:
        pytest.fail("it was not reset")
    assert len(arrived) == most
    assert way.over == [way.relay]


def test_what_never_reads_is_looked_at_less_and_less_often(benches: list[Bench], clock: Clock) -> None:
    way = bench(benches, clock, Fault(reset_after=1 << 30))
    ticks = []
    for _ in range(10):
        ticks.append(way.relay._tick)
        way.relay._most = way.relay._down.given = 0
        way.relay._fault = Fault(reset_after=0)
        faulty_unread, faulty._unread = faulty._unread, lambda _: True
        try:
            way.relay._break_off()
        finally:
            faulty._unread = faulty_unread
    assert ticks == sorted(ticks)
    assert ticks[-1] == 1.0
    assert len([each for each in way.loop._later if each[2].call is not None]) == 1


@pytest.mark.parametrize("most", [1, 1000])
def test_an_end_after_exactly_so_many_bytes(benches: list[Bench], clock: Clock, most: int) -> None:
    way = bench(benches, clock, Fault(cut_after=most))
    way.server.send(bytes(5000))
    way.turn()
    assert len(got(way.program) or b"") == most
    assert got(way.program) == b""
    assert way.over == [way.relay]


def test_what_goes_up_is_not_counted(benches: list[Bench], clock: Clock) -> None:
    way = bench(benches, clock, Fault(reset_after=10))
    way.program.send(bytes(5000))
    way.turn()
    assert len(got(way.server) or b"") == 5000
    assert way.relay.open


def test_one_end_may_end_before_the_other(benches: list[Bench], clock: Clock) -> None:
    way = bench(benches, clock, Fault(latency=1))
    way.program.send(b"question")
    way.program.shutdown(socket.SHUT_WR)
    way.turn()
    way.turn(1.1)
    assert (got(way.server), got(way.server)) == (b"question", b"")
    way.server.send(b"answer")
    way.server.close()
    way.turn()
    way.turn(1.1)
    assert (got(way.program), got(way.program)) == (b"answer", b"")
    assert way.over == [way.relay]


def test_a_reset_of_one_end_is_one_of_the_other(benches: list[Bench], clock: Clock) -> None:
    way = bench(benches, clock, Fault(latency=1))
    way.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    way.server.close()
    way.turn()
    with pytest.raises(ConnectionResetError):
        got(way.program)
    assert way.over == [way.relay]


def test_an_abort_ends_both_and_no_timer_is_left(benches: list[Bench], clock: Clock) -> None:
    way = bench(benches, clock, Fault(latency=100))
    way.server.send(b"x")
    way.turn()
    way.relay.abort()
    way.relay.abort()
    for sock in (way.program, way.server):
        with pytest.raises(OSError) as caught:
            got(sock)
        assert caught.value.errno == errno.ECONNRESET
    assert way.over == [way.relay]
    assert all(each[2].call is None for each in way.loop._later)


def test_what_is_on_its_way_is_bounded_and_so_is_that_of_all(
    benches: list[Bench], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = bench(benches, clock, Fault(latency=100))
    for _ in range(200):
        try:
            way.server.send(bytes(1 << 20))
        except BlockingIOError:
            pass
        way.turn()
    assert way.relay._down._size <= (256 << 10) + 17_000
    monkeypatch.setattr(faulty, "_ALL_ON_THE_WAY", 1)
    other = bench(benches, clock, Fault(latency=100))
    other.server.send(bytes(100_000))
    other.turn()
    assert 0 < other.relay._down._size <= 17_000


def test_small_pieces_cost_what_they_cost(benches: list[Bench], clock: Clock) -> None:
    way = bench(benches, clock, Fault(latency=100))
    way.server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(100):
        way.server.send(b"x")
        way.turn()
    assert way.relay._down._size > 100 * 100
