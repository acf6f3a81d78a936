"""Clients of a served name are hostile: garbage, half requests, floods and silence. Nothing of it is shown, kept or waited for."""

from __future__ import annotations

import threading

import pytest
from serving import ask, connect, everything, request, sockets, status_of, threads

from pytest_airlock.errors import AirlockError, ServedAppFailed
from pytest_airlock.sandbox.fakes import bodies, handler, received, server

NAME = "api.example.com"


def echo(environ, start_response):
    start_response("200 OK", [])
    return [environ["wsgi.input"].read()]


@pytest.fixture
def served(box):
    with box.network.serve(f"http://{NAME}", echo) as served:
        yield served


@pytest.fixture(autouse=True)
def _nothing_is_printed(backend, capfd):
    yield
    backend.end()
    assert not threads()
    assert capfd.readouterr() == ("", "")


GARBAGE = {
    "no HTTP": b"\x00\x1b[2J\xff\r\n\r\n",
    "no version": b"GET / HTTP/x\r\n\r\n",
    "a later version": b"GET / HTTP/2.0\r\n\r\n",
    "a bad method": b"G\x1b[31mT / HTTP/1.1\r\n\r\n",
    "a fold before all": b"GET / HTTP/1.1\r\n X: y\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nnothing\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "no length": b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "a length in words": b"POST / HTTP/1.1\r\nContent-Length: 0x10\r\n\r\n",
    "a length of many digits": b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "length and chunks": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
    "a bad chunk": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a chunk without end": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n0\r\n\r\n",
    "a negative chunk": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "trailers without end": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 101,
    "a huge body": b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
    "a huge chunk": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n",
    "a huge target": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    "a huge header": b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: a\r\n" % number for number in range(200)) + b"\r\n",
}


