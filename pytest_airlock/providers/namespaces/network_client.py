"""What the network process (engine/net) does for the provider: tells what was tried, and makes ways in."""

from __future__ import annotations

import _socket
import errno
import ipaddress
import os
import socket
import struct
from dataclasses import asdict
from typing import Any, Literal

from pytest_airlock.errors import InvalidSpec, ProviderError, SandboxDied
from pytest_airlock.providers.base import Attempt, Attempts, NetworkRule
from pytest_airlock.providers.endpoints import parse
from pytest_airlock.providers.namespaces.caller import Caller, StepFailed
from pytest_airlock.providers.namespaces.client import Engine
from pytest_airlock.providers.namespaces.dialling import begin_dialler

__all__ = ["Network", "listeners", "steer"]

_VERDICTS: dict[str, Literal["refused", "allowed"]] = {"refused": "refused", "allowed": "allowed"}
_KINDS = {"tcp": _socket.SOCK_STREAM, "udp": _socket.SOCK_DGRAM}
# Constants of sock_diag(7): linux/netlink.h and linux/inet_diag.h.
_AF_NETLINK, _NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 16, 4, 20
_NLM_F_REQUEST, _NLM_F_DUMP, _NLMSG_ERROR, _NLMSG_DONE = 0x1, 0x300, 2, 3
_TCP_LISTEN = 10
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI48s")


class Network:
    """The network of one life of a sandbox."""

    def __init__(self, engine: Engine, name: str, life: int) -> None:
        self._engine, self._name, self._life = engine, name, life

    def attempts(self) -> Attempts:
        """Every try until now, a page at a time."""
        made: list[Attempt] = []
        while True:
            page = self._ask("attempts", start=len(made))[0]
            made.extend(map(_attempt, page["tried"]))
            if len(made) >= page["total"]:
                return Attempts(made, lost=page["lost"])
            if not page["tried"]:
                raise ProviderError("namespaces", "attempts", "its network process forgot what it had told of")

    def rule(self, rule: NetworkRule, *, divert: bool) -> None:
        """Put a policy in force; `divert`: this kernel can lead every address to us."""
        self.put(_words(rule), divert=divert)

    def put(self, words: dict[str, Any], *, divert: bool) -> None:
        """The same in the words of the engine."""
        if words["mode"] != "locked" or words["routes"]:
            self._begin()
            self._engine.begin_dialler()
        self._ask("rule", rule=words, divert=divert)

    def policy(self) -> dict[str, Any]:
        """What is in force, whoever set it, in the words of the engine."""
        words: dict[str, Any] = self._ask("policy")[0]
        return words

    def connect(self, address: tuple[str, int], kind: Literal["tcp", "udp"], timeout: float | None) -> socket.socket:
        """Raises as connect(2) does, with the errno that the sandbox's kernel gives."""
        sock = socket.socket(fileno=self._socket(_family(address[0]), _KINDS[kind]))
        try:
            sock.settimeout(timeout)
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return sock

    def listening(self, port: int) -> bool:
        """Asks the kernel for the listening sockets of this name space."""
        return port in listeners(self._socket(_AF_NETLINK, _socket.SOCK_RAW, _NETLINK_SOCK_DIAG))

    def forward(self, address: tuple[str, int]) -> int:
        self._begin()
        port: int = self._ask("forward", address=(*address,))[0]
        return port

    def end_forward(self, port: int) -> None:
        self._ask("unforward", port=port)

    def _socket(self, family: int, kind: int, protocol: int = 0) -> int:
        self._begin()
        return self._ask("socket", family=family, kind=kind, protocol=protocol)[1][0]

    def _begin(self) -> None:
        self._engine.begin_hopper()

    def _ask(self, op: str, **request: object) -> tuple[Any, list[int]]:
        try:
            return self._engine.ask_network(op, life=self._life, **request)
        except StepFailed as error:
            if error.errno == errno.ENOTCONN:
                self._engine.forget_hopper()
            if error.errno == errno.ESRCH:
                raise SandboxDied(self._name, "it is not running") from None
            if error.errno == errno.ENODATA:
                why = "nothing is known of this sandbox: it was never started, is long dead, or no descriptor was left for its network"
                raise ProviderError("namespaces", "tell what was tried", why) from None
            raise ProviderError("namespaces", error.step, os.strerror(error.errno or 0)) from None


