"""What the network of a sandbox takes: a refused try, the record of many, ways in, and what goes through them."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

from measure import Case, Group
from subject import SPEC
from timing import timed

from pytest_airlock import Sandbox
from pytest_airlock.orchestrator import AirlockSession
from pytest_airlock.providers.base import ProviderSpec
from pytest_airlock.providers.namespaces import NamespacesProvider

REFUSED, ATTEMPTS, RATE = "refused connect inside", "attempts, 1,000 of them", "attempts a second without loss"
PLAIN_BYTE, CONNECT_BYTE, FORWARD_BYTE = "loopback: connect, 1 byte", "connect(), 1 byte", "forward: connect, 1 byte"
PLAIN_MB, FORWARD_MB = "loopback, each MB", "forward, each MB"
ALLOWED_BYTE, ALLOWED_MB = "allowed name: connect, 1 byte", "allowed name, each MB"
LOCK, CUT = "lock()", "lock(): a connection inside is cut"
OWN_NETWORK, SHARED_NETWORK = "a sandbox and its end, network of its own", "a sandbox and its end, network of the host"
PORT, MEGABYTES, TRIES = 8080, 64, 1000
#: Tries a second that are looked at, least first, and for how long, in seconds.
RATES, LONG = (1000, 2000, 5000, 10_000, 20_000, 40_000), 0.2
NAME = "api.example.com"

Connect = Callable[[], socket.socket]

#: Sends one byte to who comes, and when that sends one back, what was asked for.
SERVER = f"""
import contextlib, socket, threading
server = socket.create_server(("127.0.0.1", {{port}}))
print(server.getsockname()[1], flush=True)
block = bytes(1 << 20)
def serve(client):
    with client, contextlib.suppress(ConnectionError):
        client.sendall(b"x")
        if client.recv(1):
            for _ in range({MEGABYTES}):
                client.sendall(block)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
CONNECTS = f"""
import socket, time
start = time.perf_counter()
for number in range({TRIES}):
    sock = socket.socket()
    sock.connect_ex(("192.0.2.1", 443))
    sock.close()
print((time.perf_counter() - start) / {TRIES})
"""


#: Tries at a fixed rate: how many, and seconds between two.
PACED = """
import socket, sys, time
count, pause = int(sys.argv[1]), float(sys.argv[2])
due = time.perf_counter()
for number in range(count):
    while time.perf_counter() < due:
        pass
    sock = socket.socket()
    sock.connect_ex(("192.0.2.1", 443))
    sock.close()
    due += pause
"""
#: The same as byte() and megabytes(), from inside: name and port of the server, and how often or how much.
BYTES = """
import socket, sys, time
host, port, count = socket.gethostbyname(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
start = time.perf_counter()
for number in range(count):
    with socket.create_connection((host, port)) as sock:
        sock.recv(1)
print((time.perf_counter() - start) / count)
"""
LOADS = """
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as sock:
    sock.recv(1)
    start = time.perf_counter()
    sock.send(b"x")
    left = int(sys.argv[3]) << 20
    while left:
        left -= len(sock.recv(1 << 20))
    print((time.perf_counter() - start) / int(sys.argv[3]))
"""
#: Holds a connection, and tells when it is cut: the clock is the machine's.
HOLDS = """
import socket, sys, time
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
sock.recv(1)
print("connected", flush=True)
try:
    sock.recv(1)
except ConnectionResetError:
    print(time.monotonic())
"""


@contextmanager
def groups(session: AirlockSession) -> Iterator[list[Group]]:
    """Cases beside the same over the host's own loopback device, with the same server."""
    box = session.create_named(SPEC, "network")
    inside = box.popen(["python3", "-c", SERVER.format(port=PORT)])
    box.wait_for_port(PORT, timeout=60)
    argv = [sys.executable, "-c", SERVER.format(port=0)]
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    with server as outside, box.forward(PORT) as forward, lives() as own:
        assert outside.stdout is not None
        here = ("127.0.0.1", int(outside.stdout.readline()))
        plain: Connect = lambda: socket.create_connection(here)  # noqa: E731
        through: Connect = lambda: socket.create_connection(forward.address)  # noqa: E731
        allowed = Allowed(session, here)
        try:
            yield [
                Group(
                    {
                        PLAIN_BYTE: byte(plain),
                        CONNECT_BYTE: byte(lambda: box.connect(PORT)),
                        FORWARD_BYTE: byte(through),
                    }
                ),
                Group({PLAIN_MB: megabytes(plain), FORWARD_MB: megabytes(through)}, every=2),
                Group(
                    {ALLOWED_BYTE: lambda: allowed.run(BYTES, 50), ALLOWED_MB: lambda: allowed.run(LOADS, MEGABYTES)}
                ),
                Group({LOCK: allowed.lock, CUT: allowed.cut}),
                own,
                Group({RATE: Rate(session)}, every=4),
                Group({REFUSED: lambda: float(box.run(["python3", "-c", CONNECTS]).stdout)}, every=2),
                Group({ATTEMPTS: Attempts(session)}, every=2),
            ]
        finally:
            outside.kill()
            inside.kill()
            inside.wait()


