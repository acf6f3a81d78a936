"""An open network: UDP too, and nothing that is this host's; and the network of the host itself. Real engine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from far_ends import dial, own_name, python, serving

from pytest_airlock.conformance.machine import PATIENCE, Machine
from pytest_airlock.errors import ProviderError, UnsupportedFeature
from pytest_airlock.providers.base import NetworkRule, ProviderSpec
from pytest_airlock.providers.namespaces import NamespacesProvider
from pytest_airlock.providers.namespaces.network_client import Network

#: Sends datagrams to a name, from one socket and then from a connected one, and prints what comes back.
ASKS = """
import errno, socket, sys
host, port = socket.gethostbyname(sys.argv[1]), int(sys.argv[2])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(60)
for number in range(3):
    sock.sendto(b"%d" % number, (host, port))
    data, sender = sock.recvfrom(100)
    print(data.decode(), sender == (host, port))
sock.connect((host, port))
sock.send(b"last")
print(sock.recv(100).decode())
"""
#: What the kernel says of a datagram that nobody takes.
ALONE = """
import errno, socket, sys
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(60)
sock.connect((sys.argv[1], int(sys.argv[2])))
sock.send(b"x")
try:
    print(sock.recv(100))
except OSError as error:
    print(errno.errorcode[error.errno])
"""
#: What a program may do to the network that it shares.
SHARED = """
import errno, socket, sys
def tried(call, *words):
    try:
        call(*words)
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]
unix = socket.socket(socket.AF_UNIX)
print("abstract", tried(unix.connect, sys.argv[2]))
print("low port", tried(socket.socket().bind, ("127.0.0.1", 1)))
print("packets", tried(socket.socket, 17, 3, 0))
print("raw", tried(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1))
print("sysctl", tried(open, "/proc/sys/net/ipv4/ip_forward", "w"))
print(socket.create_connection(("127.0.0.1", int(sys.argv[1]))).recv(5).decode())
"""


@pytest.fixture(scope="module")
def provider() -> Iterator[NamespacesProvider]:
    provider = NamespacesProvider()
    if "network_open" not in provider.probe():
        provider.close()
        pytest.skip("nf_tables with tproxy is not to be had here")
    yield provider
    provider.close()


@contextmanager
def made(provider: NamespacesProvider, spec: ProviderSpec) -> Iterator[Machine]:
    machine = Machine(provider, provider.create(spec))
    provider.start(machine.handle)
    yield machine
    provider.delete(machine.handle)


@pytest.fixture
def box(provider: NamespacesProvider) -> Iterator[Machine]:
    with made(provider, ProviderSpec("box")) as machine:
        yield machine


@contextmanager
def answering() -> Iterator[int]:
    """The port of a UDP server on the loopback device that says everything again, in a row; it ends with an empty datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                data, sender = sock.recvfrom(100)
                if not data:
                    return
                sock.sendto(b"re " + data, sender)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield sock.getsockname()[1]
        sock.sendto(b"", sock.getsockname())
        thread.join(PATIENCE)


def test_datagrams_reach_what_is_listed_of_this_host_and_answers_come_from_there(
    box: Machine, provider: NamespacesProvider
) -> None:
    name = own_name()
    with answering() as port:
        provider.set_network(box.handle, NetworkRule("open", (f"127.0.0.0/8:{port}",)))
        assert python(box, ASKS, name, port).splitlines() == ["re 0 True", "re 1 True", "re 2 True", "re last"]
        found = [each for each in provider.attempts(box.handle) if each.protocol == "udp"]
        assert [(each.host, each.port, each.verdict) for each in found] == [(name, port, "allowed")] * 4
        provider.set_network(box.handle, NetworkRule("allow", (f"127.0.0.0/8:{port}", f"{name}:{port}")))
        assert python(box, ALONE, "198.18.1.0", port) == "ECONNREFUSED", "a list is of TCP"


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_under_a_lock_a_datagram_is_refused(box: Machine, provider: NamespacesProvider, address: str) -> None:
    provider.set_network(box.handle, NetworkRule("open"))
    provider.set_network(box.handle, NetworkRule())
    assert python(box, ALONE, address, 9) == "ECONNREFUSED"


