"""The network name space of one sandbox, set up by its first process before anything untrusted runs.

Every address is the sandbox's own and nobody listens there: its kernel refuses TCP with a reset, UDP as unreachable. What
hears of it, and the sockets of the resolver, go to the network process (process.py), which alone holds them from then on.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import json
import os
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from .. import syscalls
from ..syscalls import StepError
from . import divert, dns, netlink, pings, recorder
from .registry import born

__all__ = ["PING_SYSCTLS", "Means", "Probe", "lead_nowhere"]

_BACKLOG = 16
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 0x1, 0x40
#: So that only the network process answers pings; the second where there is IPv6.
PING_SYSCTLS = ("ipv4/icmp_echo_ignore_all", "ipv6/icmp/echo_ignore_all")


class Means(NamedTuple):
    """What this kernel lets the network of a sandbox be, and why not ("" = it can): a step and an errno.

    `everywhere`: all addresses lead to the sandbox itself, on which the rest is built; `v6`: those of IPv6 too;
    `recorder`: what is tried is heard of; `divert`: every address and port can be led to a listener of ours.
    """

    everywhere: bool
    v6: bool
    recorder: bool
    divert: bool
    lacking: dict[str, tuple[str, int]]

    def report(self) -> dict[str, Any]:
        """What the client is told."""
        return self._asdict()


def lead_nowhere(means: Means, registry: _socket.socket, life: int) -> None:
    """Set up the name space of the calling process and hand its sockets over. Raises StepError."""
    if not means.everywhere:
        _loopback_up()
        return
    netlink.set_up(v6=means.v6)
    sockets = _sockets(means)
    try:
        born(registry, life, sockets, recorded=means.recorder)
    except OSError as error:
        raise StepError(error.errno or 0, "network process") from error
    finally:
        for sock in sockets:
            sock.close()


def _sockets(means: Means) -> list[_socket.socket]:
    """Of the resolver: UDP and TCP; then, where tries are recorded, what hears them and what answers pings."""
    made = []
    kind = _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
    try:
        for flavour in (_socket.SOCK_DGRAM, _socket.SOCK_STREAM):
            made.append(_socket.socket(_socket.AF_INET, flavour | kind, 0))
            made[-1].bind((netlink.RESOLVER, dns.PORT))
        made[1].listen(_BACKLOG)
        if means.recorder:
            made.append(recorder.new())
            made.extend(pings.new(v6=means.v6))
    except OSError as error:
        for sock in made:
            sock.close()
        raise StepError(error.errno or 0, "network sockets") from error
    return made


def _loopback_up() -> None:
    """SIOCSIFFLAGS (netdevice(7))."""
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP | _IFF_RUNNING))
    sock.close()


# ---------------------------------------------------------------- what works here


class Probe:
    """Tries it in a name space of a child's own, beside what else is to be done; needs the powers sandboxes are made with."""

    def __init__(self) -> None:
        self._read, write = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.write(write, json.dumps(_try()).encode("ascii"))
            finally:
                os._exit(0)
        os.close(write)

    def result(self) -> Means:
        """Raises StepError if the child died of it."""
        try:
            said = os.read(self._read, 4096)
        finally:
            os.close(self._read)
            os.waitpid(self._pid, 0)
        if not said:
            raise StepError(errno.EIO, "network probe")
        return Means(**json.loads(said))


def _try() -> dict[str, Any]:
    lacking: dict[str, tuple[str, int]] = {}

    def works(part: str, work: Callable[[], object]) -> bool:
        try:
            work()
        except OSError as error:
            lacking[part] = getattr(error, "step", "") or f"network {part}", error.errno or 0
            return False
        return True

    syscalls.unshare(syscalls.CLONE_NEWNET)
    v6 = works("v6", lambda: netlink.set_up(v6=True))
    if not v6:
        # In a fresh one: what came before the failure is done already.
        syscalls.unshare(syscalls.CLONE_NEWNET)
    everywhere = v6 or works("everywhere", lambda: netlink.set_up(v6=False))
    made: list[_socket.socket] = []  # open until the end: to close the recorder takes milliseconds
    wanted = Means(everywhere=True, v6=v6, recorder=True, divert=False, lacking={})
    recorder_works = everywhere and works("recorder", lambda: made.extend(_sockets(wanted)))
    diverts = everywhere and works("divert", _divert)
    found = Means(everywhere=everywhere, v6=v6, recorder=recorder_works, divert=diverts, lacking=lacking)
    return found._asdict()


def _divert() -> None:
    divert.install()
    divert.new_listener(_socket.AF_INET, _socket.SOCK_STREAM).close()
