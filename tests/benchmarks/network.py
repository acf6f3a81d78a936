"""What the network of a sandbox takes: a refused try, the record of many, ways in, and what goes through them."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from measure import Case, Group
from subject import SPEC
from timing import timed

from pytest_airlock import Sandbox
from pytest_airlock.orchestrator import AirlockSession

REFUSED, ATTEMPTS = "refused connect inside", "attempts, 1,000 of them"
PLAIN_BYTE, CONNECT_BYTE, FORWARD_BYTE = "loopback: connect, 1 byte", "connect(), 1 byte", "forward: connect, 1 byte"
PLAIN_MB, FORWARD_MB = "loopback, each MB", "forward, each MB"
PORT, MEGABYTES, TRIES = 8080, 64, 1000

Connect = Callable[[], socket.socket]

#: Sends one byte to who comes, and when that sends one back, what was asked for.
SERVER = f"""
import socket, threading
server = socket.create_server(("127.0.0.1", {{port}}))
print(server.getsockname()[1], flush=True)
block = bytes(1 << 20)
def serve(client):
    with client:
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


@contextmanager
def groups(session: AirlockSession) -> Iterator[list[Group]]:
    """Cases beside the same over the host's own loopback device, with the same server."""
    box = session.create_named(SPEC, "network")
    inside = box.popen(["python3", "-c", SERVER.format(port=PORT)])
    box.wait_for_port(PORT, timeout=60)
    argv = [sys.executable, "-c", SERVER.format(port=0)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as outside, box.forward(PORT) as forward:
        assert outside.stdout is not None
        here = ("127.0.0.1", int(outside.stdout.readline()))
        plain: Connect = lambda: socket.create_connection(here)  # noqa: E731
        through: Connect = lambda: socket.create_connection(forward.address)  # noqa: E731
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


class Attempts:
    """The list of a fresh sandbox that tried as often; fails if one is missing."""

    def __init__(self, session: AirlockSession) -> None:
        self._box: Sandbox = session.create_named(SPEC, "tries")

    def __call__(self) -> float:
        self._box.reset()
        self._box.run(["python3", "-c", CONNECTS], check=True)
        found = self._box.network.attempts
        if len(found) != TRIES:
            raise RuntimeError(f"{len(found)} tries were kept and {found.lost} lost, not {TRIES:,} kept")
        return timed(lambda: self._box.network.attempts)
