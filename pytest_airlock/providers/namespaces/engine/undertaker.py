"""A child of the fork server that lets go of what dead lives have left: the last who holds a mount name space or a tmpfs
unmounts it, and waits until every processor has noticed (synchronize_rcu_expedited of the kernel). Nobody need wait for that.
"""

from __future__ import annotations

import _socket
import os
import signal
from collections.abc import Sequence

from . import protocol, syscalls

__all__ = ["Undertaker"]


class Undertaker:
    """To be made while no sandbox lives: what it inherits it would keep."""

    def __init__(self) -> None:
        self._sock, far = protocol.channel()
        # A handful on the way: one that was stopped must not keep the files of ever more worlds in memory.
        self._sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, 4096)
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 9)
                if os.getppid() == parent:
                    _serve(far)
            finally:
                os._exit(0)
        far.close()

    def take(self, descriptors: Sequence[int]) -> None:
        """Close them, here if it has too much to do or is gone."""
        try:
            protocol.send(self._sock, b"x", tuple(descriptors), _socket.MSG_DONTWAIT)
        except OSError:
            pass  # the last to close them is this process then
        for fd in descriptors:
            os.close(fd)

    def close(self) -> None:
        """All that it was given is closed when this returns: killed, the kernel closes it."""
        self._sock.close()
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _serve(sock: _socket.socket) -> None:
    keep = sock.fileno()
    os.closerange(0, keep)
    os.closerange(keep + 1, 1 << 20)
    while True:
        data, fds = protocol.receive(sock)
        if data is None:
            return
        for fd in fds:
            os.close(fd)
