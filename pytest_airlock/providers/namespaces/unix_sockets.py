"""Connections to unix sockets inside, by their path."""

from __future__ import annotations

import errno
import os
import socket
from typing import Literal

from pytest_airlock.errors import ProviderError
from pytest_airlock.providers.namespaces.engine import protocol
from pytest_airlock.providers.namespaces.engine.protocol import Request
from pytest_airlock.providers.namespaces.process import Life

__all__ = ["connect_path"]

_KINDS = {"stream": socket.SOCK_STREAM, "datagram": socket.SOCK_DGRAM, "packet": socket.SOCK_SEQPACKET}
_LONGEST = 107  # sockaddr_un of unix(7), with the final NUL
_GRACE = 10.0


def connect_path(
    life: Life, path: str, kind: Literal["stream", "datagram", "packet"], timeout: float | None
) -> socket.socket:
    """A socket of ours, which a worker inside connects: links and mounts are those of the sandbox, and no descriptor comes out.

    Raises as connect(2) does, with `filename`; TimeoutError; ValueError for what is no absolute path.
    """
    name = os.fsencode(path)
    # One that begins with a NUL is of the name space in which the socket was made: this host's.
    if not name.startswith(b"/") or b"\0" in name:
        raise ValueError(f"{path!r} is no absolute path")
    if len(name) > _LONGEST:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
    sock = socket.socket(socket.AF_UNIX, _KINDS[kind])
    try:
        if timeout is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, protocol.timeval(timeout))
        _connect(life, sock, name, path, 0.0 if timeout is None else timeout + _GRACE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, protocol.timeval(0))
        sock.settimeout(timeout)
    except BaseException:
        sock.close()
        raise
    return sock


def _connect(life: Life, sock: socket.socket, name: bytes, path: str, patience: float) -> None:
    channel = life.ask(Request(protocol.CONNECT, payload=name), (sock.fileno(),), patience=patience)
    try:
        reply = life.receive(channel)
        if reply.kind == protocol.STARTED:
            reply = life.receive(channel)
    finally:
        channel.close()
    if reply.kind == protocol.FAILED:
        raise OSError(reply.value, os.strerror(reply.value), path)
    if reply.kind != protocol.EXITED or os.WIFSIGNALED(reply.value):
        raise ProviderError("namespaces", "connect", "the worker inside was killed", hint="try again")
    code = os.waitstatus_to_exitcode(reply.value)
    if code == errno.EAGAIN:
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), path)
    if code:
        raise OSError(code, os.strerror(code), path)
