"""The loop of the network process."""

from __future__ import annotations

import _socket
import errno
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


def test_timers_are_called_in_their_order_each_once_and_one_that_fails_stops_none(
    capfd: pytest.CaptureFixture[str],
) -> None:
    loop = Loop()
    called: list[int] = []

    def fail() -> None:
        called.append(-1)
        raise RuntimeError("a bug")

    for seconds, number in ((0.02, 3), (0.0, 1), (0.01, 2), (0.0, 11)):
        loop.later(seconds, lambda number=number: called.append(number))  # type: ignore[misc]
    loop.later(0.015, fail)
    while len(called) < 5:
        loop.turn()
    assert called == [1, 11, 2, -1, 3]
    assert "a bug" in capfd.readouterr().err
    loop.later(0, lambda: called.append(4))
    loop.turn()
    assert called[5:] == [4]


def test_a_timer_that_sets_another_does_not_hold_up_a_turn() -> None:
    loop = Loop()
    called: list[int] = []

    def again() -> None:
        called.append(1)
        loop.later(0, again)

    again()
    loop.turn()
    assert len(called) == 2


def test_what_was_cancelled_is_not_called_and_not_held() -> None:
    loop = Loop()
    called: list[int] = []
    kept = loop.later(0, lambda: called.append(1))
    for _ in range(10_000):
        timer = loop.later(1000, lambda: called.append(2))
        timer.cancel()
        timer.cancel()
    assert len(loop._later) < 200
    loop.later(0, lambda: called.append(3)).cancel()
    loop.turn()
    assert called == [1]
    kept.cancel()
    loop.later(0, lambda: called.append(4))
    loop.turn()
    assert called == [1, 4]


def test_a_listener_for_which_there_was_no_room_is_called_again() -> None:
    loop = Loop()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    near = socket.create_connection(listener.getsockname())
    taken: list[object] = []

    class Full:
        """The listener of a process that has no descriptor left, the first time."""

        def __init__(self) -> None:
            self.fails = [OSError(errno.EMFILE, "")]

        def fileno(self) -> int:
            return listener.fileno()

        def _accept(self) -> tuple[int, object]:
            if self.fails:
                raise self.fails.pop()
            return listener._accept()  # type: ignore[attr-defined, no-any-return]

    full = Full()
    loop.add(full, lambda: taken.append(loop.accept(full)))  # type: ignore[arg-type]
    loop.turn()
    assert taken == [None]
    while len(taken) < 2:
        loop.turn()
    assert isinstance(taken[1], _socket.socket)
    for sock in (near, listener, taken[1]):
        sock.close()


def test_who_gets_the_number_of_one_that_was_closed_is_not_called_for_what_that_one_heard() -> None:
    """Both of a pair are ready; whichever is called first closes the other, and a new one takes over its number."""
    loop = Loop()
    pairs = [pair(), pair()]
    called: list[str] = []
    later: list[socket.socket] = []

    def replace(other: socket.socket) -> None:
        called.append("first")
        number = other.fileno()
        loop.close(other)
        later.extend(socket.socketpair())
        assert number in {sock.fileno() for sock in later}
        for sock in later:
            loop.add(sock, lambda: called.append("new"))

    for (one, far), (other, _) in (pairs, pairs[::-1]):
        loop.add(one, lambda one=one, other=other: (loop.remove(one), replace(other)))  # type: ignore[misc]
        far.send(b"x")
    loop.turn()
    assert called == ["first"]
    for sock in (*later, *(each for two in pairs for each in two)):
        sock.close()
