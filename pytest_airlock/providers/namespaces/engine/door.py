"""The door of the fork server: a unix socket on which other processes of the same user ask to visit a sandbox.

    visitor                        server                        PID 1
      │ {"visit": 7} ───────────────> │ same user, and no sandbox?   │
      │                               │ end of a new channel ──────> │ one more to take orders from (visitors.py)
      │ <── other end, pidfd, facts ─ │                              │
      │ <─────────────────────────────────────────────────── READY ──│

Who asks to "steer" gets a channel to the network process instead, by which it sets the network policy of that sandbox.

Nobody outside can hold the server up: nothing here waits, a connection is good for one small request, and there are few.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import json
import os
import select
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from . import protocol

__all__ = ["Door"]

#: Connections that may be about to ask; the oldest has to go for one more.
WAITING = 8
_REQUEST = 256
KINDS = ("visit", "steer")
_COUNT = struct.Struct("=Q")


class Door:
    """`place` are descriptors: the listening socket, its directory, and a memfd in which the owner reads how many came;
    `name` is the socket's in the directory. `invite` gives the facts and descriptors that a guest of one of KINDS gets, the first of them no longer ours, or raises OSError.
    """

    def __init__(
        self, poll: select.poll, place: list[int], name: str, invite: Callable[[str, int], tuple[Any, tuple[int, ...]]]
    ) -> None:
        self.poll, self.name, self.invite = poll, name, invite
        self.listener = _socket.socket(fileno=os.dup(place[0]))
        self.listener.setblocking(False)
        self.directory, self.counter = (os.dup(fd) for fd in place[1:3])
        self.callers: OrderedDict[int, _socket.socket] = OrderedDict()
        self.visits = 0
        poll.register(self.listener.fileno(), select.POLLIN)

    def __contains__(self, fd: int) -> bool:
        return fd == self.listener.fileno() or fd in self.callers

    def ready(self, fd: int) -> None:
        if fd == self.listener.fileno():
            self._accept()
        elif fd in self.callers:
            sock = self.callers[fd]
            try:
                self._hear(sock)
            except OSError:
                pass  # it hung up, or does not read: nobody is left to be told
            finally:
                self._drop(fd)

    def close(self) -> None:
        """The name goes with the server, however its owner ended."""
        for fd in list(self.callers):
            self._drop(fd)
        self.listener.close()
        with contextlib.suppress(OSError):  # removed by the owner, or with its directory
            os.unlink(self.name, dir_fd=self.directory)

    def _accept(self) -> None:
        try:
            fd, _ = self.listener._accept()  # type: ignore[attr-defined]
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ECONNABORTED, errno.EINTR):
                return
            # Out of descriptors: the connection would stay, and poll would never sleep again.
            self.poll.unregister(self.listener.fileno())
            return
        sock = _socket.socket(fileno=fd)
        sock.setblocking(False)
        if len(self.callers) == WAITING:
            self._drop(next(iter(self.callers)))
        self.callers[fd] = sock
        self.poll.register(fd, select.POLLIN)

    def _drop(self, fd: int) -> None:
        self.poll.unregister(fd)
        self.callers.pop(fd).close()

    def _hear(self, sock: _socket.socket) -> None:
        data = sock.recv(_REQUEST + 1)
        asked = _asked(data)
        refusal = "request" if asked is None else _refusal(sock)
        if asked is None or refusal:
            protocol.send_json(sock, {"refused": refusal})
            return
        try:
            facts, fds = self.invite(*asked)
        except OSError as error:
            protocol.send_json(sock, {"refused": "gone", "errno": error.errno})
            return
        try:
            self.visits += 1
            os.pwrite(self.counter, _COUNT.pack(self.visits), 0)
            protocol.send_json(sock, {"ok": facts}, fds)
        finally:
            os.close(fds[0])  # the channel's end; the pidfd is the server's own


def _asked(data: bytes) -> tuple[str, int] | None:
    """Kind and number in {kind: number}; None for anything else."""
    try:
        request = json.loads(data) if len(data) <= _REQUEST else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(request, dict) or len(request) != 1:
        return None
    ((kind, number),) = request.items()
    return (kind, number) if kind in KINDS and type(number) is int else None


def _refusal(sock: _socket.socket) -> str:
    """Why the caller may not come in. A process of a sandbox can have the user's own id: it is told by its name space."""
    pid, uid, _ = struct.unpack("=iII", sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12))
    if uid != os.getuid():
        return "user"
    return "" if _levels(pid) == _levels(os.getpid()) else "namespace"


def _levels(pid: int) -> int:
    """How many pid name spaces a process is in, from ours down (NSpid of proc_pid_status(5)); 0 if it is not seen."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return next((len(line.split()) for line in file if line.startswith(b"NSpid:")), 0)
    except (FileNotFoundError, ProcessLookupError):
        return 0
