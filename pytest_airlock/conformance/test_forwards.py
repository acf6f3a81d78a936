"""Contract 38-40 and 42: the way in to what listens inside."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from pytest_airlock.conformance.machine import PATIENCE, Machine, line
from pytest_airlock.errors import SandboxDied

PORT = 8080
HERE = ("127.0.0.1", PORT)
SERVE = """
import socket, sys
kind = sys.argv[1]
server = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
server.bind(("127.0.0.1", int(sys.argv[2])))
if kind == "tcp":
    server.listen()
print("ready", flush=True)
while True:
    if kind == "udp":
        data, sender = server.recvfrom(100)
        server.sendto(data.upper(), sender)
        continue
    client, _ = server.accept()
    while data := client.recv(1 << 16):
        client.sendall(data.upper())
    client.close()
"""


@contextmanager
def serving(box: Machine, kind: str = "tcp") -> Iterator[Any]:
    """An echo in capitals, inside."""
    try:
        context = box.process("python3", "-c", SERVE, kind, str(PORT))
        with context as process:
            assert line(process) == b"ready\n"
            yield process
            with suppress(SandboxDied):  # by a reset, and this process with it
                process.kill_tree()
    except FileNotFoundError:
        pytest.skip("the image has no python3 with which to serve")


def asked(sock: socket.socket, text: bytes = b"hello") -> bytes:
    sock.settimeout(PATIENCE)
    sock.send(text)
    return sock.recv(100)


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_c38_a_connection_to_what_listens_inside(box: Machine, forwards: Any, kind: str) -> None:
    with serving(box, kind), forwards.connect(box.handle, HERE, kind, timeout=PATIENCE) as sock:
        assert asked(sock) == b"HELLO"


def test_c38_where_nobody_listens_it_is_refused(box: Machine, forwards: Any) -> None:
    with pytest.raises(ConnectionRefusedError):
        forwards.connect(box.handle, HERE, "tcp", timeout=PATIENCE)


def test_c39_a_port_of_this_host_leads_there(box: Machine, forwards: Any) -> None:
    with serving(box):
        port = forwards.forward(box.handle, HERE)
        for text in (b"one", b"two"):
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
                assert asked(sock, text) == text.upper()


def test_c39_what_ends_is_carried_over(box: Machine, forwards: Any) -> None:
    data = b"x" * (3 << 20)
    with serving(box):
        port = forwards.forward(box.handle, HERE)
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            got = b""
            for at in range(0, len(data), 1 << 16):
                sock.sendall(data[at : at + (1 << 16)])
                got += sock.recv(1 << 16)
            sock.shutdown(socket.SHUT_WR)
            while more := sock.recv(1 << 20):
                got += more
    assert got == data.upper()


def test_c39_it_ends_when_asked_to_and_twice_is_no_error(box: Machine, forwards: Any) -> None:
    with serving(box):
        port = forwards.forward(box.handle, HERE)
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            assert asked(sock) == b"HELLO"
            forwards.end_forward(box.handle, port)
            forwards.end_forward(box.handle, port)
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), PATIENCE)


def test_c39_it_ends_with_a_reset(box: Machine, forwards: Any, resets: Any, snapshots: Any) -> None:
    clean = snapshots.snapshot(box.handle)
    with serving(box):
        port = forwards.forward(box.handle, HERE)
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            assert asked(sock) == b"HELLO"
            resets.reset(box.handle, clean)
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), PATIENCE)


def test_c39_where_nobody_listens_the_connection_is_reset(box: Machine, forwards: Any) -> None:
    port = forwards.forward(box.handle, HERE)
    with pytest.raises(ConnectionResetError), socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.recv(1)


def test_c40_who_listens_is_told_and_does_not_notice(box: Machine, forwards: Any) -> None:
    assert not forwards.listening(box.handle, PORT)
    with serving(box):
        assert forwards.listening(box.handle, PORT)
        assert not forwards.listening(box.handle, PORT + 1)
        with forwards.connect(box.handle, HERE, "tcp", timeout=PATIENCE) as sock:
            assert asked(sock) == b"HELLO"  # the first whom it accepts


UNIX = """
import os, socket, sys
path, kind = sys.argv[1], getattr(socket, sys.argv[2])
sock = socket.socket(socket.AF_UNIX, kind)
sock.bind(path)
if kind != socket.SOCK_DGRAM:
    sock.listen(1)
print("ready", flush=True)
if kind == socket.SOCK_DGRAM:
    print(sock.recv(100).decode().upper(), flush=True)
else:
    client, _ = sock.accept()
    client.sendall(client.recv(100).upper())
"""
KINDS = {"stream": "SOCK_STREAM", "packet": "SOCK_SEQPACKET", "datagram": "SOCK_DGRAM"}


@pytest.mark.parametrize("kind", KINDS)
def test_c42_a_connection_to_a_unix_socket_inside(box: Machine, forwards: Any, kind: str) -> None:
    try:
        context = box.process("python3", "-c", UNIX, "/run/echo", KINDS[kind])
        with context as process:
            assert line(process) == b"ready\n"
            with forwards.connect_path(box.handle, "/run/echo", kind, timeout=PATIENCE) as sock:
                if kind == "datagram":
                    sock.send(b"hello")
                    assert line(process) == b"HELLO\n"
                else:
                    assert asked(sock) == b"HELLO"
    except FileNotFoundError as error:
        if error.filename != "python3":
            raise
        pytest.skip("the image has no python3 that could listen")


def test_c42_where_there_is_no_socket_the_path_is_told(box: Machine, forwards: Any) -> None:
    for path, error in (("/run/none", FileNotFoundError), ("/etc/passwd", ConnectionRefusedError)):
        with pytest.raises(error) as caught:
            forwards.connect_path(box.handle, path, "stream", timeout=PATIENCE)
        assert caught.value.filename == path


@pytest.mark.parametrize("path", ["run/echo", "\0abstract", "/run/\0x", ""])
def test_c42_only_paths_lead_inside(box: Machine, forwards: Any, path: str) -> None:
    with pytest.raises(ValueError, match="no absolute path"):
        forwards.connect_path(box.handle, path, "stream", timeout=PATIENCE)
