"""The dialler: what it dials and what not, in this process; and its lanes, with a dialler that is a test."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_airlock.providers.namespaces.engine import protocol
from pytest_airlock.providers.namespaces.engine.net import dialler, outside
from pytest_airlock.providers.namespaces.engine.net.loop import Loop
from pytest_airlock.providers.namespaces.engine.net.outside import Lane, Outside
from pytest_airlock.providers.namespaces.engine.net.policy import NO_FAULT, Way

LOOPBACK = ["network", "7f000000", 0, 8]


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def found(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[bytes]:
    """Names lead to these addresses, one list after the other; the names that were asked for."""
    asked: list[bytes] = []

    def getaddrinfo(name: bytes, *_: object) -> list[tuple[Any, ...]]:
        asked.append(name)
        return [(0, 0, 0, "", (address, 0)) for address in answers[min(len(asked), len(answers)) - 1]]

    monkeypatch.setattr(dialler._socket, "getaddrinfo", getaddrinfo)
    return asked


def dial(host: str, port: int, *listed: list[Any], **words: Any) -> socket.socket | None:
    request = {"kind": "tcp", "exact": False, "trusted": False, **words}
    made = dialler.answer({"host": host, "port": port, "listed": list(listed), **request})
    return None if made is None else socket.socket(fileno=made.detach())


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["::1"], ["::ffff:127.0.0.1"], ["10.0.0.1", "169.254.169.254"]])
def test_a_name_that_leads_to_this_host_or_its_neighbours_is_refused(
    monkeypatch: pytest.MonkeyPatch, server: socket.socket, addresses: list[str]
) -> None:
    found(monkeypatch, addresses)
    for kind in ("tcp", "name"):
        with pytest.raises(PermissionError):
            dial("a.test", server.getsockname()[1], kind=kind)


def test_unless_it_was_listed_as_such(monkeypatch: pytest.MonkeyPatch, server: socket.socket) -> None:
    asked = found(monkeypatch, ["10.9.9.9", "127.0.0.1"])
    made = dial("a.test", server.getsockname()[1], LOOPBACK)
    assert made is not None
    assert made.getpeername() == server.getsockname()
    assert not os.get_blocking(made.fileno())
    made.close()
    assert asked == [b"a.test"], "what it leads to is looked up once, and that is dialled"


def test_a_question_about_a_name_makes_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, ["127.0.0.1"])
    assert dial("a.test", 0, LOOPBACK, kind="name") is None


def test_a_name_is_looked_up_again_for_each_connection_and_judged_again(
    monkeypatch: pytest.MonkeyPatch, server: socket.socket
) -> None:
    found(monkeypatch, ["127.0.0.1"], ["169.254.169.254"])
    made = dial("a.test", server.getsockname()[1], LOOPBACK)
    assert made is not None
    made.close()
    with pytest.raises(PermissionError):
        dial("a.test", server.getsockname()[1], LOOPBACK)


def test_an_address_is_not_looked_up_and_judged_all_the_same(
    monkeypatch: pytest.MonkeyPatch, server: socket.socket
) -> None:
    asked = found(monkeypatch, [])
    with pytest.raises(PermissionError):
        dial("127.0.0.1", server.getsockname()[1], exact=True)
    made = dial("127.0.0.1", server.getsockname()[1], LOOPBACK, exact=True)
    assert made is not None
    made.close()
    assert asked == []


def test_the_tests_own_server_is_trusted(server: socket.socket) -> None:
    made = dial("127.0.0.1", server.getsockname()[1], trusted=True, exact=True)
    assert made is not None
    made.close()


def test_each_address_is_tried_and_the_last_error_told(monkeypatch: pytest.MonkeyPatch, server: socket.socket) -> None:
    found(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    made = dial("a.test", server.getsockname()[1], LOOPBACK)
    assert made is not None
    made.close()
    server.close()
    with pytest.raises(ConnectionRefusedError):
        dial("a.test", 1, LOOPBACK)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (socket.gaierror(socket.EAI_AGAIN, ""), errno.EAGAIN),
        (socket.gaierror(socket.EAI_NONAME, ""), errno.ENXIO),
        (PermissionError(errno.EACCES, ""), errno.EACCES),
        (OSError("no number"), errno.EIO),
    ],
)
def test_how_it_is_told(error: OSError, code: int) -> None:
    assert dialler._code(error) == code


def test_slow_requests_do_not_hold_up_others_and_all_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = protocol.channel()
    go_on = threading.Event()

    def answer(request: dict[str, Any]) -> None:
        if request["host"] == "slow":
            go_on.wait(60)

    monkeypatch.setattr(dialler, "answer", answer)
    serving = dialler.Dialler(far)
    thread = threading.Thread(target=serving.serve, daemon=True)
    thread.start()
    for number in range(40):
        protocol.send_json(near, {"number": number, "host": "slow"})
    protocol.send_json(near, {"number": 40, "host": "quick"})
    assert protocol.receive_json(near)[0] == {"number": 40, "error": 0}
    go_on.set()
    assert {protocol.receive_json(near)[0]["number"] for _ in range(40)} == set(range(40))
    for number in range(100):
        protocol.send_json(near, {"number": number, "host": "quick"})
        assert protocol.receive_json(near)[0]["number"] == number
    assert serving._threads <= 42, "threads that have nothing to do are used again"
    near.shutdown(socket.SHUT_RDWR)
    thread.join(60)
    assert not thread.is_alive(), "the end of the channel is its end"
    far.close()
    near.close()


# ---------------------------------------------------------------- lanes

WAY = Way("a.test", 80, exact=False, check=False, trusted=False, fault=NO_FAULT)


class Bench:
    def __init__(self) -> None:
        self.loop = Loop()
        self.loop._patience = lambda: 0.0  # type: ignore[method-assign]
        self.outside = Outside(self.loop)
        near, self.far = protocol.channel()
        self.far.setblocking(False)
        self.outside.begin(near)

    def requests(self) -> list[dict[str, Any]]:
        made = []
        while True:
            try:
                made.append(json.loads(self.far.recv(1 << 17)[1:]))
            except BlockingIOError:
                return made

    def turn(self) -> None:
        for _ in range(100):
            self.loop.turn()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.outside._give_up()
    bench.far.close()


def test_of_one_life_only_so_many_are_under_way_and_another_is_not_held_up(bench: Bench) -> None:
    slow, other = Lane(bench.outside), Lane(bench.outside)
    codes: list[int] = []
    for _ in range(100):
        slow.look_up("slow.test", [], codes.append)
    other.look_up("other.test", [], codes.append)
    sent = bench.requests()
    assert [each["host"] for each in sent] == ["slow.test"] * outside._UNDER_WAY + ["other.test"]
    for each in sent:
        protocol.send_json(bench.far, {"number": each["number"], "error": 0})
    bench.turn()
    assert len(codes) == len(sent)
    assert len(bench.requests()) == outside._UNDER_WAY


def test_too_many_are_told_so(bench: Bench) -> None:
    lane, codes = Lane(bench.outside), []
    for _ in range(outside._UNDER_WAY + outside._WAITING + 1):
        lane.look_up("slow.test", [], codes.append)
    bench.turn()
    assert codes == [errno.EAGAIN]


def test_if_the_dialler_dies_everyone_is_told_and_another_may_come(bench: Bench) -> None:
    lane, codes = Lane(bench.outside), []
    for _ in range(100):
        lane.dial(WAY, [], lambda code, _: codes.append(code))
    bench.far.close()
    bench.turn()
    assert codes == [errno.ENOTCONN] * 100
    assert not bench.outside.usable
    near, bench.far = protocol.channel()
    bench.outside.begin(near)
    bench.far.setblocking(False)
    lane.dial(WAY, [], lambda code, _: codes.append(code))
    assert len(bench.requests()) == 1


@pytest.mark.parametrize("said", [b"", b"\0", b"\0{", b"\0[]", b'\0{"number": []}', b'\0{"number": 1}'])
def test_one_that_says_nonsense_is_let_go(bench: Bench, said: bytes) -> None:
    lane, codes = Lane(bench.outside), []
    lane.look_up("a.test", [], codes.append)
    if said:
        bench.far.send(said)
    else:
        bench.far.close()
    bench.turn()
    assert codes == [errno.ENOTCONN]
    assert not bench.outside.usable


def test_an_answer_whose_connection_was_lost_for_want_of_a_descriptor_is_an_error_of_that_one_only(
    bench: Bench,
) -> None:
    lane, codes = Lane(bench.outside), []
    lane.dial(WAY, [], lambda code, made: codes.append((code, made)))
    (asked,) = bench.requests()
    protocol.send_json(bench.far, {"number": asked["number"], "error": 0})
    bench.turn()
    assert codes == [(errno.EMFILE, None)]
    assert bench.outside.usable


def test_at_the_end_of_a_life_what_waits_is_told_and_what_is_under_way_is_not_lost(bench: Bench) -> None:
    lane, codes = Lane(bench.outside), []
    for _ in range(40):
        lane.look_up("a.test", [], codes.append)
    lane.close()
    bench.turn()
    assert codes == [errno.ECANCELED] * (40 - outside._UNDER_WAY)
    for each in bench.requests():
        protocol.send_json(bench.far, {"number": each["number"], "error": 0})
    bench.turn()
    assert len(codes) == 40
    assert lane._under_way == 0
