"""A locked network: what is tried is refused at once by the sandbox's own kernel, and is known afterwards. Real engine."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator

import pytest

from pytest_airlock.conformance.machine import Machine
from pytest_airlock.errors import ProviderError, ProviderUnavailable
from pytest_airlock.providers.base import Attempt, ProviderSpec
from pytest_airlock.providers.namespaces import NamespacesProvider
from pytest_airlock.providers.namespaces.engine.net.records import MOST

#: Documentation addresses (RFC 5737, RFC 3849): nobody's.
V4, V6 = "192.0.2.7", "2001:db8::7"

TRY = """
import errno, socket, sys
kind, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
sock = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
sock.settimeout(30)
try:
    sock.connect((host, port))
    if kind == "udp":
        sock.send(b"x")
        sock.recv(1)
except OSError as error:
    print(errno.errorcode[error.errno])
"""
NAME = """
import socket, sys
try:
    socket.getaddrinfo(sys.argv[1], None)
except socket.gaierror as error:
    assert error.errno == socket.EAI_NONAME, error
else:
    sys.exit("it was found")
"""
DNS_BY_TCP = """
import socket, struct
name = b"".join(bytes([len(word)]) + word for word in b"by-tcp.example.org".split(b".")) + b"\\0"
query = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + name + struct.pack(">HH", 1, 1)
sock = socket.create_connection(("198.18.0.53", 53), 30)
for part in (struct.pack(">H", len(query)), query[:5], query[5:]):
    sock.send(part)
answer = sock.recv(500)
print(struct.unpack(">H", answer[:2])[0] == len(answer) - 2, answer[2:4] == query[:2], answer[5] & 15)
"""


@pytest.fixture(scope="module")
def provider() -> Iterator[NamespacesProvider]:
    provider = NamespacesProvider()
    yield provider
    provider.close()


@pytest.fixture
def box(provider: NamespacesProvider) -> Iterator[Machine]:
    machine = Machine(provider, provider.create(ProviderSpec("box")))
    provider.start(machine.handle)
    yield machine
    provider.delete(machine.handle)


def tried(box: Machine) -> list[tuple[str, str | None, str, int | None, str | None]]:
    found = box.provider.attempts(box.handle)
    assert {each.verdict for each in found} <= {"refused"}
    return [(each.protocol, each.host, each.address, each.port, each.question) for each in found]


def python(box: Machine, program: str, *words: str) -> str:
    done = box.run("python3", "-c", program, *words)
    assert done.returncode == 0, done.err
    return done.out.decode().strip()


@pytest.mark.parametrize("address", [V4, V6, "8.8.8.8", "169.254.169.254", "10.0.0.1"])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_every_address_refuses(box: Machine, kind: str, address: str) -> None:
    assert python(box, TRY, kind, address, "443") == "ECONNREFUSED"
    assert tried(box) == [(kind, None, address, 443, None)]


def test_what_stays_inside_is_no_attempt(box: Machine) -> None:
    program = """
import socket
for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6), ("198.18.0.1", socket.AF_INET)):
    server = socket.create_server((host, 80), family=family)
    near = socket.create_connection((host, 80), 30)
    far, _ = server.accept()
    far.send(b"hello")
    assert near.recv(5) == b"hello"
    one, two = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM)
    one.bind((host, 0))
    two.sendto(b"x", one.getsockname())
    assert one.recv(1) == b"x"
"""
    assert python(box, program) == ""
    assert tried(box) == []


def test_no_name_is_found_and_each_question_is_known(box: Machine) -> None:
    python(box, NAME, "one.example.org")
    assert set(tried(box)) == {
        ("dns", "one.example.org", "198.18.0.53", 53, f"{kind} one.example.org") for kind in ("A", "AAAA")
    }


def test_a_name_server_named_by_the_program_is_refused_and_the_question_known(box: Machine) -> None:
    program = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect((sys.argv[1], 53))
sock.send(bytes.fromhex("000101000001000000000000") + b"\\3own\\7example\\0" + bytes.fromhex("00100001"))
try:
    sock.recv(1)
except ConnectionRefusedError:
    print("refused")
"""
    assert python(box, program, V4) == "refused"
    assert tried(box) == [("dns", "own.example", V4, 53, "TXT own.example")]


def test_questions_by_tcp_are_answered_and_known(box: Machine) -> None:
    assert python(box, DNS_BY_TCP) == "True True 3"
    assert tried(box)[-1] == ("dns", "by-tcp.example.org", "198.18.0.53", 53, "A by-tcp.example.org")


def test_order_is_kept(box: Machine) -> None:
    program = TRY + "\n".join(
        f"import subprocess; subprocess.run([sys.executable, '-c', {TRY!r}, {kind!r}, {address!r}, '{port}'])"
        for port in (1, 2)
        for kind in ("tcp", "udp")
        for address in (V4, V6)
    )
    python(box, program, "tcp", V4, "9")
    expected = [(kind, None, host, port, None) for port in (1, 2) for kind in ("tcp", "udp") for host in (V4, V6)]
    assert tried(box) == [("tcp", None, V4, 9, None), *expected]
    times = [each.time for each in box.provider.attempts(box.handle)]
    assert times == sorted(times)