def byte(connect: Connect) -> Case:
    """Until the first byte of the other end is here."""

    def once() -> float:
        start = time.perf_counter()
        with connect() as sock:
            sock.recv(1)
            return time.perf_counter() - start

    return once


def megabytes(connect: Connect) -> Case:
    """Seconds for each of many."""

    def once() -> float:
        with connect() as sock:
            sock.recv(1)
            start = time.perf_counter()
            sock.send(b"x")
            left = MEGABYTES << 20
            while left:
                left -= len(sock.recv(1 << 20))
            return (time.perf_counter() - start) / MEGABYTES

    return once


@contextmanager
def lives() -> Iterator[Group]:
    """A sandbox and its end, with a network of its own and without one: with the host's, whose name servers are not asked."""
    provider = NamespacesProvider()
    numbers = itertools.count()

    def life(*, shares_network: bool) -> float:
        def once() -> None:
            handle = provider.create(ProviderSpec(f"life-{next(numbers)}", shares_network=shares_network))
            provider.start(handle)
            provider.delete(handle)

        return timed(once)

    with patch.object(NamespacesProvider, "_share_resolvers"):
        try:
            yield Group(
                {OWN_NETWORK: lambda: life(shares_network=False), SHARED_NETWORK: lambda: life(shares_network=True)}
            )
        finally:
            provider.close()


class Allowed:
    """A sandbox in which a name leads to a server out here."""

    def __init__(self, session: AirlockSession, server: tuple[str, int]) -> None:
        self._box: Sandbox = session.create_named(SPEC, "allowed")
        self._server = server

    def _open(self) -> None:
        self._box.network.route(f"{NAME}:{PORT}", to=self._server)

    def run(self, program: str, count: int) -> float:
        self._open()
        return float(self._box.run(["python3", "-c", program, NAME, str(PORT), str(count)], check=True).stdout)

    def lock(self) -> float:
        """Of a sandbox that is open; nothing is connected."""
        self._open()
        return timed(self._box.network.lock)

    def cut(self) -> float:
        """Until a program inside sees that its connection is reset."""
        self._open()
        with self._box.popen(["python3", "-c", HOLDS, NAME, str(PORT)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "connected\n"
            start = time.monotonic()
            self._box.network.lock()
            return float(process.stdout.readline()) - start


class Rate:
    """The highest of RATES at which no try is lost; 0 if even the lowest is too much."""

    def __init__(self, session: AirlockSession) -> None:
        self._box: Sandbox = session.create_named(SPEC, "rate")

    def __call__(self) -> float:
        best = 0
        for rate in RATES:
            self._box.reset()
            self._box.run(["python3", "-c", PACED, str(int(rate * LONG)), str(1 / rate)], check=True)
            if self._box.network.attempts.lost:
                break
            best = rate
        return float(best)


class Attempts:
    """The list of a fresh sandbox that tried as often, no faster than is recorded; fails if one is missing."""

    def __init__(self, session: AirlockSession) -> None:
        self._box: Sandbox = session.create_named(SPEC, "tries")

    def __call__(self) -> float:
        self._box.reset()
        self._box.run(["python3", "-c", PACED, str(TRIES), str(1 / RATES[0])], check=True)
        found = self._box.network.attempts
        if len(found) != TRIES:
            raise RuntimeError(f"{len(found)} tries were kept and {found.lost} lost, not {TRIES:,} kept")
        return timed(lambda: self._box.network.attempts)
