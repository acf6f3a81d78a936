"""Messages between client, fork server and agent, and the channels they travel on.

    client                       server                       child / agent
      │ {"op": "start", …} ────────> │                            │
      │                              │ clone3, uid_map ─────────> │ builds its root
      │                              │ <──────── tmpfs descriptor │ (before any sandbox code runs)
      │ <── control socket, pidfd ── │                            │ pivot_root, lock-down
      │ <───────────────────────────────────────────────── READY  │
      │ Request + reply channel + stdio ────────────────────────> │ posix_spawn
      │ <────────────────────────────── STARTED pid, then EXITED  │

Every request to the agent carries a reply channel of its own, so replies need no ids and cannot be mixed up; its end of
file means that the sandbox is gone. The client reads fixed structures only from the agent, and never a descriptor.
"""

from __future__ import annotations

import _socket
import _thread
import array
import errno
import json
import os
import resource
import struct
from typing import Any, NamedTuple

__all__ = ["Reply", "Request", "channel", "receive_json", "send_json"]

MESSAGE_LIMIT = 96 * 1024  # below the smallest default of net.core.wmem_max, 212,992 bytes of kernel accounting
PAYLOAD_LIMIT = 64 * 1024 * 1024
FD_LIMIT = 8

EXEC, FILES, SIGNAL, KILL_TREE, LIST, TERMINATE, TERMINAL, CONNECT = range(1, 9)
STARTED, EXITED, FAILED, DONE, PROCESS, KILLED_ALL = range(1, 7)
NULL, PIPE, MERGE = range(3)
READY = b"R"
BROKEN = b"E"

_RAISED = _thread.allocate_lock()  # the limit is the process', its threads must not restore each other's

_REQUEST = struct.Struct("=BBHqiiiIIII")
_REPLY = struct.Struct("=IiQQQ16s")


class Request(NamedTuple):
    """One request to the agent: `op`; `value` is a signal, the grace in ms, or the birth of a command in clock ticks;
    `target` a pid that EXEC returned, negative for its process group.
    """

    op: int
    value: int = 0
    target: int = 0
    uid: int = 0
    gid: int = 0
    argv: tuple[bytes, ...] = ()
    env: tuple[bytes, ...] = ()
    cwd: bytes = b"/"
    payload: bytes = b""
    stdio: int = 0
    """Two bits for each of stdin, stdout, stderr: NULL, PIPE (the next descriptor sent along) or MERGE (as stdout)."""

    def pack(self) -> bytes:
        argv, env = b"\0".join(self.argv), b"\0".join(self.env)
        head = _REQUEST.pack(
            self.op,
            bool(self.env),
            self.stdio,
            self.value,
            self.target,
            self.uid,
            self.gid,
            len(argv),
            len(env),
            len(self.cwd),
            len(self.payload),
        )
        return b"".join((head, argv, env, self.cwd, self.payload))

    @classmethod
    def unpack(cls, data: bytes) -> Request:
        op, has_env, stdio, value, target, uid, gid, *sizes = _REQUEST.unpack_from(data)
        parts, at = [], _REQUEST.size
        for size in sizes:
            parts.append(data[at : at + size])
            at += size
        argv, env, cwd, payload = parts
        environment = tuple(env.split(b"\0")) if has_env else ()
        return cls(op, value, target, uid, gid, tuple(argv.split(b"\0")), environment, cwd, payload, stdio)


class Reply(NamedTuple):
    """One reply of the agent: times in microseconds, max_rss in bytes, `name` up to 16 bytes from inside."""

    kind: int
    value: int = 0
    user_time: int = 0
    system_time: int = 0
    max_rss: int = 0
    name: bytes = b""

    def pack(self) -> bytes:
        return _REPLY.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Reply:
        """Raises ValueError for anything that is not one reply."""
        if len(data) != _REPLY.size:
            raise ValueError(f"a reply of {len(data)} bytes")
        return cls(*_REPLY.unpack(data))


def channel() -> tuple[_socket.socket, _socket.socket]:
    """A connected pair of SOCK_SEQPACKET sockets: message borders, end of file, descriptors."""
    kind = _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC
    return _socket.socketpair(_socket.AF_UNIX, kind, 0)


def close_others(wanted: set[int]) -> None:
    """Close all descriptors of this process but these."""
    low = 0
    for fd in sorted(wanted):
        if fd > low:  # closerange(0, 0) would close all
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 1 << 20)


def timeval(seconds: float) -> bytes:
    """struct timeval of SO_RCVTIMEO (socket(7))."""
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))


def send(sock: _socket.socket, data: bytes, fds: tuple[int, ...] = (), flags: int = 0) -> None:
    """One message. What is larger than a packet may be goes through a memfd, first of the descriptors, after an empty
    marker byte.
    """
    if len(data) <= MESSAGE_LIMIT:
        _send(sock, b"\0" + data, fds, flags)
        return
    if len(data) > PAYLOAD_LIMIT:
        raise OSError(7, os.strerror(7))  # E2BIG
    memory = os.memfd_create("airlock", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(memory), "wb") as file:
            file.write(data)
        _send(sock, b"\1", (memory, *fds), flags)
    finally:
        os.close(memory)


def _send(sock: _socket.socket, data: bytes, fds: tuple[int, ...], flags: int) -> None:
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        sock.sendmsg([data], rights, flags)
    except OSError as error:
        if error.errno != errno.ETOOMANYREFS:
            raise
        # A user may have as many descriptors under way as the sender may open (unix(7)), and a sandbox that has our user's
        # id can have used that up; never more than half of our hard limit, though (limits.py).
        with _RAISED:
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit[1], limit[1]))
            try:
                sock.sendmsg([data], rights, flags)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def receive(sock: _socket.socket) -> tuple[bytes | None, list[int]]:
    """One message and its descriptors, (None, []) at end of file. Between trusted ends only."""
    data, rights, flags, _ = sock.recvmsg(MESSAGE_LIMIT + 1, _socket.CMSG_SPACE(FD_LIMIT * 4), _socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, body in rights:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds.frombytes(body[: len(body) // 4 * 4])
    received = list(fds)
    if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
        for fd in received:
            os.close(fd)
        raise OSError(90, os.strerror(90))  # EMSGSIZE
    if not data:
        return None, received
    if data[:1] == b"\0":
        return data[1:], received
    memory = received.pop(0)
    try:
        size = os.fstat(memory).st_size
        return os.pread(memory, size, 0), received
    finally:
        os.close(memory)


#: The number of an answer that is to whatever was asked: the request could not be read.
ANY = -2


def send_json(sock: _socket.socket, message: Any, fds: tuple[int, ...] = ()) -> None:
    """One JSON message between client and fork server."""
    send(sock, json.dumps(message, separators=(",", ":")).encode(), fds)


def receive_json(sock: _socket.socket) -> tuple[Any, list[int]]:
    """One JSON message between client and fork server, (None, []) at end of file."""
    data, fds = receive(sock)
    return (None if data is None else json.loads(data)), fds
