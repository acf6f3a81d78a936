"""Makes sockets in the networks of sandboxes, for the network process, which has no power to.

A process of its own, below the fork server and with its powers over sandboxes. It lives in a network that leads nowhere: an
ordinary user's process that has entered a sandbox's network could never come back to the host's (setns(2): EPERM), but it can
come back to one that is its own. It reads nothing but what the network process asks, and connects to nothing.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import struct
import sys
from collections.abc import Callable

from .. import protocol, syscalls
from . import divert, pings

__all__ = ["Hopper", "Maker", "start"]

#: What is wanted; of a socket its family, type and protocol.
_WANTED = struct.Struct("=BIII")
_SOCKET, _LISTENER, _DIVERT = range(3)
#: Of a listener: what its third word may say.
_TRANSPARENT, _DEAF = 1, 2
_REFUSED = struct.Struct("=i")
_SIOCGSKNS = 0x894C  # socket(7) has no word for it: the network name space of a socket, linux/sockios.h
_PATIENCE = 5.0
_MADE = b"s"


class Hopper:
    """The network process' end."""

    def __init__(self, sock: _socket.socket) -> None:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, protocol.timeval(_PATIENCE))
        self._sock = sock
        self.usable = True

    def ask(self, neighbour: _socket.socket, what: int, *words: int) -> _socket.socket | None:
        """Have something done in the network that `neighbour` is in. Raises OSError; `usable` says if it can be asked again."""
        if neighbour.fileno() < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))  # that life is over, which is nothing wrong here
        self.usable = False
        protocol.send(self._sock, _WANTED.pack(what, *words), (neighbour.fileno(),))
        data, fds = protocol.receive(self._sock)
        if data is None:
            raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))
        self.usable = True
        if data != _MADE:
            code = _REFUSED.unpack(data)[0]
            raise OSError(code, os.strerror(code))
        return _socket.socket(fileno=fds[0]) if fds else None


class Maker:
    """Makes sockets in one network: the one that `neighbour` is in. `hopper` gives who does it, or raises OSError(ENOTCONN).

    What it makes does not block. Every method raises OSError.
    """

    def __init__(self, hopper: Callable[[], Hopper], neighbour: _socket.socket) -> None:
        self._hopper, self._neighbour = hopper, neighbour

    def socket(self, family: int, kind: int, number: int = 0) -> _socket.socket:
        return self._made(_SOCKET, family, kind, number)

    def listener(self, family: int, kind: int, *, transparent: bool, deaf: bool = False) -> _socket.socket:
        """`transparent`: the steps of divert.py lead to it; `deaf`: it lets nobody connect, and nobody is told."""
        return self._made(_LISTENER, family, kind, transparent * _TRANSPARENT | deaf * _DEAF)

    def divert(self) -> None:
        """Have the steps of divert.py stand in this network: once."""
        self._hopper().ask(self._neighbour, _DIVERT, 0, 0, 0)

    def _made(self, what: int, *words: int) -> _socket.socket:
        made = self._hopper().ask(self._neighbour, what, *words)
        if made is None:
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
        return made


def start() -> tuple[_socket.socket, int]:
    """Fork it; the channel to it, at whose end of file it ends, and its pid."""
    near, far = protocol.channel()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 9)
            if os.getppid() == parent:
                protocol.close_others({0, 1, 2, far.fileno()})
                _serve(far)
        except Exception:  # noqa: BLE001 - nobody is above us: it goes to the log of the fork server
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(0)
    far.close()
    return near, pid


def _serve(sock: _socket.socket) -> None:
    syscalls.unshare(syscalls.CLONE_NEWNET)
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    while True:
        data, fds = protocol.receive(sock)
        if data is None:
            return
        try:
            made = _make(fds[0], home, *_WANTED.unpack(data))
        except OSError as error:
            protocol.send(sock, _REFUSED.pack(error.errno or errno.EIO))
        else:
            protocol.send(sock, _MADE, (made.fileno(),) if made is not None else ())
            if made is not None:
                made.close()
        finally:
            for fd in fds:
                os.close(fd)


def _make(neighbour: int, home: int, what: int, *words: int) -> _socket.socket | None:
    family, kind, number = words
    network = fcntl.ioctl(neighbour, _SIOCGSKNS)
    try:
        syscalls.setns(network, syscalls.CLONE_NEWNET)
        try:
            if what == _DIVERT:
                divert.install()
                return None
            if what == _LISTENER:
                made = divert.new_listener(family, kind, transparent=bool(number & _TRANSPARENT))
                if number & _DEAF:
                    pings.hear_nothing(made)  # what the kernel allows not everybody
                return made
            return _socket.socket(family, kind | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK, number)
        finally:
            syscalls.setns(home, syscalls.CLONE_NEWNET)
    finally:
        os.close(network)
