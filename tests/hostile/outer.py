"""What there is outside of a sandbox: servers of this host's own, at the address its name leads to, and how they are tried from inside."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator

import pytest
from attacker import Box

from pytest_airlock.providers.base import NetworkRule

#: The first address that a name has in a sandbox.
FIRST = "198.18.1.0"
#: Whoever listens there is listened to; the rest of it is nobody's (RFC 5737, RFC 3849).
NOBODY, NOBODY_6 = "192.0.2.53", "2001:db8::53"

#: From inside: `reached(address, first bytes)` is "reached" if they come back, "ended" if the other end has ended, else an errno;
#: `asked(name)` is the response code of the resolver, by UDP or TCP, and the address it gave.
PROBES = """
import select
def reached(target, first=b"x", family=socket.AF_INET, pieces=0, kind=socket.SOCK_STREAM, urgent=b""):
    with socket.socket(family, kind) as sock:
        sock.settimeout(30)
        try:
            sock.connect(target)
            if pieces:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if urgent:
                sock.send(urgent, socket.MSG_OOB)  # the last byte of it
            for at in range(0, len(first), pieces or len(first)):
                sock.send(first[at : at + (pieces or len(first))])
            return "reached" if sock.recv(100) else "ended"
        except TimeoutError:
            return "no answer"
        except OSError as error:
            return errno.errorcode[error.errno]

def question(name):
    labels = name if isinstance(name, list) else [label.encode() for label in name.split(".")]
    raw = b"".join(bytes([len(label)]) + label for label in labels) + b"\\0"
    return struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + raw + struct.pack(">HH", 1, 1)

def asked(name, server="198.18.0.53", tcp=False):
    query = question(name)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as sock:
            sock.settimeout(30)
            sock.connect((server, 53))
            sock.send(struct.pack(">H", len(query)) + query if tcp else query)
            answer = sock.recv(600)[2 * tcp :]
    except OSError as error:
        return errno.errorcode[error.errno], ""
    return answer[3] & 15, socket.inet_ntoa(answer[-4:]) if answer[7] else ""
"""


def own_name() -> tuple[str, str]:
    """Of this host, and an address of IPv4 that it leads to."""
    name = socket.gethostname().lower()
    try:
        address = str(socket.getaddrinfo(name, None, socket.AF_INET)[0][4][0])
    except socket.gaierror:
        pytest.skip("the name of this host leads nowhere")
    return name, address


class Server:
    """Gives back what it is sent, and keeps it: `came` has a bytearray for each connection. `deaf`: it reads nothing."""

    def __init__(self, address: str, *, deaf: bool = False) -> None:
        self.came: list[bytearray] = []
        self._deaf = deaf
        self._socket = socket.create_server((address, 0), backlog=1024)
        self.port: int = self._socket.getsockname()[1]
        self.address = address
        self._end, self._stop = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        poll, kept = select.poll(), dict[int, tuple[socket.socket, bytearray]]()
        for sock in (self._socket, self._end):
            poll.register(sock, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._end.fileno():
                    for sock, _ in kept.values():
                        sock.close()
                    return
                if fd == self._socket.fileno():
                    sock, data = self._socket.accept()[0], bytearray()
                    self.came.append(data)
                    kept[sock.fileno()] = sock, data
                    if not self._deaf:
                        poll.register(sock, select.POLLIN)
                elif not self._give_back(*kept[fd]):
                    poll.unregister(fd)
                    kept.pop(fd)[0].close()

    @staticmethod
    def _give_back(sock: socket.socket, data: bytearray) -> bool:
        try:
            more = sock.recv(65_536)
            data += more
            sock.sendall(more)
        except ConnectionError:
            return False
        return bool(more)

    def close(self) -> None:
        self._stop.close()
        self._thread.join()
        for sock in (self._socket, self._end):
            sock.close()


@contextlib.contextmanager
def serving(address: str = "127.0.0.1", *, deaf: bool = False) -> Iterator[Server]:
    server = Server(address, deaf=deaf)
    try:
        yield server
    finally:
        server.close()


def rule(box: Box, *allow: str, **words: object) -> None:
    """Put a policy in force: a list, unless another mode is named."""
    box.provider.set_network(box.handle, NetworkRule(**{"mode": "allow", "allow": allow, **words}))  # type: ignore[arg-type]


@contextlib.contextmanager
def allowed_by_name(box: Box) -> Iterator[tuple[str, Server]]:
    """The name of a server that the list of `box` names, and its address, without which it would be refused as this host's."""
    name, address = own_name()
    with serving(address) as server:
        rule(box, f"{name}:{server.port}", f"{address}:{server.port}")
        yield name, server
