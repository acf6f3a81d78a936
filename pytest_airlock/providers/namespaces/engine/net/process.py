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
import signal
import sys
from collections.abc import Callable
from typing import Any

from .. import landlock, protocol
from . import calls, powers
from .forward import Forward
from .hopper import Hopper, Maker
from .loop import Loop
from .outside import Outside
from .policy import Policy
from .records import Records
from .registry import BORN, GONE, KIND_GONE, KIND_GUEST, KIND_HOPPER
from .wire import Wire

__all__ = ["NetworkProcess", "run"]

_MEMORY = 512 << 20
_PATIENCE = 10  # seconds for the end
#: Who steers from other processes of the same user: how many at a time, and seconds for one that does not read.
_GUESTS, _GUEST_PATIENCE = 16, 1.0
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
        self._outside = Outside(self._loop)
        self._guests: dict[int, _socket.socket] = {}
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
        elif data[:1] == KIND_GUEST:
            self._welcome(GONE.unpack(data)[1], *sockets)
        else:
            _, life, recorded = BORN.unpack(data)
            maker = Maker(self._usable_hopper, sockets[0])
            self._wires[life] = Wire(self._loop, self._outside, maker, sockets, recorded=recorded)

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
        """The owner's requests."""
        if not self._converse(self._control, lambda op: getattr(self, f"op_{op}")):
            self._stop()

    def _welcome(self, life: int, channel: _socket.socket) -> None:
        """A guest: of this life it may set the policy, and nothing else."""
        if len(self._guests) >= _GUESTS:
            self._dismiss(next(iter(self._guests)))
        self._guests[channel.fileno()] = channel
        channel.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, protocol.timeval(_GUEST_PATIENCE))

        def hear() -> None:
            try:
                going = self._converse(channel, lambda op: _GUEST_OPS[op](self), life=life)
            except (OSError, LookupError, TypeError, ValueError, RecursionError):
                going = False  # it is none of ours, or does not read
            if not going:
                self._dismiss(channel.fileno())

        self._loop.add(channel, hear)

    def _dismiss(self, fd: int) -> None:
        self._loop.close(self._guests.pop(fd))

    def _converse(self, sock: _socket.socket, find: Callable[[str], Callable[..., Any]], **fixed: Any) -> bool:
        """Carry out one request and answer it; False at the end of the channel. `fixed` words are not the asker's to choose."""
        try:
            request, fds = protocol.receive_json(sock)
        except OSError as error:
            protocol.send_json(sock, {"error": ["network receive", error.errno or 0, ""], "number": protocol.ANY})
            return True
        if request is None:
            return False
        # What a child told before it was ready comes before what is asked about it.
        self._register()
        made = None
        op = request["op"]
        try:
            call = find(op)
            request = {**request, **fixed}
            answer: dict[str, Any] = {"ok": call(request, fds) if op == "dialler" else call(request)}
        except OSError as error:
            answer = {"error": [f"network {op}", error.errno or 0, ""]}
        except Exception as error:  # noqa: BLE001 - all sandboxes would go without: whoever asked is told
            answer = {"error": [f"network {op}: {type(error).__name__}: {error}"[:500], 0, ""]}
        else:
            if isinstance(answer["ok"], _socket.socket):
                made, answer["ok"] = answer["ok"], None
        finally:
            for fd in fds:
                os.close(fd)
        protocol.send_json(sock, {**answer, "number": request["number"]}, (made.fileno(),) if made is not None else ())
        if made is not None:
            made.close()
        return True

    def op_socket(self, request: dict[str, Any]) -> _socket.socket:
        """A new socket in the network of a life: for whoever asks to connect with, so errors are its own."""
        return self._living(request).maker.socket(request["family"], request["kind"], request["protocol"])

    def op_rule(self, request: dict[str, Any]) -> None:
        """Put a policy in force. OSError(ENOTCONN) where a hopper or a dialler must be there before."""
        self._rule(self._living(request), Policy(request["rule"]), divert=request["divert"])

    def op_policy(self, request: dict[str, Any]) -> dict[str, Any]:
        """The one in force, whoever set it, as op_rule takes it."""
        return self._living(request).policy.rule

    def op_steer(self, request: dict[str, Any]) -> None:
        """The same by a guest: routes are the owner's, and stay unless all is locked."""
        wire, policy = self._living(request), Policy(request["rule"])
        self._rule(wire, policy.with_routes_of(wire.policy), divert=request["divert"])

    def _rule(self, wire: Wire, policy: Policy, *, divert: bool) -> None:
        if not policy.closed:
            self._usable_hopper()
            if not self._outside.usable:
                raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        wire.rule(policy, divert=divert)

    def op_dialler(self, _request: dict[str, Any], fds: list[int]) -> None:
        """Its channel came along."""
        self._outside.begin(_socket.socket(fileno=fds.pop()))

    def op_forward(self, request: dict[str, Any]) -> int:
        """Lead a port of the host's loopback device to an address inside; the answer is the port."""
        wire = self._living(request)
        self._usable_hopper()
        host, port = request["address"]
        family = _socket.AF_INET6 if ":" in host else _socket.AF_INET
        forward = Forward(self._loop, lambda: wire.maker.socket(family, _socket.SOCK_STREAM), (host, port))
        wire.forwards[forward.port] = forward
        return forward.port

    def op_unforward(self, request: dict[str, Any]) -> None:
        """Nothing leads there any more; nothing did is no error."""
        wire = self._wires.get(request["life"])
        forward = wire.forwards.pop(request["port"], None) if wire is not None else None
        if forward is not None:
            forward.close()

    def _living(self, request: dict[str, Any]) -> Wire:
        wire = self._wires.get(request["life"])
        if wire is None:
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
        return wire

    def _usable_hopper(self) -> Hopper:
        if self._hopper is None or not self._hopper.usable:
            # After a question without an answer its next one would be that of another.
            self._hopper = None
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return self._hopper

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


#: What a guest may ask for.
_GUEST_OPS: dict[str, Callable[[NetworkProcess], Callable[..., Any]]] = {
    "steer": lambda process: process.op_steer,
    "dialler": lambda process: process.op_dialler,
}


def run(control: int, registry: _socket.socket, owner: int, parent: int) -> None:
    """What the process does: until the client or the fork server, `parent`, is gone."""
    powers.give_up(_MEMORY, parent)
    landlock.confine(landlock.version(), ())
    calls.allow_no_other()
    _thread.stack_size(_STACK)
    NetworkProcess(_socket.socket(fileno=control), registry, owner).serve()