def test_an_open_network_leads_neither_to_this_host_nor_to_its_neighbours(
    box: Machine, provider: NamespacesProvider
) -> None:
    provider.set_network(box.handle, NetworkRule("open"))
    with serving() as server:
        assert dial(box, own_name(), server.port) == "EAI -2"
        for address in ("10.0.0.1", "169.254.169.254", "192.168.0.1", "100.64.0.1", "::ffff:127.0.0.1", "fe80::1%lo"):
            assert dial(box, address, server.port).split()[0] in ("ECONNRESET", "ECONNREFUSED")
        assert server.taken == 0


def test_the_network_of_the_host_is_shared_and_gives_no_power_over_it(provider: NamespacesProvider) -> None:
    abstract = "\0airlock-test-of-the-host"
    with (
        socket.socket(socket.AF_UNIX) as unix,
        serving() as server,
        made(provider, ProviderSpec("shared", shares_network=True)) as box,
    ):
        unix.bind(abstract)
        unix.listen(1)
        said = python(box, SHARED.replace("sys.argv[2]", repr(abstract)), server.port).splitlines()
        # Where Landlock does not know of abstract sockets a note of the provider says so.
        scoped = not any("abstract unix sockets" in note for note in provider.probe().notes)
        assert said == [
            f"abstract {'EPERM' if scoped else 'ok'}",
            "low port EACCES",
            "packets EAFNOSUPPORT",
            "raw EPROTONOSUPPORT",
            "sysctl EROFS",
            "hello",
        ]
        with provider.connect(box.handle, server.address, "tcp", timeout=PATIENCE) as sock:
            assert sock.recv(5) == b"hello"
        assert provider.listening(box.handle, server.port)
        assert provider.forward(box.handle, server.address) == server.port


def test_the_network_of_the_host_cannot_be_locked_nor_given_later(box: Machine, provider: NamespacesProvider) -> None:
    with pytest.raises(UnsupportedFeature, match="decided when it is made"):
        provider.set_network(box.handle, NetworkRule("host"))
    with made(provider, ProviderSpec("shared", shares_network=True)) as shared:
        for rule in (NetworkRule(), NetworkRule("open"), NetworkRule("allow", ("example.test:443",))):
            with pytest.raises(UnsupportedFeature, match="shares this host's network"):
                provider.set_network(shared.handle, rule)
        provider.set_network(shared.handle, NetworkRule("host"))
        with pytest.raises(UnsupportedFeature, match="network_attempts"):
            provider.attempts(shared.handle)


def test_names_are_asked_of_whom_the_host_asks(provider: NamespacesProvider) -> None:
    with made(provider, ProviderSpec("shared", shares_network=True)) as box:
        with open("/etc/resolv.conf", "rb") as file:
            resolvers = file.read()
        assert box.read("/etc/resolv.conf") == resolvers
        clean = provider.snapshot(box.handle)
        provider.reset(box.handle, clean)
        assert box.read("/etc/resolv.conf") == resolvers


def test_a_lock_after_a_policy_that_failed_is_no_lock_in_memory_only(
    box: Machine, provider: NamespacesProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = own_name()
    with serving() as server:
        open_to_it = NetworkRule("open", (f"127.0.0.0/8:{server.port}",))
        provider.set_network(box.handle, open_to_it)
        assert dial(box, name, server.port) == "hello"

        def fails(*_: object, **__: object) -> None:
            raise ProviderError("namespaces", "network rule", "nobody is there to open a listener")

        with monkeypatch.context() as patched:
            patched.setattr(Network, "rule", fails)
            with pytest.raises(ProviderError, match="nobody is there"):
                provider.set_network(box.handle, NetworkRule("open"))
        provider.set_network(box.handle, NetworkRule())
        assert dial(box, name, server.port) == "EAI -2"
