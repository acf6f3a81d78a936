"""network.serve(): every kind of app behind a name, over real connections."""

from __future__ import annotations

import http.server
import json
import socket
import ssl

import pytest
from serving import ask, body_of, connect, everything, request, sockets, status_of, threads

from pytest_airlock.errors import MissingExtra, ProviderError, ServedAppFailed, StaleSandbox
from pytest_airlock.sandbox.fakes import ends, received

NAME = "api.example.com"


def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Scheme", environ["wsgi.url_scheme"])])
    yield f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']} ".encode()
    yield environ["wsgi.input"].read()


async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-scheme", scope["scheme"].encode())]})
    text = f"{scope['method']} {scope['path']}?{scope['query_string'].decode()} ".encode()
    await send({"type": "http.response.body", "body": text, "more_body": True})
    await send({"type": "http.response.body", "body": body})


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = f"POST {path}?{query} ".encode() + body
        self.send_response(200)
        self.send_header("X-Scheme", "https" if isinstance(self.connection, ssl.SSLSocket) else "http")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@pytest.fixture(params=["http", "https"])
def scheme(request):
    return request.param


@pytest.fixture(params=[wsgi, asgi, Handler], ids=["wsgi", "asgi", "handler"])
def app(request):
    return request.param


def plain(answer):
    """The body, of one in chunks as well."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head.lower():
        return body
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        whole, body = whole + body[: int(size, 16)], body[int(size, 16) + 2 :]
    return whole


def test_apps_answer_and_requests_are_recorded(box, provider, app, scheme):
    name = NAME if scheme == "https" else None
    with box.network.serve(f"{scheme}://{NAME}", app) as served:
        [route] = provider.rule("box").routes
        assert route.end == f"{NAME}:{443 if scheme == 'https' else 80}"
        raw = request("/v1/things?q=1&q=2", method="POST", body=b"abc", X_Token="t")
        answer = ask(served, raw, name=name)
        assert status_of(answer) == 200
        assert f"x-scheme: {scheme}".encode() in answer.lower()
        assert plain(answer) == b"POST /v1/things?q=1&q=2 abc"
        [seen] = served.requests
    assert (seen.method, seen.path, seen.query, seen.body) == ("POST", "/v1/things", "q=1&q=2", b"abc")
    assert (seen.host, seen.headers["x-TOKEN"], seen.truncated) == (NAME, "t", False)
    assert provider.rule("box").routes == ()
    assert served.requests == (seen,)
    assert not served.errors
    assert not served.broken


def test_one_connection_carries_many_requests(box):
    with box.network.serve(f"http://{NAME}", asgi) as served, connect(served) as sock:
        for number in range(5):
            sock.sendall(f"POST /{number} HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 1\r\n\r\nx".encode())
        sock.sendall(request("/last"))
        assert everything(sock).count(b"HTTP/1.1 200") == 6
        assert [seen.path for seen in served.requests] == ["/0", "/1", "/2", "/3", "/4", "/last"]


def test_a_body_in_chunks(box):
    raw = (
        request("/", method="POST", Transfer_Encoding="chunked") + b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
    )
    with box.network.serve(f"http://{NAME}", wsgi) as served:
        assert plain(ask(served, raw)) == b"POST /? abcde"
        assert served.requests[0].body == b"abcde"


def test_a_form_with_a_file(box):
    """Whose content type makes the parser of heads look for parts of a body."""
    form = b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\nabc\r\n--b--\r\n'
    raw = request(method="POST", body=form, Content_Type="multipart/form-data; boundary=b")
    with box.network.serve(f"http://{NAME}", wsgi) as served:
        assert plain(ask(served, raw)) == b"POST /? " + form
        assert served.requests[0].headers["content-type"] == "multipart/form-data; boundary=b"


def test_a_client_of_http_1_0_gets_no_chunks(box):
    with box.network.serve(f"http://{NAME}", wsgi) as served:
        answer = ask(served, b"GET / HTTP/1.0\r\n\r\n")
    assert body_of(answer) == b"GET /? "
    assert b"Transfer-Encoding" not in answer


def test_a_client_that_waits_for_100_continue_gets_it(box):
    with box.network.serve(f"http://{NAME}", wsgi) as served, connect(served) as sock:
        sock.sendall(request("/", method="POST", Expect="100-continue", Content_Length="3"))
        assert sock.recv(25, socket.MSG_WAITALL) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc")
        assert plain(everything(sock)) == b"POST /? abc"


def test_recorded_responses(box):
    responses = {
        "/text": "hällo",
        "/bytes": b"\xff",
        "/json": {"a": [1]},
        "POST /made": (201, {"Location": "/made/1"}, {"id": 1}),
        "DELETE /made": (204, {}, b""),
        "/q": "any",
        "/q?x=1": "this one",
    }
    with box.network.serve(f"http://{NAME}", responses) as served:

        def get(*args, **options):
            answer = ask(served, request(*args, **options))
            return status_of(answer), body_of(answer)

        assert get("/text") == (200, "hällo".encode())
        assert get("/bytes") == (200, b"\xff")
        assert json.loads(get("/json")[1]) == {"a": [1]}
        assert get("/made", method="POST") == (201, b'{"id": 1}')
        assert get("/made", method="DELETE") == (204, b"")
        assert get("/made")[0] == 404
        assert get("/nowhere")[0] == 404
        assert get("/q?y=2") == (200, b"any")
        assert get("/q?x=1") == (200, b"this one")
        head = ask(served, request("/text", method="HEAD"))
        assert b"Content-Length: 6" in head
        assert body_of(head) == b""
        assert b"Content-Type: text/plain; charset=utf-8" in head
        assert b"Location: /made/1" in ask(served, request("/made", method="POST"))


@pytest.mark.parametrize(
    "responses",
    [{"text": "x"}, {1: "x"}, {"GET text": "x"}, {"/x": object()}, {"/x": (200, "x")}, {"/x": ("200", {}, "x")}],
)
def test_bad_responses_are_told_at_once(box, provider, responses):
    with pytest.raises(ValueError):
        box.network.serve(f"http://{NAME}", responses)
    assert not threads()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://a.test", "http:// or https://"), ("a.test", "http:// or https://"), ("http://", "no host name"),
        ("http://a.test/path", "more than"), ("http://a.test?x=1", "more than"), ("http://u:p@a.test", "more than"),
        ("http://a.test:x", "no URL"), ("http://a.test:0", "no port"), ("http://a_*.test", "no host name"),
        ("http://localhost", "sandbox itself"),
    ],
)  # fmt: skip
def test_a_bad_url_is_told_at_once(box, url, why):
    with pytest.raises(ValueError, match=why):
        box.network.serve(url, {})
    assert not threads()


@pytest.mark.parametrize(
    ("url", "end", "host"),
    [
        ("http://a.test", "a.test:80", "a.test"), ("https://A.test:8443/", "a.test:8443", "a.test"),
        ("https://*.a.test", "*.a.test:443", "*.a.test"), ("http://192.0.2.7", "192.0.2.7:80", "192.0.2.7"),
        ("https://[2001:db8::1]", "[2001:db8::1]:443", "2001:db8::1"),
    ],
)  # fmt: skip
def test_urls(url, end, host):
    parsed = ends.served_url(url)
    assert (str(parsed.end), parsed.host, parsed.secure) == (end, host, url.startswith("https"))


@pytest.mark.parametrize(
    "app", [None, 3, "text", lambda: None, lambda one: None], ids=["None", "3", "text", "no", "one"]
)
def test_what_is_no_app(box, app):
    with pytest.raises(TypeError, match="WSGI"):
        box.network.serve(f"http://{NAME}", app)
    assert not threads()


def test_an_address_or_a_socket_is_a_plain_route(box, provider):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for app in (listener, listener.getsockname()):
            with box.network.serve(f"https://{NAME}", app, latency=0.1) as served:
                [route] = provider.rule("box").routes
                assert (route.to, route.fault.latency) == (listener.getsockname(), 0.1)
            assert served.requests == ()
    with pytest.raises(ValueError, match="not this machine"):
        box.network.serve(f"https://{NAME}", ("192.0.2.1", 80))
    assert not threads()


def test_faults_go_with_the_route(box, provider):
    box.network.serve(f"http://{NAME}", {}, bandwidth="1K", dns_delay=1)
    assert provider.rule("box").routes[0].fault.bandwidth == 1024
    with pytest.raises(ValueError, match="latency"):
        box.network.serve(f"http://{NAME}", {}, latency=-1)


# -- TLS ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["a.example.com", "A.example.com", "a.b.example.com", "a.b.c.example.com"])
def test_a_wildcard_is_every_name_below(box, asked):
    with box.network.serve("https://*.example.com", {"/": "yes"}) as served:
        assert body_of(ask(served, request(), name=asked)) == b"yes"


def test_a_certificate_is_for_its_name_only(box):
    with box.network.serve("https://*.example.com", {}) as served:
        for name in ("example.com", "example.org", "a.example.org"):
            with pytest.raises(ssl.SSLCertVerificationError):
                connect(served, name=name)


def test_a_client_without_trust_is_told_in_broken(box):
    with box.network.serve(f"https://{NAME}", {}) as served:
        with socket.create_connection(served.to, 60) as sock:
            with pytest.raises(ssl.SSLCertVerificationError):
                ssl.create_default_context().wrap_socket(sock, server_hostname=NAME)
            with pytest.raises(OSError):
                ssl.create_default_context().wrap_socket(sock, server_hostname=NAME)
        with socket.create_connection(served.to, 60) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            everything(sock)
    assert served.requests == ()
    assert any("TLS handshake" in why for why in served.broken)


def test_an_address_has_a_certificate_too(box):
    with box.network.serve("https://192.0.2.7", {"/": "yes"}) as served:
        assert body_of(ask(served, request(), name="192.0.2.7")) == b"yes"


def test_without_the_extra_https_says_what_to_install(box, provider, monkeypatch):
    from pytest_airlock.sandbox.fakes import authority

    authority._made.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "trustme", None)
    with pytest.raises(MissingExtra, match=r"pip install 'pytest-airlock\[tls\]'"):
        box.network.serve(f"https://{NAME}", {})
    assert provider.rule("box").routes == ()
    assert not threads()
    assert ask(box.network.serve(f"http://{NAME}", {"/": "x"}), request()).endswith(b"x")


# -- What goes wrong in an app ------------------------------------------------------------------------------------


def broken_wsgi(environ, start_response):
    raise LookupError("no such thing")


async def broken_asgi(scope, receive, send):
    raise LookupError("no such thing")


class BrokenHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        raise LookupError("no such thing")


def failing(environ, start_response):
    pytest.fail("no such thing")


def late(environ, start_response):
    start_response("200 OK", [])
    yield b"begun"
    raise LookupError("no such thing")


@pytest.mark.parametrize("app", [broken_wsgi, broken_asgi, BrokenHandler, failing])
def test_an_error_of_the_app_is_500_and_is_raised_at_the_end(box, app):
    with (
        pytest.raises(ServedAppFailed, match="no such thing") as caught,
        box.network.serve(f"http://{NAME}", app) as served,
    ):
        assert status_of(ask(served, request("/x"))) == 500
        assert len(served.errors) == 1
    assert caught.value.__cause__ is served.errors[0]
    assert caught.value.url == f"http://{NAME}"
    assert [seen.path for seen in served.requests] == ["/x"]
    served.check()  # it is told once


def test_an_error_within_the_body_breaks_the_connection(box):
    served = box.network.serve(f"http://{NAME}", late)
    answer = ask(served, request())
    assert b"begun" in answer
    assert not answer.endswith(b"0\r\n\r\n")
    with pytest.raises(ServedAppFailed, match="LookupError"):
        served.check()
    ask(served, request())
    with pytest.raises(ServedAppFailed):
        served.check()


def test_the_error_of_the_test_comes_first(box):
    with pytest.raises(ZeroDivisionError), box.network.serve(f"http://{NAME}", broken_wsgi) as served:
        ask(served, request())
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "app",
    [
        lambda environ, start_response: [b"no head"],
        lambda environ, start_response: start_response("200 OK", [("X", "a\r\nY: b")]) and [b"x"],
        lambda environ, start_response: start_response("99 no", []) and [b"x"],
        lambda environ, start_response: start_response("200 OK", [("Content-Length", "1")]) and [b"xx"],
        lambda environ, start_response: start_response("200 OK", [("Content-Length", "3")]) and [b"xx"],
        lambda environ, start_response: start_response("200 OK", []) and ["text"],
    ],
)
def test_what_an_app_must_not_do_is_its_error(box, app):
    with box.network.serve(f"http://{NAME}", lambda environ, start: app(environ, start) or []) as served:
        answer = ask(served, request())
        assert b"\nY: b" not in answer
        assert len(served.errors) == 1
        with pytest.raises(ServedAppFailed):
            served.check()


def test_an_asgi_app_that_does_not_answer_is_told(box):
    async def app(scope, receive, send):
        pass

    with box.network.serve(f"http://{NAME}", app) as served:
        assert status_of(ask(served, request())) == 500
        with pytest.raises(ServedAppFailed, match="without having answered"):
            served.check()


def test_an_asgi_app_has_its_lifespan(box):
    story = []

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                story.append((await receive())["type"])
                scope["state"]["begun"] = "yes"
                await send({"type": f"lifespan.{step}.complete"})
            return
        story.append(scope["state"]["begun"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    with box.network.serve(f"http://{NAME}", app) as served:
        assert status_of(ask(served, request())) == 204
    assert story == ["lifespan.startup", "yes", "lifespan.shutdown"]


def test_an_asgi_app_that_does_not_start_up_is_not_served(box, provider):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(Exception, match="no database"):
        box.network.serve(f"http://{NAME}", app)
    assert provider.rule("box").routes == ()
    assert not threads()


# -- The end ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "hand back", "reset", "lock", "replace"])
def test_nothing_is_left_after_the_end(box, backend, app, scheme, how):
    open_before = sockets()
    served = box.network.serve(f"{scheme}://{NAME}", app)
    idle = connect(served, name=NAME if scheme == "https" else None)
    silent = socket.create_connection(served.to, 60)  # says nothing, of TLS neither
    ask(served, request(method="POST", body=b"x"), name=NAME if scheme == "https" else None)
    if how == "close":
        served.close()
    elif how == "hand back":
        backend.end()
    elif how == "reset":
        box.reset()
    elif how == "lock":
        box.network.lock()
    else:
        box.network.route(served.end, to=("127.0.0.1", 1))
    assert not threads()
    assert everything(idle) == everything(silent) == b""
    idle.close()
    silent.close()
    assert sockets() == open_before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(served.to, 60)
    assert len(served.requests) == 1
    served.close()


def test_a_route_that_cannot_be_made_leaves_no_server(box, provider):
    provider.faults.fail("set_network", ProviderError("fake", "set the network", "EIO"))
    with pytest.raises(ProviderError):
        box.network.serve(f"http://{NAME}", asgi)
    assert not threads()


def test_after_the_hand_back_nothing_is_served(box, backend):
    backend.end()
    with pytest.raises(StaleSandbox):
        box.network.serve(f"http://{NAME}", {})
    assert not threads()


def test_many_names_at_once(box, provider):
    first = box.network.serve("http://a.test", {"/": "a"})
    second = box.network.serve("http://b.test", {"/": "b"})
    assert body_of(ask(first, request())) == b"a"
    first.close()
    assert body_of(ask(second, request())) == b"b"
    assert [route.end for route in provider.rule("box").routes] == ["b.test:80"]


def test_headers_compare_without_case_and_keep_all():
    headers = received.Headers((("Accept", "a"), ("ACCEPT", "b"), ("X", "1")))
    assert headers["accept"] == "a"
    assert headers.all("Accept") == ("a", "b")
    assert dict(headers) == {"accept": "a", "x": "1"}
    assert len(headers) == 2
    assert "y" not in headers


@pytest.fixture(autouse=True)
def _all_closed(backend):
    yield
    backend.end()
    assert not threads()
