"""Visitors of a sandbox: channels beside the owner's on which PID 1 takes orders, see door.py.

A visitor is of the owner's user, but the owner's world does not depend on it: it commands what it started and nothing else, what
it sends wrongly ends its visit, and what it started ends with it.
"""

from __future__ import annotations

import _socket
import os
import select
import struct
from typing import TYPE_CHECKING

from . import protocol
from .protocol import Request

if TYPE_CHECKING:
    from .agent import Agent

__all__ = ["Visitors"]

MOST = 32


class Visitors:
    """`door` is where the fork server hands channels in."""

    def __init__(self, agent: Agent, door: _socket.socket, poll: select.poll) -> None:
        self.agent, self.door, self.poll = agent, door, poll
        self.channels: dict[int, _socket.socket] = {}
        self.started: dict[int, int] = {}  # pid of a command to the channel it was asked for on
        poll.register(door.fileno(), select.POLLIN)

    def __contains__(self, fd: int) -> bool:
        return fd == self.door.fileno() or fd in self.channels

    def ready(self, fd: int) -> None:
        if fd == self.door.fileno():
            self._welcome()
            return
        try:
            data, fds = protocol.receive(self.channels[fd])
            try:
                if data is None or not self._serve(fd, Request.unpack(data), fds):
                    self._leave(fd)
            finally:
                for received in fds:
                    os.close(received)
        except (OSError, ValueError, IndexError, struct.error):
            self._leave(fd)

    def reaped(self, pid: int) -> None:
        self.started.pop(pid, None)

    def _welcome(self) -> None:
        data, fds = protocol.receive(self.door)
        if data is None:
            self.poll.unregister(self.door.fileno())  # the fork server is at its end, and we are next
            return
        channel = _socket.socket(fileno=fds[0])
        word = protocol.READY if len(self.channels) < MOST else protocol.BROKEN
        try:
            channel.send(word, _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL)
        except OSError:
            word = protocol.BROKEN  # it is gone again
        if word == protocol.BROKEN:
            channel.close()
            return
        self.channels[channel.fileno()] = channel
        self.poll.register(channel.fileno(), select.POLLIN)

    def _serve(self, fd: int, request: Request, fds: list[int]) -> bool:
        """False for what no visitor may ask."""
        own = request.op == protocol.SIGNAL and self.started.get(abs(request.target)) == fd
        if not (own or request.op in (protocol.EXEC, protocol.TERMINAL)):
            return request.op == protocol.SIGNAL  # its command has ended meanwhile: no fault of the visitor's
        before = set(self.agent.running)
        self.agent.handle(request, _socket.socket(fileno=fds.pop(0)), fds)
        self.started.update(dict.fromkeys(set(self.agent.running) - before, fd))
        return True

    def _leave(self, fd: int) -> None:
        self.poll.unregister(fd)
        self.channels.pop(fd).close()
        for pid in [pid for pid, by in self.started.items() if by == fd]:
            del self.started[pid]
            try:
                os.kill(-pid, 9)
            except ProcessLookupError:
                continue
