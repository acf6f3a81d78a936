"""The network process: one beside each fork server. It holds the sockets of all sandboxes' networks, answers what asks there,
and remembers what was tried.

It reads bytes that hostile code wrote, so it can do as little as possible: it has no power over anything, is in none of the
sandboxes' name spaces, runs nothing, opens nothing, and every length and every number is bounded. If it dies its sockets go
with it, and every kernel refuses by itself what it would have answered.
"""

from __future__ import annotations

import _socket
import _thread
import errno
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

from .. import landlock, protocol, syscalls
from . import calls
from .forward import Forward
from .hopper import Hopper
from .loop import Loop
from .records import Records
from .registry import BORN, GONE, KIND_GONE, KIND_HOPPER
from .wire import Wire

__all__ = ["NetworkProcess", "run"]

_NOBODY = 65_534
_MEMORY = 512 << 20
_LOG = 1 << 20
_PATIENCE = 10  # seconds for the end
_STACK = 256 << 10  # bytes of each thread, which does nothing but close
#: Of dead lives: how many are remembered, and bytes of all of them.
_PAST, _PAST_SIZE = 64, 32 << 20


class NetworkProcess:
    """Answers the client's requests, one JSON object each: {"ok": …} or {"error": [step, errno, path]}."""

    def __init__(self, control: _socket.socket, registry: _socket.socket, owner: int) -> None:
        self._control, self._registry = control, registry
        self._loop = Loop()
        self._wires: dict[int, Wire] = {}
        self._past: dict[int, Records] = {}
        self._hopper: Hopper | None = None
        self._serving = True
        registry.setblocking(False)
        self._loop.watch(owner, self._stop, vital=True)
        self._loop.watch(registry.fileno(), self._register, vital=True)
        self._loop.watch(control.fileno(), self._answer, vital=True)

    def serve(self) -> None:
        """Until the client or the fork server is gone."""
        while self._serving:
            self._loop.turn()
        # Not one after the other, as the end of a process closes them.
        signal.alarm(_PATIENCE)
        self._loop.close_all_slow([sock for wire in self._wires.values() for sock in wire.give_up()])

    def _stop(self) -> None:
        self._serving = False

    def _register(self) -> None:
        """Lives that began, told by their first process before anything untrusted runs in them; and lives that ended."""
        while True:
            try:
                data, fds = protocol.receive(self._registry)
            except BlockingIOError:
                return
            except OSError:
                # No descriptor is left for its sockets: it goes without a resolver, and who asks is told that nothing is known.
                continue
            if data is None:
                self._stop()
                return
            sockets = [_socket.socket(fileno=fd) for fd in fds]
            try:
                self._take(data, sockets)
            except Exception:  # noqa: BLE001 - the matter of one life, which goes without a resolver and is not known
                sys.excepthook(*sys.exc_info())
                for sock in sockets:
                    self._loop.close(sock)

    def _take(self, data: bytes, sockets: list[_socket.socket]) -> None:
        if data[:1] == KIND_GONE:
            self._bury(GONE.unpack(data)[1])
        elif data[:1] == KIND_HOPPER:
            self._hopper = Hopper(*sockets)
        else:
            _, life, recorded = BORN.unpack(data)
            self._wires[life] = Wire(self._loop, sockets, recorded=recorded)

    def _bury(self, life: int) -> None:
        wire = self._wires.pop(life, None)
        if wire is None:
            return  # it died before it told of itself
        self._past[life] = wire.records
        wire.close()
        while len(self._past) > _PAST or (
            len(self._past) > 1 and sum(past.size for past in self._past.values()) > _PAST_SIZE
        ):
            del self._past[next(iter(self._past))]

    def _answer(self) -> None:
        try:
            request, fds = protocol.receive_json(self._control)
        except OSError as error:
            protocol.send_json(
                self._control, {"error": ["network receive", error.errno or 0, ""], "number": protocol.ANY}
            )
            return
        for fd in fds:
            os.close(fd)
        if request is None:
            self._stop()
            return
        # What a child told before it was ready comes before what is asked about it.
        self._register()
        made = None
        try:
            answer: dict[str, Any] = {"ok": getattr(self, f"op_{request['op']}")(request)}
        except OSError as error:
            answer = {"error": [f"network {request['op']}", error.errno or 0, ""]}
        except Exception as error:  # noqa: BLE001 - all sandboxes would go without: whoever asked is told
            answer = {"error": [f"network {request['op']}: {type(error).__name__}: {error}"[:500], 0, ""]}
        else:
            if isinstance(answer["ok"], _socket.socket):
                made, answer["ok"] = answer["ok"], None
        protocol.send_json(
            self._control, {**answer, "number": request["number"]}, (made.fileno(),) if made is not None else ()
        )
        if made is not None:
            made.close()

    def op_socket(self, request: dict[str, Any]) -> _socket.socket:
        """A new socket in the network of a life: for whoever asks to connect with, so errors are its own."""
        return self._hopper_for(request)(request["family"], request["kind"], request["protocol"])

    def op_forward(self, request: dict[str, Any]) -> int:
        """Lead a port of the host's loopback device to an address inside; the answer is the port."""
        make = self._hopper_for(request)
        host, port = request["address"]
        family = _socket.AF_INET6 if ":" in host else _socket.AF_INET
        forward = Forward(self._loop, lambda: make(family, _socket.SOCK_STREAM, 0), (host, port))
        self._wires[request["life"]].forwards[forward.port] = forward
        return forward.port

    def op_unforward(self, request: dict[str, Any]) -> None:
        """Nothing leads there any more; nothing did is no error."""
        wire = self._wires.get(request["life"])
        forward = wire.forwards.pop(request["port"], None) if wire is not None else None
        if forward is not None:
            forward.close()

    def _hopper_for(self, request: dict[str, Any]) -> Callable[[int, int, int], _socket.socket]:
        wire = self._wires.get(request["life"])
        if wire is None:
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
        if self._hopper is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return lambda family, kind, number: self._made(wire.neighbour, family, kind, number)

    def _made(self, neighbour: _socket.socket, *wanted: int) -> _socket.socket:
        if self._hopper is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        try:
            return self._hopper.socket(neighbour, *wanted)
        finally:
            if not self._hopper.usable:
                self._hopper = None  # its next answer would be that of another question

    def op_attempts(self, request: dict[str, Any]) -> dict[str, Any]:
        """Some of what was tried in a life, from the `start`-th on; `total` is how many are kept in all.

        OSError(ENODATA) for a life that was never told of, or is forgotten: that is not the same as none.
        """
        life = request["life"]
        wire = self._wires.get(life)
        if wire is not None and not request["start"]:
            wire.settle()
        records = wire.records if wire is not None else self._past.get(life)
        if records is None:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return {"tried": records.page(request["start"]), "total": len(records), "lost": records.lost}


def run(control: int, registry: _socket.socket, owner: int, parent: int) -> None:
    """What the process does: until the client or the fork server, `parent`, is gone."""
    _give_up_powers(parent)
    _thread.stack_size(_STACK)
    NetworkProcess(_socket.socket(fileno=control), registry, owner).serve()


def _give_up_powers(parent: int) -> None:
    if os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        except OSError as error:
            # Root of a container that has no such id, or may not change its own: without capabilities it is nobody too.
            if error.errno not in (errno.EPERM, errno.EINVAL):
                raise
    syscalls.capset(0, 0)
    # For one that was stopped; else it ends by itself. Cleared by a change of ids, so set after it.
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for limit, value in (
        (resource.RLIMIT_NOFILE, hard),
        (resource.RLIMIT_DATA, _MEMORY),
        (resource.RLIMIT_FSIZE, _LOG),
        (resource.RLIMIT_CORE, 0),
    ):
        ceiling = resource.getrlimit(limit)[1]
        value = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
        resource.setrlimit(limit, (value, value))
    landlock.confine(landlock.version(), ())
    calls.allow_no_other()
