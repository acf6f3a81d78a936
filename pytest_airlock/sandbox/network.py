"""The network of one sandbox: its policy, and what was tried."""

from __future__ import annotations

from pytest_airlock.models import Network
from pytest_airlock.providers.base import Attempt
from pytest_airlock.sandbox.backend import Backend

__all__ = ["SandboxNetwork"]


class SandboxNetwork:
    """Changes are in force when the call returns, within the profile's limits, and undone by reset.

    Raises ProfileForbids (the profile excludes it), UnsupportedFeature (the provider cannot), StaleSandbox.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def policy(self) -> Network:
        """The policy in force: `mode` and, with mode "allow", the `allow` list."""
        return self._backend.info().network

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Every try to use the network since start or reset, in order; false if there was none."""
        return tuple(self._backend.attempts())

    def lock(self) -> None:
        """Nothing inside reaches a network, DNS included; open connections end."""
        self._backend.set_network(Network(mode="locked"))

    def unlock(self) -> None:
        """The outside world is reachable."""
        self._backend.set_network(Network(mode="open"))

    def allow(self, *entries: str) -> None:
        """Let `host:port`, `*.domain:port` or `address/prefix:port` through, besides what is allowed already."""
        if not entries:
            raise ValueError("allow() without an entry would allow nothing: use lock()")
        policy = self.policy
        old = policy.allow if policy.mode == "allow" else ()
        self._backend.set_network(Network(mode="allow", allow=tuple(dict.fromkeys((*old, *entries)))))

    def __repr__(self) -> str:
        policy = self.policy
        return f"<network {policy.mode}{': ' + ', '.join(policy.allow) if policy.allow else ''}>"
