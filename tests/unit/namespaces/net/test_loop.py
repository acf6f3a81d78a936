"""The loop of the network process."""

from __future__ import annotations

import select
import socket

import pytest

from pytest_airlock.providers.namespaces.engine.net.loop import Loop
from pytest_airlock.providers.namespaces.engine.net.relay import Relay


def pair() -> tuple[socket.socket, socket.socket]:
    one, other = socket.socketpair()
    one.setblocking(False)
    return one, other


def test_one_that_fails_is_told_and_does_not_stop_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    loop = Loop()
    (bad, bad_far), (good, good_far) = pair(), pair()
    heard: list[bytes] = []

    def fail() -> None:
        raise RuntimeError("a bug")

    loop.add(bad, fail)
    loop.add(good, lambda: heard.append(good.recv(10)))
    bad_far.send(b"x")
    loop.turn()
    assert "a bug" in capfd.readouterr().err
    good_far.send(b"y")
    loop.turn()
    assert heard == [b"y"]
    assert capfd.readouterr().err == ""
    for sock in (bad, bad_far, good, good_far):
        loop.close(sock)


def test_what_is_wanted_can_change(capfd: pytest.CaptureFixture[str]) -> None:
    loop = Loop()
    one, other = pair()
    calls: list[int] = []
    loop.add(one, lambda: calls.append(1))
    loop.change(one, select.EPOLLOUT)
    loop.turn()
    assert calls == [1]
    loop.change(one, 0)
    other.close()  # a hang-up, which must not be told for ever
    two, far = pair()
    loop.add(two, lambda: calls.append(two.recv(1)[0]))
    far.send(b"\x02")
    loop.turn()
    assert calls == [1, 2]
    for sock in (one, two, far):
        loop.close(sock)


def test_all_that_is_slow_to_close_is_closed() -> None:
    loop = Loop()
    pairs = [pair() for _ in range(20)]
    loop.close_all_slow([one for one, _ in pairs])
    assert all(other.recv(1) == b"" for _, other in pairs)
    for _, other in pairs:
        other.close()


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_a_relay_carries_both_ways_and_ends_when_both_have(size: int) -> None:
    loop = Loop()
    (one, left), (other, right) = pair(), pair()
    over: list[Relay] = []
    relay = Relay(loop, one, other, over.append)
    for near, far in ((left, right), (right, left)):
        near.setblocking(False)
        far.setblocking(False)
        sent, got = 0, b""
        while len(got) < size:
            if sent < size:
                sent += near.send(bytes(size - sent))
            loop.turn()
            try:
                got += far.recv(1 << 20)
            except BlockingIOError:
                continue
        near.shutdown(socket.SHUT_WR)
        loop.turn()
        far.setblocking(True)
        assert far.recv(1) == b""
        far.setblocking(False)
    assert over == [relay]
    assert not relay.open
    left.close()
    right.close()


def test_an_abort_ends_both_at_once() -> None:
    loop = Loop()
    (one, left), (other, right) = pair(), pair()
    over: list[Relay] = []
    relay = Relay(loop, one, other, over.append)
    relay.abort()
    relay.abort()
    assert over == [relay]
    assert (left.recv(1), right.recv(1)) == (b"", b"")
    left.close()
    right.close()


def tcp() -> tuple[socket.socket, socket.socket]:
    server = socket.create_server(("127.0.0.1", 0))
    one = socket.create_connection(server.getsockname())
    other, _ = server.accept()
    server.close()
    one.setblocking(False)
    return one, other


def test_urgent_data_does_not_stop_a_relay() -> None:
    loop = Loop()
    (one, left), (other, right) = tcp(), tcp()
    relay = Relay(loop, one, other, lambda _: None)
    left.send(b"x", socket.MSG_OOB)
    left.send(b"yyyy")
    right.settimeout(60)
    got = b""
    for _ in range(100):
        loop.turn()
        got += right.recv(10, socket.MSG_DONTWAIT) if select.select([right], [], [], 0)[0] else b""
        if got.endswith(b"yyyy"):
            break
    assert got.endswith(b"yyyy")
    relay.abort()
    left.close()
    right.close()


def test_a_vital_one_that_fails_ends_it_all() -> None:
    loop = Loop()
    one, other = pair()

    def fail() -> None:
        raise RuntimeError("a bug")

    loop.watch(one.fileno(), fail, vital=True)
    other.send(b"x")
    with pytest.raises(RuntimeError, match="a bug"):
        loop.turn()
    one.close()
    other.close()