@pytest.mark.parametrize("raw", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_refused_and_others_are_served(served, raw):
    with connect(served) as sock:
        sock.sendall(raw)
        answer = everything(sock)
        assert b" 200 " not in answer
        assert b"\x1b" not in answer
    assert served.requests == ()
    assert all(why.isprintable() for why in served.broken)
    assert status_of(ask(served, request())) == 200
    assert len(served.broken) == 1
    assert served.errors == ()


HALVES = {
    "nothing": b"",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00",
    "half a line": b"GET /",
    "half a head": b"GET / HTTP/1.1\r\nHost: x\r\n",
    "half a body": b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc",
    "half a chunk": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
}


@pytest.mark.parametrize("raw", HALVES.values(), ids=HALVES)
def test_half_a_request_is_waited_for_but_not_by_close(served, raw):
    open_before = sockets()
    with connect(served) as sock:
        sock.sendall(raw)
        # Served beside it: so it has been accepted.
        assert status_of(ask(served, request())) == 200
        served.close()
        assert not threads()
        assert b" 200 " not in everything(sock)
    assert len(sockets()) < len(open_before)
    assert len(served.requests) == 1


@pytest.mark.parametrize("raw", HALVES.values(), ids=HALVES)
def test_half_a_request_and_its_end_is_no_request(served, raw):
    with connect(served) as sock:
        sock.sendall(raw)
        sock.shutdown(1)
        assert b" 200 " not in everything(sock)
    assert served.requests == ()
    assert len(served.broken) == bool(raw)


def test_a_client_that_reads_nothing_does_not_hold_up_close(box):
    def app(environ, start_response):
        start_response("200 OK", [])
        while True:
            yield bytes(1 << 20)

    with box.network.serve(f"http://{NAME}", app) as served:
        sock = connect(served)
        sock.sendall(request())
        assert sock.recv(1)
        served.close()
        assert not threads()
        sock.close()
    assert served.errors == ()


def test_a_client_that_hangs_up_is_no_error_of_the_app(box):
    go = threading.Event()

    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"begun"
        go.wait(60)
        while True:
            yield bytes(1 << 20)

    with box.network.serve(f"http://{NAME}", app) as served:
        with connect(served) as sock:
            sock.sendall(request("/\x1b"))
            assert sock.recv(1)
        go.set()
        for thread in threads():
            if thread.name == "airlock-served":
                thread.join(60)
    assert served.errors == ()
    assert any("ended before its answer" in why for why in served.broken)


def test_an_app_that_does_not_return_is_told(box, monkeypatch):
    monkeypatch.setattr(server, "PATIENCE", 0.01)
    go, working = threading.Event(), threading.Event()

    def app(environ, start_response):
        working.set()
        go.wait(60)
        start_response("200 OK", [])
        return []

    served = box.network.serve(f"http://{NAME}", app)
    with connect(served) as sock:
        sock.sendall(request())
        assert working.wait(60)
        served.close()
    with pytest.raises(ServedAppFailed, match="still works on 1 requests") as caught:
        served.check()
    assert isinstance(caught.value.__cause__, AirlockError)
    left = threads()
    go.set()
    for thread in left:
        thread.join(60)


def test_an_app_can_close_its_own_server(box):
    def app(environ, start_response):
        served.close()
        start_response("200 OK", [])
        return []

    served = box.network.serve(f"http://{NAME}", app)
    ask(served, request())
    for thread in threads():
        thread.join(60)
    assert served.errors == ()


# -- bounds -------------------------------------------------------------------------------------------------------


def test_a_long_body_reaches_the_app_and_is_kept_in_part(served):
    body = b"x" * (received.BODY_KEPT + 1)
    assert ask(served, request(method="POST", body=body)).count(b"x") == len(body)
    [seen] = served.requests
    assert (len(seen.body), seen.truncated) == (received.BODY_KEPT, True)
    assert len(repr(seen)) < 1000


def test_requests_beyond_the_record_are_answered_and_counted(served, monkeypatch):
    monkeypatch.setattr(received, "REQUESTS_KEPT", 3)
    for number in range(5):
        assert status_of(ask(served, request(f"/{number}"))) == 200
    assert [seen.path for seen in served.requests] == ["/0", "/1", "/2"]
    assert served.lost == 2
    assert repr(served) == f"<served http://{NAME}: 5 requests>"


def test_bytes_of_the_record_are_bounded_as_well(served, monkeypatch):
    monkeypatch.setattr(received, "BYTES_KEPT", 1000)
    for _ in range(3):
        assert status_of(ask(served, request(method="POST", body=bytes(400)))) == 200
    assert (len(served.requests), served.lost) == (2, 1)


def test_what_is_broken_is_bounded(served, monkeypatch):
    monkeypatch.setattr(received, "BROKEN_KEPT", 2)
    for _ in range(4):
        ask(served, b"x\r\n\r\n")
    assert len(served.broken) == 2


def test_a_body_beyond_the_limit_is_413(served, monkeypatch):
    monkeypatch.setattr(bodies, "BODY_LIMIT", 10)
    assert status_of(ask(served, request(method="POST", body=bytes(10)))) == 200
    assert status_of(ask(served, request(method="POST", Content_Length="11"))) == 413
    chunks = request(method="POST", Transfer_Encoding="chunked") + b"8\r\n12345678\r\n3\r\n"
    assert status_of(ask(served, chunks)) == 413


def test_all_bodies_share_one_room(served):
    room = bodies.Room(10)
    room.take(10)
    with pytest.raises(bodies.BadBody, match="at the same time"):
        room.take(1)
    room.give_back(10)
    room.take(10)


@pytest.mark.parametrize(
    "raw", [HALVES["half a body"], GARBAGE["a chunk without end"], request(method="POST", body=b"x" * 99)]
)
def test_room_is_given_back(box, raw):
    served = box.network.serve(f"http://{NAME}", echo)
    with connect(served) as sock:
        sock.sendall(raw)
        sock.shutdown(1)
        everything(sock)
    served.close()
    assert served._server.room._left == bodies.ROOM


def test_connections_are_bounded_and_wait(box, monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS", 2)
    with box.network.serve(f"http://{NAME}", echo) as served:
        idle = [connect(served) for _ in range(2)]
        for sock in idle:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert sock.recv(12) == b"HTTP/1.1 200"
        with connect(served) as third:
            third.sendall(request())
            idle.pop().close()
            assert status_of(everything(third)) == 200
        for sock in idle:
            sock.close()


def test_close_while_all_connections_are_taken(box, monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS", 1)
    with box.network.serve(f"http://{NAME}", echo) as served, connect(served) as sock, connect(served):
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert sock.recv(12) == b"HTTP/1.1 200"
        served.close()
        assert not threads()


def test_a_head_is_bounded_before_it_is_read_whole():
    class Endless:
        def readline(self, size=-1):
            return b"x" * size

    with pytest.raises(bodies.BadBody):
        handler._Head(Endless()).readline()


def test_what_is_shown_of_a_request_is_harmless(served):
    ask(served, b"GET /\x9b31m\x07?\x1b[2J HTTP/1.1\r\nHost: \x1b]0;x\r\nConnection: close\r\n\r\n")
    for seen in served.requests:
        assert repr(seen).isprintable()


def test_a_header_with_an_underscore_is_no_other_header(box):
    seen = {}

    def app(environ, start_response):
        seen.update(environ)
        start_response("204 No Content", [])
        return []

    with box.network.serve(f"http://{NAME}", app) as served:
        raw = f"GET / HTTP/1.1\r\nHost: {NAME}\r\nX_Admin: 1\r\nX-User: 2\r\nConnection: close\r\n\r\n"
        ask(served, raw.encode())
    assert "HTTP_X_ADMIN" not in seen
    assert seen["HTTP_X_USER"] == "2"
