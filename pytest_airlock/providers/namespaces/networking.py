"""The part of NamespacesProvider that is about networks: contract 25, 26 and 38-40."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any, Literal

from pytest_airlock.errors import ProviderError, SandboxDied, UnsupportedFeature
from pytest_airlock.providers.base import Absence, Attempts, Features, Handle, NetworkRule
from pytest_airlock.providers.namespaces.box import Box
from pytest_airlock.providers.namespaces.client import Engine
from pytest_airlock.providers.namespaces.network_client import Network, listeners
from pytest_airlock.providers.namespaces.unix_sockets import connect_path

__all__ = ["Networking"]

_EVERY_PORT = "*"
_RESOLVERS, _LONGEST_RESOLVERS = "/etc/resolv.conf", 64 << 10
_LOOPBACK = "127.0.0.1"
_SHARED = Absence("it shares this host's network, where nobody listens for it", 'network="open" records what is tried')


class Networking:
    """Mixed into the provider, which has the rest."""

    name: str
    _engine: Engine | None

    def probe(self) -> Features:
        raise NotImplementedError

    def visited(self, handle: Handle) -> bool:
        raise NotImplementedError

    def write(self, handle: Handle, path: str, data: bytes, *, mode: int = 0o644) -> None:
        raise NotImplementedError

    def _box(self, handle: Handle) -> Box:
        raise NotImplementedError

    def set_network(self, handle: Handle, rule: NetworkRule) -> None:
        """Contract 25. Raises UnsupportedFeature, InvalidSpec, SandboxDied."""
        box = self._box(handle)
        if box.spec.shares_network or rule.mode == "host":
            self._refuse_unless_host(box, rule)
            return
        features = self.probe()
        for feature in _needed(rule):
            if feature not in features:
                absence = features.absent[feature]
                raise UnsupportedFeature(feature, self.name, absence.why, hint=absence.fix)
        if not box.running:
            raise SandboxDied(handle.name, "it is not running")
        if rule == NetworkRule() and not box.opened and not self.visited(handle):
            return  # as locked as it was born
        # Before: whoever is interrupted does not know what is in force, and a lock must not be left out because of that.
        box.opened, box.untouched = True, False
        self._of(handle, box).rule(rule, divert="network_open" in features)

    def _policy(self, handle: Handle, box: Box) -> dict[str, Any] | None:
        """What is in force, another process may have set it; None: as it was born."""
        if box.spec.shares_network or not (box.opened or self.visited(handle)) or "ports" not in self.probe():
            return None
        return self._of(handle, box).policy()

    def _put_back(self, handle: Handle, box: Box, policy: dict[str, Any] | None) -> None:
        """For another life of the same sandbox."""
        if policy is not None:
            box.opened, box.untouched = True, False
            self._of(handle, box).put(policy, divert="network_open" in self.probe())

    def _refuse_unless_host(self, box: Box, rule: NetworkRule) -> None:
        if box.spec.shares_network and rule == NetworkRule("host"):
            return
        feature = f"network_{rule.mode}"
        why = "it shares this host's network" if box.spec.shares_network else "it has a network of its own"
        raise UnsupportedFeature(
            feature,
            self.name,
            f"{why}, which is decided when it is made",
            hint="another sandbox, with network= as wanted",
        )

    def _share_resolvers(self, handle: Handle, box: Box) -> None:
        """With the network of the host it asks whom the host asks; its first files say so, and all that begin with them."""
        if box.spec.shares_network and not box.layers:
            with open(_RESOLVERS, "rb") as file:
                self.write(handle, _RESOLVERS, file.read(_LONGEST_RESOLVERS))

    def attempts(self, handle: Handle) -> Attempts:
        self._network(handle)
        return self._tried(handle, self._box(handle))

    def _tried(self, handle: Handle, box: Box) -> Attempts:
        """Since start or reset; a snapshot in between is no new beginning."""
        if "network_attempts" not in self.probe() or box.spec.shares_network:
            return box.tried
        found = self._of(handle, box).attempts()
        return Attempts((*box.tried, *found), lost=box.tried.lost + found.lost) if box.tried else found

    def connect(
        self, handle: Handle, address: tuple[str, int], kind: Literal["tcp", "udp"], *, timeout: float | None
    ) -> socket.socket:
        if self._shared(handle):
            return _connected(_numeric(address), kind, timeout)
        return self._network(handle, "ports").connect(_numeric(address), kind, timeout)

    def connect_path(
        self, handle: Handle, path: str, kind: Literal["stream", "datagram", "packet"], *, timeout: float | None
    ) -> socket.socket:
        box = self._box(handle)
        if not box.running:
            raise SandboxDied(handle.name, "it is not running")
        return connect_path(box.living(), path, kind, timeout)

    def forward(self, handle: Handle, address: tuple[str, int]) -> int:
        if self._shared(handle) and _numeric(address)[0] == _LOOPBACK:
            return address[1]  # it is a port of the host already
        port = self._network(handle, "ports").forward(_numeric(address))
        self._box(handle).forwards.add(port)
        return port

    def end_forward(self, handle: Handle, port: int) -> None:
        box = self._box(handle)
        if port in box.forwards:
            box.forwards.discard(port)
            self._of(handle, box).end_forward(port)

    def _end_forwards(self, handle: Handle, box: Box) -> None:
        """Before its life ends, so that nobody takes that for an end of what was sent."""
        while box.forwards:
            try:
                self._of(handle, box).end_forward(box.forwards.pop())
            except ProviderError:
                # The network process is gone or stuck, and leads nowhere any more; the sandbox must die all the same.
                box.forwards.clear()

    def listening(self, handle: Handle, port: int) -> bool:
        if self._shared(handle):
            return port in listeners()
        return self._network(handle, "ports").listening(port)

    def _shared(self, handle: Handle) -> bool:
        """Whether it has the host's network; a way in needs one that runs."""
        box = self._box(handle)
        if box.spec.shares_network and not box.running:
            raise SandboxDied(handle.name, "it is not running")
        return box.spec.shares_network

    def _network(self, handle: Handle, feature: str = "network_attempts") -> Network:
        """Of its last life, if it runs no more; a way in needs one that runs, and may change it."""
        box = self._box(handle)
        absence = self.probe().absent.get(feature)
        if box.spec.shares_network:
            absence = _SHARED
        if absence is not None:
            raise UnsupportedFeature(feature, self.name, absence.why, hint=absence.fix)
        if feature == "ports":
            if not box.running:
                raise SandboxDied(handle.name, "it is not running")
            box.living()
        return self._of(handle, box)

    def _of(self, handle: Handle, box: Box) -> Network:
        # Never a new engine: what it knows of this life went with the old one.
        if self._engine is None:
            raise SandboxDied(handle.name, "its fork server is gone")
        return Network(self._engine, handle.name, box.born)


def _connected(address: tuple[str, int], kind: Literal["tcp", "udp"], timeout: float | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    try:
        sock.settimeout(timeout)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _needed(rule: NetworkRule) -> list[str]:
    """Features without which a rule cannot be kept."""
    needed = [] if rule.mode == "locked" else [f"network_{rule.mode}"]
    if rule.routes:
        needed.append("network_routes")
    if any(text.endswith(f":{_EVERY_PORT}") for text in (*rule.allow, *(route.end for route in rule.routes))):
        needed.append("network_open")
    return needed


def _numeric(address: tuple[str, int]) -> tuple[str, int]:
    """No name is looked up for it: neither the host's resolver nor the sandbox's is to be trusted with that."""
    host, port = address
    if host == "localhost":
        host = "127.0.0.1"
    if not 0 < port < 65_536:
        raise ValueError(f"{port} is no port: they are 1 to 65535")
    return str(ipaddress.ip_address(host)), port
