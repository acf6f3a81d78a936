"""Servers of a test on this machine's loopback device, and programs inside that speak to them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from pytest_airlock.conformance.machine import PATIENCE, Machine

#: Connects, sends what it is told, and prints what came until the end, or how it failed and after how much.
DIAL = """
import errno, socket, sys
host, port, words = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
got = b""
try:
    sock = socket.create_connection((host, port), 60)
    for word in words:
        sock.sendall(word.encode())
    if words:
        sock.shutdown(socket.SHUT_WR)
    while data := sock.recv(65536):
        got += data
    print(got.decode() if len(got) < 1000 else len(got))
except socket.gaierror as error:
    print("EAI", error.errno)
except OSError as error:
    print(errno.errorcode.get(error.errno, error), len(got))
"""
#: Connects, says so, and prints how it ended.
HOLD = """
import errno, socket, sys
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)
sock.settimeout(None)
print(sock.recv(5).decode(), flush=True)
try:
    print("data" if sock.recv(1) else "end", flush=True)
except OSError as error:
    print(errno.errorcode[error.errno], flush=True)
"""


def python(box: Machine, program: str, *words: object) -> str:
    done = box.run("python3", "-c", program, *map(str, words))
    assert done.returncode == 0, done.err
    return done.out.decode().strip()


def dial(box: Machine, host: str, port: int, *words: str) -> str:
    return python(box, DIAL, host, port, *words)


class Server:
    """Listens on the loopback device and has `talk` deal with each connection in a thread; `taken` counts them."""

    def __init__(self, talk: Callable[[socket.socket], None], host: str = "127.0.0.1") -> None:
        self._talk = talk
        self._sock = socket.create_server(
            (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024
        )
        self.address: tuple[str, int] = self._sock.getsockname()[:2]
        self.port = self.address[1]
        self.taken = 0
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return
            self.taken += 1
            self._open.add(sock)
            threading.Thread(target=self._deal, args=(sock,), daemon=True).start()

    def _deal(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        with sock, contextlib.suppress(OSError):
            self._talk(sock)
        self._open.discard(sock)

    def close(self) -> None:
        for sock in (self._sock, *list(self._open)):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


def greet(sock: socket.socket) -> None:
    """Speaks first."""
    sock.sendall(b"hello")


def hold(sock: socket.socket) -> None:
    """Speaks first, and stays until the other end is gone."""
    sock.sendall(b"hello")
    sock.recv(1)


def echo(sock: socket.socket) -> None:
    """Says it again, until the other end has ended."""
    while data := sock.recv(65_536):
        sock.sendall(data)


@contextlib.contextmanager
def serving(talk: Callable[[socket.socket], None] = greet, host: str = "127.0.0.1") -> Iterator[Server]:
    server = Server(talk, host)
    try:
        yield server
    finally:
        server.close()


def own_name() -> str:
    """The name of this machine, if it leads to its loopback device: there is no other one that is sure to be found."""
    name = socket.gethostname().lower()
    try:
        found = {each[4][0] for each in socket.getaddrinfo(name, None, socket.AF_INET)}
    except OSError:
        found = set()
    if not found or not all(str(address).startswith("127.") for address in found):
        pytest.skip("this machine's own name does not lead to its loopback device")
    return name
