"""The part of NamespacesProvider that is about networks: contract 25, 26 and 38-40."""

from __future__ import annotations

import socket
from typing import Literal

from pytest_airlock.errors import SandboxDied, UnsupportedFeature
from pytest_airlock.providers.base import Attempts, Features, Handle, NetworkRule
from pytest_airlock.providers.namespaces.box import Box
from pytest_airlock.providers.namespaces.client import Engine
from pytest_airlock.providers.namespaces.network_client import Network

__all__ = ["Networking"]


class Networking:
    """Mixed into the provider, which has the rest."""

    name: str
    _engine: Engine | None

    def probe(self) -> Features:
        raise NotImplementedError

    def _box(self, handle: Handle) -> Box:
        raise NotImplementedError

    def set_network(self, handle: Handle, rule: NetworkRule) -> None:
        """Contract 25: a sandbox is locked, and so it stays."""
        if rule.mode != "locked":
            feature = f"network_{rule.mode}"
            absence = self.probe().absent[feature]
            raise UnsupportedFeature(feature, self.name, absence.why, hint=absence.fix)
        self._box(handle)

    def attempts(self, handle: Handle) -> Attempts:
        return self._network(handle).attempts()

    def connect(
        self, handle: Handle, address: tuple[str, int], kind: Literal["tcp", "udp"], *, timeout: float | None
    ) -> socket.socket:
        return self._network(handle, "ports").connect(address, kind, timeout)

    def forward(self, handle: Handle, address: tuple[str, int]) -> int:
        port = self._network(handle, "ports").forward(address)
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
            self._of(handle, box).end_forward(box.forwards.pop())

    def listening(self, handle: Handle, port: int) -> bool:
        return self._network(handle, "ports").listening(port)

    def _network(self, handle: Handle, feature: str = "network_attempts") -> Network:
        """Of its last life, if it runs no more; a way in needs one that runs, and may change it."""
        box = self._box(handle)
        absence = self.probe().absent.get(feature)
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