PING = """
import socket, struct, sys
v6, host, size = ":" in sys.argv[1], sys.argv[1], 600
sock = socket.socket(*((socket.AF_INET6, socket.SOCK_DGRAM, 58) if v6 else (socket.AF_INET, socket.SOCK_DGRAM, 1)))
sock.settimeout(30)
sock.connect((host, 0))
sock.setsockopt(*((41, 25, 1) if v6 else (0, 11, 1)))  # IPV6_RECVERR, IP_RECVERR
sock.send(struct.pack(">BBHHH", 128 if v6 else 8, 0, 0, 0, 1) + b"x" * size)
try:
    answer = sock.recv(2000)
    print("reply", answer[0], answer[8:] == b"x" * size)
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize(
    ("host", "said", "name"),
    [
        (V4, "No route to host", "icmp"),
        (V6, "Permission denied", "icmp6"),
        ("127.0.0.1", "reply 0 True", ""),
        ("::1", "reply 129 True", ""),
    ],
)
def test_a_ping_is_refused_and_never_answered_but_by_the_sandbox_itself(
    box: Machine, host: str, said: str, name: str
) -> None:
    assert python(box, PING, host) == said
    assert tried(box) == ([(name, None, host, None, None)] if name else [])


def test_names_are_printable_whatever_they_are_made_of(box: Machine) -> None:
    program = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(("198.18.0.53", 53))
sock.send(bytes.fromhex("000101000001000000000000") + b"\\6\\x1b[2J.\\xff\\1A\\0" + bytes.fromhex("00010001"))
sock.recv(500)
"""
    python(box, program)
    assert tried(box)[0][1] == r"\027\091\050j\046\255.a".replace("\\050", "2")


def test_nonsense_to_the_resolver_gets_no_answer_and_harms_nobody(box: Machine) -> None:
    program = """
import os, socket
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for size in (0, 1, 11, 12, 17, 500, 4096, 9000):
    udp.sendto(os.urandom(size), ("198.18.0.53", 53))
for data in (b"\\xff\\xff" + b"x" * 100, b"\\0\\5hello", b""):
    tcp = socket.create_connection(("198.18.0.53", 53), 30)
    tcp.send(data)
    tcp.shutdown(socket.SHUT_WR)
    assert tcp.recv(1) == b""
idle = [socket.create_connection(("198.18.0.53", 53), 30) for _ in range(100)]
"""
    assert python(box, program) == ""
    assert python(box, DNS_BY_TCP) == "True True 3"
    assert box.run("getent", "hosts", "after.example.org").returncode == 2


def test_of_a_flood_the_first_are_kept_and_the_others_counted(box: Machine) -> None:
    program = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(int(sys.argv[1])):
    sock.sendto(b"x", ("192.0.2.1", 1 + number % 60000))
"""
    count = 3 * MOST
    python(box, program, str(count))
    found = box.provider.attempts(box.handle)
    assert len(found) <= MOST
    assert len(found) + found.lost == count
    assert found[0].port == 1
    assert python(box, DNS_BY_TCP) == "True True 3"  # and it is answered still


def test_a_new_life_has_tried_nothing_and_the_last_one_is_remembered(box: Machine) -> None:
    provider = box.provider
    clean = provider.snapshot(box.handle)
    python(box, TRY, "tcp", V4, "1")
    provider.reset(box.handle, clean)
    assert tried(box) == []
    python(box, TRY, "tcp", V4, "2")
    provider.stop(box.handle, grace=0.1)
    assert [each[3] for each in tried(box)] == [2]
    provider.start(box.handle)
    assert tried(box) == []


def test_neighbours_hear_nothing_of_each_other(provider: NamespacesProvider, box: Machine) -> None:
    other = Machine(provider, provider.create(ProviderSpec("other")))
    provider.start(other.handle)
    python(box, TRY, "tcp", V4, "1")
    assert tried(other) == []
    provider.delete(other.handle)


@pytest.fixture
def lonely() -> Iterator[Machine]:
    """With an engine of its own, of which a part may die."""
    provider = NamespacesProvider()
    machine = Machine(provider, provider.create(ProviderSpec("lonely")))
    provider.start(machine.handle)
    yield machine
    provider.close()


def test_without_the_network_process_all_is_refused_and_no_new_sandbox_is_made(lonely: Machine) -> None:
    provider = lonely.provider
    assert isinstance(provider, NamespacesProvider)
    assert provider._engine is not None
    pidfd = os.pidfd_open(provider._engine.found["network_process"])
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    dead = select.poll()
    dead.register(pidfd, select.POLLIN)
    assert dead.poll(60_000)
    os.close(pidfd)
    assert python(lonely, TRY, "tcp", V4, "443") == "ECONNREFUSED"
    assert python(lonely, TRY, "udp", "198.18.0.53", "53") == "ECONNREFUSED"
    assert lonely.run("getent", "hosts", "example.org").returncode == 2
    with pytest.raises(ProviderError, match="network process"):
        lonely.provider.attempts(lonely.handle)
    handle = lonely.provider.create(ProviderSpec("next"))
    with pytest.raises(ProviderUnavailable, match="network process"):
        lonely.provider.start(handle)


def test_attempts_are_plain_data(box: Machine) -> None:
    python(box, TRY, "tcp", V4, "443")
    (found,) = box.provider.attempts(box.handle)
    assert found == Attempt(found.time, "tcp", None, V4, 443, None, "refused")
