"""A client for served names: real connections to where a route leads, as the engine makes them."""

from __future__ import annotations

import os
import socket
import ssl
import threading

#: What `network.route(socket)` and a client wait for at most; nothing is measured by it.
PATIENCE = 60


def connect(served, *, name=None):
    """A connection that is open; with TLS for `name` if there is one."""
    sock = socket.create_connection(served.to, PATIENCE)
    return sock if name is None else trusting().wrap_socket(sock, server_hostname=name)


def trusting():
    """Of a client that trusts our authority and no other."""
    from pytest_airlock.sandbox.fakes.authority import authority

    return ssl.create_default_context(cadata=authority().pem.decode())


def everything(sock):
    """What comes until the other side ends or resets the connection."""
    received = b""
    try:
        while data := sock.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def ask(served, raw, *, name=None):
    """The whole answer to what is sent, which should have the connection closed."""
    with connect(served, name=name) as sock:
        sock.sendall(raw)
        return everything(sock)


def request(target="/", *, method="GET", host="api.example.com", body=b"", **headers):
    """A request after which the connection ends."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close"]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{key.replace('_', '-')}: {text}" for key, text in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def body_of(answer):
    return answer.partition(b"\r\n\r\n")[2]


def status_of(answer):
    return int(answer.split(b" ", 2)[1])


def threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("airlock-")}


def sockets():
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:
            continue  # the one of the listing itself
        if target.startswith(("socket:", "anon_inode:[eventpoll]")):
            found.add(target)
    return found
