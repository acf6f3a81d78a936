"""Networks that are bad on purpose, and names in TLS handshakes. Real engine."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from far_ends import dial, echo, greet, own_name, python, serving

from pytest_airlock.conformance.machine import Machine, line
from pytest_airlock.providers.base import Fault, NetworkRule, ProviderSpec, Route
from pytest_airlock.providers.namespaces import NamespacesProvider


@pytest.fixture(scope="module")
def provider() -> Iterator[NamespacesProvider]:
    provider = NamespacesProvider()
    if "network_routes" not in provider.probe():
        provider.close()
        pytest.skip("no routes here")
    yield provider
    provider.close()


@pytest.fixture
def box(provider: NamespacesProvider) -> Iterator[Machine]:
    machine = Machine(provider, provider.create(ProviderSpec("box")))
    provider.start(machine.handle)
    yield machine
    provider.delete(machine.handle)


def route(box: Machine, address: tuple[str, int] | None, fault: Fault, end: str = "a.test:80") -> None:
    assert isinstance(box.provider, NamespacesProvider)
    box.provider.set_network(box.handle, NetworkRule("locked", routes=(Route(end, address, fault),)))


def much(sock: socket.socket) -> None:
    sock.sendall(bytes(200_000))


@pytest.mark.parametrize(
    "fault", [Fault(latency=0.05), Fault(bandwidth=1 << 20), Fault(latency=0.01, bandwidth=1 << 20)]
)
def test_slow_ways_lose_nothing(box: Machine, fault: Fault) -> None:
    text = "0123456789" * 90
    with serving(echo) as server:
        route(box, server.address, fault)
        assert dial(box, "a.test", 80, text) == text
    with serving(much) as server:
        route(box, server.address, fault)
        assert dial(box, "a.test", 80) == "200000"


@pytest.mark.parametrize("count", [0, 1, 1000, 100_000])
def test_a_reset_after_so_many_bytes(box: Machine, count: int) -> None:
    with serving(much) as server:
        route(box, server.address, Fault(reset_after=count))
        assert dial(box, "a.test", 80) == f"ECONNRESET {count}"


@pytest.mark.parametrize("count", [1001, 100_000])
def test_an_end_after_so_many_bytes(box: Machine, count: int) -> None:
    with serving(much) as server:
        route(box, server.address, Fault(cut_after=count))
        assert dial(box, "a.test", 80) == str(count)


def test_a_refusal(box: Machine) -> None:
    with serving() as server:
        route(box, server.address, Fault(connect="refuse"))
        assert dial(box, "a.test", 80) == "ECONNREFUSED 0"
        assert server.taken == 0


def test_a_black_hole_and_its_end(box: Machine) -> None:
    program = """
import errno, socket, sys
address = socket.getaddrinfo("a.test", 80, socket.AF_INET, socket.SOCK_STREAM)[0][4]
sock = socket.socket()
sock.setblocking(False)
assert sock.connect_ex(address) == errno.EINPROGRESS
print("begun", flush=True)
sys.stdin.read(1)
print(errno.errorcode.get(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "nothing yet"), flush=True)
"""
    with serving() as server:
        route(box, server.address, Fault(connect="black_hole"))
        with box.process("python3", "-c", program, stdin="pipe") as process:
            assert line(process) == b"begun\n"
            assert process.stdin is not None
            process.stdin.write(b"x")
            process.stdin.close()
            assert line(process) == b"nothing yet\n"
        assert server.taken == 0
        route(box, server.address, Fault())
        assert dial(box, "a.test", 80) == "hello"


@pytest.mark.parametrize(("dns", "code"), [("nxdomain", "EAI -2"), ("servfail", "EAI -3")])
def test_a_name_that_is_not_answered(box: Machine, dns: str, code: str) -> None:
    with serving() as server:
        route(box, server.address, Fault(dns=dns))  # type: ignore[arg-type]
        # Of IPv6 nothing is known either: what is said in the end is the library's choice.
        assert dial(box, "a.test", 80) in (code, "EAI -5")


def test_silence_and_an_answer_that_is_late(box: Machine) -> None:
    ask = r"""
import select, socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(("198.18.0.53", 53))
sock.send(b"\0\7\1\0\0\1\0\0\0\0\0\0\1a\4test\0\0\1\0\1")
print(sock.recv(500)[3] & 15 if select.select([sock], [], [], %s)[0] else "silence")
"""
    with serving() as server:
        route(box, server.address, Fault(dns="silent"))
        assert python(box, ask % "0.2") == "silence"
        route(box, server.address, Fault(dns_delay=0.3))
        assert python(box, ask % "60") == "0"


# ---------------------------------------------------------------- names in TLS

TLS = """
import socket, ssl, sys
host, port, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
if name != host:
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
else:
    context.load_verify_locations("/tmp/ca.pem")
try:
    with context.wrap_socket(socket.create_connection((host, port), 60), server_hostname=name or None) as sock:
        print(sock.recv(5).decode(), sock.version())
except ConnectionResetError:
    print("reset")
"""


@pytest.fixture(scope="module")
def name() -> str:
    return own_name()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secured(authority: trustme.CA, name: str) -> Callable[[socket.socket], None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)

    def talk(sock: socket.socket) -> None:
        if not sock.recv(1, socket.MSG_PEEK):  # one that is reset cannot be wrapped
            return
        with context.wrap_socket(sock, server_side=True) as inner:
            inner.sendall(b"hello")

    return talk


def allow(box: Machine, name: str, port: int) -> None:
    assert isinstance(box.provider, NamespacesProvider)
    box.provider.set_network(box.handle, NetworkRule("allow", (f"{name}:{port}", f"127.0.0.0/8:{port}")))


def test_the_allowed_name_passes_in_tls_and_no_other_and_none_is_reset(
    box: Machine, authority: trustme.CA, secured: Callable[[socket.socket], None], name: str, tmp_path: Path
) -> None:
    box.write("/tmp/ca.pem", authority.cert_pem.bytes())
    with serving(secured) as server:
        allow(box, name, server.port)
        assert python(box, TLS, name, server.port, name).startswith("hello TLSv1.")
        for other in ("other.example", f"below.{name}", ""):
            assert python(box, TLS, name, server.port, other) == "reset"


def test_who_speaks_no_tls_and_servers_that_speak_first_pass(box: Machine, name: str) -> None:
    with serving(greet) as server:
        allow(box, name, server.port)
        assert dial(box, name, server.port) == "hello"
    with serving(echo) as server:
        allow(box, name, server.port)
        assert dial(box, name, server.port, "GET / HTTP/1.1\r\n") == "GET / HTTP/1.1"


def test_halves_of_handshakes_do_not_keep_the_network_process_busy(box: Machine, name: str) -> None:
    """Ended, and with urgent data in them: what cannot be looked at is reset, at once."""
    halves = """
import socket, sys
for end in (lambda sock: sock.shutdown(socket.SHUT_WR), lambda sock: sock.send(b"!", socket.MSG_OOB)):
    sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)
    sock.send(bytes.fromhex("1603010200") + b"x" * 20)
    end(sock)
    sock.send(b"x" * 600) if end.__code__.co_names[0] == "send" else None
    try:
        print(sock.recv(1))
    except ConnectionResetError:
        print("reset")
"""
    with serving(echo) as server:
        allow(box, name, server.port)
        assert python(box, halves, name, server.port).split() == ["reset", "reset"]
