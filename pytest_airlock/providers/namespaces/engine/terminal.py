"""A command on a terminal: a pty of the sandbox's own devpts, and a worker inside that copies between it and the client's pipes.

No terminal of the host goes in, and no descriptor made inside comes out. See pty(7), ioctl_tty(2).
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import _socket

    from .agent import Agent
    from .protocol import Request

__all__ = ["start"]

# asm-generic/ioctls.h; the standard library names only the second.
_TIOCGPTN, _TIOCSWINSZ, _TIOCSPTLCK = 0x80045430, 0x5414, 0x40045431
_SIZE = struct.Struct("=HH")
_CHUNK = 16 * 1024


def start(agent: Agent, request: Request, channel: _socket.socket, fds: list[int]) -> None:
    """Run a command on a new terminal of rows and columns `request.payload`; `fds` are the pipes input, output, sizes."""
    with agent.become(request.uid, request.gid):  # whose the terminal is, is decided when it is opened
        master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("=i", 0))
        _resize(master, request.payload)
        (number,) = struct.unpack("=i", fcntl.ioctl(master, _TIOCGPTN, bytes(4)))
        # The first that the leader of a new session opens becomes its controlling terminal.
        terminal = (os.POSIX_SPAWN_OPEN, 0, b"/dev/pts/%d" % number, os.O_RDWR, 0)
        actions = [terminal, (os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, 0, 2)]
        if agent.execute(request, channel, actions):
            _fork_worker(agent, master, fds)
    finally:
        os.close(master)


def _fork_worker(agent: Agent, master: int, fds: list[int]) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            low = 3
            for fd in sorted((master, *fds)):
                os.closerange(low, fd)
                low = fd + 1
            os.closerange(low, 1 << 20)
            copy(master, *fds)
        finally:
            os._exit(0)
    agent.workers.add(pid)


def copy(master: int, source: int, sink: int, sizes: int) -> None:
    """Until the terminal is hung up, because its session ended, or a pipe is: returning hangs up the other side."""
    typed = b""
    poll = select.poll()
    for fd in (master, source, sizes):
        poll.register(fd, select.POLLIN)
    try:
        while True:
            # A full terminal is not waited for: its program may itself wait for us to read.
            poll.modify(master, select.POLLIN | (select.POLLOUT if typed else 0))
            poll.modify(source, 0 if typed else select.POLLIN)
            for fd, events in poll.poll():
                if fd == sizes:
                    _resize(master, os.read(sizes, _SIZE.size * 64)[-_SIZE.size :])
                elif fd == master:
                    typed = _terminal(master, events, typed, sink)
                elif not events & select.POLLIN or not (typed := typed or os.read(source, _CHUNK)):
                    return
    except OSError as error:
        if error.errno not in (errno.EIO, errno.EPIPE):
            raise


def _terminal(master: int, events: int, typed: bytes, sink: int) -> bytes:
    """Move what the terminal lets through; returns what is still to be typed. OSError(EIO) when it is hung up."""
    try:
        if events & select.POLLOUT and typed:
            typed = typed[os.write(master, typed) :]
        view = memoryview(os.read(master, _CHUNK))
    except BlockingIOError:
        return typed
    while view:
        view = view[os.write(sink, view) :]
    return typed


def _resize(master: int, size: bytes) -> None:
    if len(size) < _SIZE.size:
        raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))
    rows, columns = _SIZE.unpack(size)
    fcntl.ioctl(master, _TIOCSWINSZ, struct.pack("=4H", rows, columns, 0, 0))
