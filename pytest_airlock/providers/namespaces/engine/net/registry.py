"""Where the network process is told of lives: by each child before it is ready, and by the fork server when one is dead."""

from __future__ import annotations

import _socket
import os
import select
import signal
import struct
from collections.abc import Sequence

from .. import protocol

__all__ = ["BORN", "GONE", "KIND_BORN", "KIND_GONE", "KIND_GUEST", "KIND_HOPPER", "Registry", "born"]

KIND_BORN, KIND_GONE, KIND_HOPPER, KIND_GUEST = b"b", b"g", b"h", b"v"
_PATIENCE_MS = 300
#: Kind, number of the life, whether tries are recorded; the sockets come along.
BORN = struct.Struct("=cQ?")
#: Kind, number of the life: of one that is gone, or that a guest may steer, whose channel comes along.
GONE = struct.Struct("=cQ")


class Registry:
    """The fork server's end, which children inherit until they have told of themselves."""

    def __init__(self, sock: _socket.socket, pid: int) -> None:
        self.sock, self.pid = sock, pid
        self._untold: list[int] = []

    def hand_over_hopper(self, channel: _socket.socket) -> None:
        """From now on the network process can have sockets made in sandboxes' networks. Raises OSError if it is gone."""
        protocol.send(self.sock, KIND_HOPPER, (channel.fileno(),), _socket.MSG_DONTWAIT)

    def introduce(self, life: int) -> int:
        """A channel on which a guest may set the policy of a life. Raises OSError; never waits."""
        near, far = protocol.channel()
        try:
            protocol.send(self.sock, GONE.pack(KIND_GUEST, life), (far.fileno(),), _socket.MSG_DONTWAIT)
        except OSError:
            near.close()
            raise
        finally:
            far.close()
        return near.detach()

    def close(self) -> None:
        """Let the network process end; it is dead when this returns, and killed if it takes too long."""
        self.sock.close()
        pidfd = os.pidfd_open(self.pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(_PATIENCE_MS):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(pidfd)

    def gone(self, life: int) -> None:
        """A life is dead. Told later if there is no room now."""
        self._untold.append(life)
        self.tell()

    def tell(self) -> None:
        """Never waits: one that was stopped must not stop the fork server."""
        while self._untold:
            try:
                protocol.send(self.sock, GONE.pack(KIND_GONE, self._untold[0]), (), _socket.MSG_DONTWAIT)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it is gone, and all its sockets with it
            except OSError:
                return  # no room: later
            del self._untold[0]


def born(sock: _socket.socket, life: int, sockets: Sequence[_socket.socket], *, recorded: bool) -> None:
    """Hand over the sockets of a network. Raises OSError if the network process is gone."""
    protocol.send(sock, BORN.pack(KIND_BORN, life, recorded), tuple(sock.fileno() for sock in sockets))