def listeners(diag: int | None = None) -> set[int]:
    """Ports at which TCP sockets listen in the network that a socket of sock_diag(7) is in, which is closed; None: in ours."""
    sock = (
        socket.socket(_AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) if diag is None else socket.socket(fileno=diag)
    )
    with sock:
        sock.setblocking(True)
        return _listeners(sock, _socket.AF_INET) | _listeners(sock, _socket.AF_INET6)


def steer(sock: _socket.socket, name: str, rule: NetworkRule, *, divert: bool) -> None:
    """Put a policy in force by a channel to somebody else's network process, which is closed then."""
    log = os.memfd_create("airlock-log", os.MFD_CLOEXEC)
    network = Caller(sock, "network process", lambda: "")
    words: dict[str, Any] = {"rule": _words(rule), "divert": divert}
    try:
        try:
            network.call("steer", **words)
        except StepFailed as error:
            if error.errno != errno.ENOTCONN:
                raise
            # It never needed the outside world.
            begin_dialler(network, log).returncode = 0  # not ours to wait for: it ends with the network process
            network.call("steer", **words)
    except StepFailed as error:
        if error.errno == errno.ESRCH:
            raise SandboxDied(name, "it is not running") from None
        raise ProviderError("namespaces", error.step, os.strerror(error.errno or 0)) from None
    finally:
        network.close()
        os.close(log)


def _words(rule: NetworkRule) -> dict[str, Any]:
    """The rule in the words of engine/net/policy.py. Raises InvalidSpec."""
    try:
        allow = [_end(text) for text in rule.allow]
        routes = [[_end(route.end), route.to, asdict(route.fault)] for route in rule.routes]
    except ValueError as error:
        raise InvalidSpec("network", rule.allow, str(error)) from None
    return {"mode": rule.mode, "allow": allow, "routes": routes}


def _end(text: str) -> list[Any]:
    end = parse(text)
    if end.kind != "network":
        return [end.kind, end.host, end.port, 0]
    network = ipaddress.ip_network(end.host)
    return [end.kind, network.network_address.packed.hex(), end.port, network.prefixlen]


def _family(host: str) -> int:
    return _socket.AF_INET6 if ":" in host else _socket.AF_INET


def _listeners(diag: socket.socket, family: int) -> set[int]:
    """Ports at which TCP sockets of that family listen; what is read is the kernel's."""
    body = _REQUEST.pack(family, _socket.IPPROTO_TCP, 0, 0, 1 << _TCP_LISTEN, bytes(48))
    head = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 0, 0)
    diag.send(head + body)
    found: set[int] = set()
    while True:
        data, at = diag.recv(65_536), 0
        while at + _HEADER.size <= len(data):
            length, kind, *_ = _HEADER.unpack_from(data, at)
            if kind == _NLMSG_DONE:
                return found
            if kind == _NLMSG_ERROR:
                code = -struct.unpack_from("=i", data, at + _HEADER.size)[0]
                raise ProviderError("namespaces", "list what listens", os.strerror(code))
            # struct inet_diag_msg: four bytes, then the source port in network order.
            found.add(struct.unpack_from(">H", data, at + _HEADER.size + 4)[0])
            at += max(_HEADER.size, length + 3 & ~3)


def _attempt(tried: list[Any]) -> Attempt:
    time, protocol, host, address, port, question, verdict = tried
    return Attempt(
        time,
        protocol,
        host or None,
        address,
        port if port >= 0 else None,
        question or None,
        _VERDICTS[verdict],
    )
