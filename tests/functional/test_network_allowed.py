"""What a policy lets through is reached, and nothing else. Real engine; nobody but this machine's loopback device is dialled."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from disk_engine import edited
from far_ends import HOLD, Server, dial, echo, greet, hold, own_name, python, serving

from pytest_airlock.conformance.machine import Machine, line
from pytest_airlock.errors import SandboxDied, UnsupportedFeature
from pytest_airlock.providers.base import Fault, NetworkMode, NetworkRule, ProviderSpec, Route
from pytest_airlock.providers.namespaces import NamespacesProvider, client

#: Documentation addresses (RFC 5737, RFC 3849): nobody's.
V4, V6 = "192.0.2.7", "2001:db8::7"
#: Gives up soon.
PATIENT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 0.5)
except OSError as error:
    print(type(error).__name__)
"""
REFUSED, UNKNOWN = "ECONNREFUSED 0", "EAI -2"


@pytest.fixture(scope="module")
def provider() -> Iterator[NamespacesProvider]:
    provider = NamespacesProvider()
    if "network_open" not in provider.probe():
        provider.close()
        pytest.skip("nf_tables with tproxy is not to be had here")
    yield provider
    provider.close()


@pytest.fixture
def box(provider: NamespacesProvider) -> Iterator[Machine]:
    machine = Machine(provider, provider.create(ProviderSpec("box")))
    provider.start(machine.handle)
    yield machine
    provider.delete(machine.handle)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def rule(box: Machine, *allow: str, mode: NetworkMode = "allow", routes: tuple[Route, ...] = ()) -> None:
    assert isinstance(box.provider, NamespacesProvider)
    box.provider.set_network(box.handle, NetworkRule(mode, allow, routes))


def route(box: Machine, end: str, server: Server) -> None:
    rule(box, mode="locked", routes=(Route(end, server.address),))


def test_a_listed_name_is_reached_at_its_port_only(box: Machine, server: Server) -> None:
    name = own_name()
    rule(box, f"{name}:{server.port}", f"127.0.0.0/8:{server.port}")
    assert dial(box, name, server.port) == "hello"
    assert dial(box, name, server.port + 1 if server.port < 65_535 else 1) == REFUSED
    assert dial(box, "other.test", server.port) == UNKNOWN
    assert dial(box, f"below.{name}", server.port) == UNKNOWN
    assert dial(box, V4, server.port + 1 if server.port < 65_535 else 1) == REFUSED
    assert dial(box, "127.0.0.1", server.port) == REFUSED, "inside, that is the sandbox itself"


def test_a_name_that_leads_to_this_host_is_not_found_unless_that_is_listed(box: Machine, server: Server) -> None:
    name = own_name()
    rule(box, f"{name}:{server.port}")
    assert dial(box, name, server.port) == UNKNOWN
    rule(box, mode="open")
    assert dial(box, name, server.port) == UNKNOWN
    rule(box, f"127.0.0.0/8:{server.port}", mode="open")
    assert dial(box, name, server.port) == "hello"
    assert server.taken == 1


@pytest.mark.parametrize("name", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1", "localhost"])
def test_a_name_that_is_a_number_leads_no_more_to_this_host(box: Machine, server: Server, name: str) -> None:
    """Asked of the resolver, past what the program's own library knows of numbers."""
    rule(box, mode="open")
    assert python(box, ASK, name) == "3 -"
    assert server.taken == 0


ASK = r"""
import socket, struct, sys
name = b"".join(bytes([len(word)]) + word.encode("latin-1") for word in sys.argv[1].split("."))
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(60)
sock.connect(("198.18.0.53", 53))
sock.send(struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + name + b"\0" + struct.pack(">HH", 1, 1))
answer = sock.recv(500)
print(answer[3] & 15, socket.inet_ntoa(answer[-4:]) if answer[7] else "-")
"""


@pytest.mark.parametrize("name", ["::1", "*.test", "a b.test", "\x7f.test", "ä.test", "a\\.test"])
def test_names_of_odd_bytes_are_not_looked_up(box: Machine, name: str) -> None:
    rule(box, mode="open")
    assert python(box, ASK, name) == "3 -"


@pytest.mark.parametrize("address", [V4, V6])
def test_a_routed_address_leads_to_the_tests_own_server(box: Machine, server: Server, address: str) -> None:
    route(box, f"[{address}]:80" if ":" in address else f"{address}:80", server)
    assert dial(box, address, 80) == "hello"
    assert dial(box, address, 81) == REFUSED
    assert dial(box, address[:-1] + "8", 80) == REFUSED


@pytest.mark.parametrize(
    ("end", "inside", "other"),
    [("192.0.2.0/24:80", "192.0.2.255", "198.51.100.1"), ("[2001:db8:7::/48]:80", "2001:db8:7::9", "2001:db8:8::9")],
)
def test_a_routed_network(box: Machine, server: Server, end: str, inside: str, other: str) -> None:
    route(box, end, server)
    assert dial(box, inside, 80) == "hello"
    assert dial(box, inside, 81) == REFUSED
    assert dial(box, other, 80) in (REFUSED, "ECONNRESET 0")
    assert server.taken == 1


def test_a_listed_address_is_this_hosts_if_it_says_so(box: Machine) -> None:
    """To a program inside 127.0.0.1 is the sandbox itself; a name can lead there, and an address of this host."""
    with serving(host="::1") as server:
        rule(box, f"[::1]:{server.port}")
        assert dial(box, "::1", server.port) == REFUSED
        assert server.taken == 0


def test_a_wildcard_is_every_name_below_and_not_the_name_itself(box: Machine, server: Server) -> None:
    route(box, "*.a.test:80", server)
    assert dial(box, "b.a.test", 80) == "hello"
    assert dial(box, "c.b.a.test", 80) == "hello"
    assert dial(box, "a.test", 80) == UNKNOWN
    assert dial(box, "xa.test", 80) == UNKNOWN


def test_every_port(box: Machine, server: Server) -> None:
    route(box, "any.test:*", server)
    for port in (1, 22, 443, 0xF000, 65_535):
        assert dial(box, "any.test", port) == "hello"
    assert dial(box, V4, 443) == REFUSED


def test_a_network_beside_an_address_of_it_beside_every_port_of_another(box: Machine, server: Server) -> None:
    with serving(echo) as other:
        ends = (
            Route("192.0.2.7:80", other.address),
            Route("192.0.2.0/24:80", server.address),
            Route("a.test:80", other.address),
            Route("198.51.100.0/24:*", server.address),
        )
        rule(box, mode="locked", routes=ends)
        assert dial(box, "192.0.2.7", 80, "again") == "again"
        assert dial(box, "192.0.2.8", 80) == "hello"
        assert dial(box, "a.test", 80, "again") == "again"
        assert dial(box, "198.51.100.9", 80) == "hello"


def test_bytes_arrive_whole_and_in_order_and_an_end_is_an_end(box: Machine) -> None:
    program = """
import hashlib, os, socket, sys, threading
sock = socket.create_connection(("a.test", 80), 60)
data = os.urandom(8 << 20)
def send():
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
got = b"".join(iter(lambda: sock.recv(1 << 20), b""))
print(got == data)
"""
    with serving(echo) as server:
        route(box, "a.test:80", server)
        assert python(box, program) == "True"


@contextlib.contextmanager
def held(box: Machine, host: str, port: int) -> Iterator[object]:
    with box.process("python3", "-c", HOLD, host, str(port)) as process:
        assert line(process) == b"hello\n"
        yield process


def test_a_new_policy_resets_what_it_forbids_and_nothing_else(box: Machine) -> None:
    with serving(hold) as server:
        both = (Route("a.test:80", server.address), Route("b.test:80", server.address))
        rule(box, mode="locked", routes=both)
        with held(box, "a.test", 80) as kept, held(box, "b.test", 80) as cut:
            rule(box, "192.0.2.7:443", routes=both[:1])
            assert line(cut) == b"ECONNRESET\n"  # type: ignore[arg-type]
            rule(box)
            assert line(kept) == b"ECONNRESET\n"  # type: ignore[arg-type]
        assert dial(box, "a.test", 80) == UNKNOWN
        assert dial(box, "198.18.1.0", 80) == REFUSED, "its address leads nowhere any more"


@pytest.mark.parametrize("how", ["reset", "restart"])
def test_a_new_life_is_locked(box: Machine, server: Server, how: str) -> None:
    clean = box.provider.snapshot(box.handle)  # type: ignore[attr-defined]
    route(box, "a.test:80", server)
    assert dial(box, "a.test", 80) == "hello"
    if how == "reset":
        box.provider.reset(box.handle, clean)  # type: ignore[attr-defined]
    else:
        box.restart()
    assert dial(box, "a.test", 80) == UNKNOWN
    assert dial(box, V4, 80) == REFUSED
    route(box, "a.test:80", server)
    assert dial(box, "a.test", 80) == "hello"


def test_a_stopped_one_has_no_policy(box: Machine) -> None:
    box.provider.stop(box.handle, grace=0.1)
    with pytest.raises(SandboxDied):
        rule(box, mode="open")


def test_a_snapshot_keeps_the_policy(box: Machine, server: Server) -> None:
    route(box, "a.test:80", server)
    box.sh("echo >/tmp/x")
    box.provider.snapshot(box.handle, stop=True)  # type: ignore[attr-defined]
    assert dial(box, "a.test", 80) == "hello"


def test_programs_inside_have_all_ports_for_themselves(box: Machine, server: Server) -> None:
    program = """
import socket, sys
servers = [socket.create_server((host, port)) for host, port in (("0.0.0.0", 443), ("0.0.0.0", 8080))]
print(socket.create_connection(("a.test", 443), 60).recv(5).decode(), end=" ")
near = socket.create_connection(("127.0.0.1", 443), 60)
servers[0].accept()[0].send(b"inner")
print(near.recv(5).decode())
"""
    rule(box, mode="locked", routes=(Route("a.test:443", server.address), Route("192.0.2.0/24:8080", server.address)))
    assert python(box, program) == "hello inner"


def test_tries_carry_their_verdict_and_the_name(box: Machine, server: Server) -> None:
    route(box, "a.test:80", server)
    dial(box, "a.test", 80)
    dial(box, "a.test", 81)
    dial(box, V4, 80)
    dial(box, "b.test", 80)
    found = {(each.protocol, each.host, each.port, each.verdict) for each in box.provider.attempts(box.handle)}
    assert found == {
        ("dns", "a.test", 53, "allowed"),
        ("tcp", "a.test", 80, "allowed"),
        ("tcp", "a.test", 81, "refused"),
        ("tcp", None, 80, "refused"),
        ("dns", "b.test", 53, "refused"),
    }


MANY_NAMES = """
import socket
known = 0
for number in range(1030):
    try:
        socket.getaddrinfo(f"n{number}.a.test", 80, socket.AF_INET)
        known += 1
    except socket.gaierror as error:
        assert error.errno == socket.EAI_AGAIN, error
print(known, socket.create_connection(("n7.a.test", 80), 60).recv(5).decode())
"""


def test_so_many_names_have_an_address_and_no_more(box: Machine, server: Server) -> None:
    route(box, "*.a.test:80", server)
    assert python(box, MANY_NAMES) == "1024 hello"


MANY = """
import resource, select, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
socks = []
for _ in range(int(sys.argv[1])):
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(("192.0.2.7", 80))
    socks.append(sock)
by_fd, poller = {sock.fileno(): sock for sock in socks}, select.poll()
for fd in by_fd:
    poller.register(fd, select.POLLIN)
while by_fd:
    for fd, _ in poller.poll():
        assert by_fd[fd].recv(5) == b"hello"
        poller.unregister(fd)
        by_fd.pop(fd).close()
print("all")
"""


def test_more_connections_than_there_may_be_at_a_time_are_served_in_turn(box: Machine) -> None:
    with serving(greet) as server:
        route(box, f"{V4}:80", server)
        assert python(box, MANY, 350) == "all"


def test_a_flood_of_questions_and_connections_does_not_stop_another_sandbox(
    provider: NamespacesProvider, box: Machine, server: Server
) -> None:
    flood = r"""
import socket, struct
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("begun", flush=True)
number = 0
while True:
    number += 1
    name = f"n{number}.invalid".split(".")
    raw = b"".join(bytes([len(word)]) + word.encode() for word in name) + b"\0"
    sock.sendto(struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + raw + struct.pack(">HH", 1, 1), ("198.18.0.53", 53))
    if not number % 100:
        socket.socket().connect_ex(("192.0.2.7", 443))
"""
    other = Machine(provider, provider.create(ProviderSpec("other")))
    provider.start(other.handle)
    rule(other, mode="open")
    route(box, "a.test:80", server)
    with other.process("python3", "-c", flood) as process:
        assert line(process) == b"begun\n"
        for _ in range(5):
            assert dial(box, "a.test", 80) == "hello"
        provider.delete(other.handle)
    assert dial(box, "a.test", 80) == "hello"


def test_a_life_that_ends_while_its_names_are_looked_up_harms_nobody(
    provider: NamespacesProvider, box: Machine, server: Server
) -> None:
    """Answers come when it is dead: nothing may be opened in a network that is not there any more."""
    ask = ASK.replace("answer = sock.recv(500)", "sys.exit()")
    name = own_name()
    for _ in range(5):
        other = Machine(provider, provider.create(ProviderSpec("other")))
        provider.start(other.handle)
        rule(other, f"127.0.0.0/8:{server.port}", mode="open")
        python(other, ask, name)
        provider.delete(other.handle)
    route(box, "later.test:80", server)
    assert dial(box, "later.test", 80) == "hello"


@pytest.fixture
def lonely() -> Iterator[Machine]:
    """With an engine of its own, of which a part may die."""
    provider = NamespacesProvider()
    machine = Machine(provider, provider.create(ProviderSpec("lonely")))
    provider.start(machine.handle)
    yield machine
    provider.close()


def test_without_its_dialler_connections_are_reset_and_the_next_rule_brings_one_back(lonely: Machine) -> None:
    with serving() as server:
        route(lonely, "a.test:80", server)
        assert dial(lonely, "a.test", 80) == "hello"
        _kill(_dialler_of(lonely))
        assert dial(lonely, "a.test", 80) == "ECONNRESET 0"
        route(lonely, "a.test:80", server)
        assert dial(lonely, "a.test", 80) == "hello"


def _dialler_of(box: Machine) -> int:
    engine = box.provider._engine  # type: ignore[attr-defined]
    pids = [
        int(pid)
        for pid in os.listdir("/proc")
        if pid.isdecimal() and b"net.dialler" in _read(f"/proc/{pid}/cmdline") and _parent(pid) == engine.pid
    ]
    (pid,) = [pid for pid in pids if not _read(f"/proc/{pid}/stat").partition(b") ")[2].startswith(b"Z")][-1:]
    return pid


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _parent(pid: str) -> int:
    return int(_read(f"/proc/{pid}/stat").partition(b") ")[2].split()[1])


def _kill(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert select.select([pidfd], [], [], 60)[0]
    os.close(pidfd)


@pytest.fixture
def without_nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A copy of the engine whose kernel has no nf_tables."""
    monkeypatch.setattr(client, "__file__", edited(tmp_path, ""))
    divert = tmp_path / "engine" / "net" / "divert.py"
    assert "def install(" in divert.read_text()
    with divert.open("a") as file:
        file.write('\n\ndef install():\n    raise netlink.StepError(2, "network divert")\n')
    provider = NamespacesProvider()
    machine = Machine(provider, provider.create(ProviderSpec("without")))
    provider.start(machine.handle)
    yield machine
    provider.close()


def test_without_nf_tables_lists_still_work_and_open_says_what_is_missing(without_nft: Machine, server: Server) -> None:
    box = without_nft
    with pytest.raises(UnsupportedFeature, match=r"(?s)nf_tables.*modprobe"):
        rule(box, mode="open")
    with pytest.raises(UnsupportedFeature, match="nf_tables"):
        rule(box, "a.test:*")
    name, port = own_name(), server.port
    ends = ("a.test:80", f"{V4}:80", f"[{V6}]:80", "198.51.100.0/24:81")
    rule(box, f"{name}:{port}", f"127.0.0.0/8:{port}", routes=tuple(Route(end, server.address) for end in ends))
    for host, at in (("a.test", 80), (V4, 80), (V6, 80), ("198.51.100.9", 81), (name, port)):
        assert dial(box, host, at) == "hello"
    for host, at in (("a.test", 82), ("192.0.2.8", 80), (V4, 82)):
        assert dial(box, host, at) == REFUSED
    taken = server.taken
    # The listener stands at every address, those inside included; who is not meant is reset.
    assert dial(box, "192.0.2.8", 81) in (REFUSED, "ECONNRESET 0")
    assert dial(box, "127.0.0.1", port) in (REFUSED, "ECONNRESET 0"), "that is the sandbox itself"
    assert server.taken == taken


def test_what_is_bad_on_purpose_needs_no_policy_that_lets_it_through(box: Machine) -> None:
    hole, refusal = Fault(connect="black_hole"), Fault(connect="refuse")
    routes = (
        Route("hole.test:80", fault=hole),
        Route("refused.test:80", fault=refusal),
        Route("servfail.test:*", fault=Fault(dns="servfail")),
        Route("late.test:80", fault=Fault(latency=0.1)),
    )
    rule(box, mode="locked", routes=routes)
    assert python(box, PATIENT, "hole.test", 80) == "TimeoutError"
    assert dial(box, "hole.test", 81) == REFUSED
    assert dial(box, "refused.test", 80) == REFUSED
    assert dial(box, "servfail.test", 80) == "EAI -3"
    assert dial(box, "late.test", 80) == UNKNOWN, "it leads where the policy does: nowhere"
    assert {each.verdict for each in box.provider.attempts(box.handle) if each.protocol == "tcp"} == {"refused"}
