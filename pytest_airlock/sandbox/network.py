"""The network of one sandbox: its policy, and what was tried."""

from __future__ import annotations

from datetime import datetime

from pytest_airlock.models import Network
from pytest_airlock.providers.base import Attempt, Attempts
from pytest_airlock.sandbox.backend import Backend
from pytest_airlock.sandbox.transcript import escape

__all__ = ["NetworkAttempts", "SandboxNetwork"]

#: Lines of str(attempts) at most.
SHOWN = 1000
_ENDS = 8


class NetworkAttempts(Attempts):
    """A tuple of Attempt: `time` (seconds since the epoch), `protocol` ("tcp", "udp", "dns", "icmp", …), `host` (the name that
    was asked for, if it is known), `address`, `port`, `question` ("AAAA example.org") and `verdict`.

    `lost` is how many more there were than are kept. str() has one line for each, repr() the ends of what was tried.
    """

    @property
    def refused(self) -> NetworkAttempts:
        """Those that no policy allowed, and what is lost."""
        return NetworkAttempts((each for each in self if each.verdict == "refused"), lost=self.lost)

    def __str__(self) -> str:
        lines = [f"{_moment(each.time)}  {_told(each)}" for each in self[:SHOWN]]
        left = len(self) - len(lines) + self.lost
        if left:
            lines.append(f"[… {left:,} more …]")
        return "\n".join(lines) or "nothing tried to use the network"

    def __repr__(self) -> str:
        """What an assertion shows: equal ones once, in order of their first try."""
        ends = list(dict.fromkeys(map(_told, self)))
        more = ", …" if len(ends) > _ENDS or self.lost else ""
        return f"<{len(self) + self.lost:,} tries: {', '.join(ends[:_ENDS])}{more}>" if self else "<no tries>"


def _told(each: Attempt) -> str:
    if each.question is not None:
        # Which server was asked matters only where it is not the sandbox's own.
        return f"dns {escape(each.question)} {each.verdict}"
    host = f" ({escape(each.host)})" if each.host else ""
    address = f"[{each.address}]" if ":" in each.address and each.port is not None else each.address
    return f"{each.protocol} {address}{'' if each.port is None else f':{each.port}'}{host} {each.verdict}"


def _moment(time: float) -> str:
    return datetime.fromtimestamp(time).strftime("%H:%M:%S.%f")[:-3]  # noqa: DTZ006 - for whoever sits before it


class SandboxNetwork:
    """Changes are in force when the call returns, within the profile's limits, and undone by reset. Another process may make
    them, too (`airlock lock`, `unlock`, `allow`).

    Raises ProfileForbids (the profile excludes it), UnsupportedFeature (the provider cannot), StaleSandbox.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def policy(self) -> Network:
        """The policy in force, whoever set it: `mode` and, with "allow" and "open", the `allow` list."""
        return self._backend.info().network

    @property
    def attempts(self) -> NetworkAttempts:
        """Every try to use the network since start or reset, questions to a name server included, in order; false if there
        was none. UnsupportedFeature where the provider records none.
        """
        found = self._backend.attempts()
        return NetworkAttempts(found, lost=found.lost)

    def refused_in_all(self) -> NetworkAttempts:
        """What no policy allowed since the sandbox was handed out, resets between included; for `network_attempts=` only."""
        found = self._backend.all_attempts()
        return NetworkAttempts(found, lost=found.lost).refused

    def lock(self) -> None:
        """Nothing inside reaches a network, DNS included; open connections end. What was allowed is kept for unlock()."""
        self._backend.lock_network()

    def unlock(self) -> None:
        """Back to the policy before it was locked, and what was allowed since; if nobody did lock it, the outside world is
        reachable, besides what was allowed.
        """
        self._backend.unlock_network()

    def allow(self, *entries: str) -> None:
        """Let `host:port`, `*.domain:port` or `address/prefix:port` through, besides what is reached already: of a locked
        network that is nothing, and an open one stays open. InvalidSpec for what is no entry.
        """
        if not entries:
            raise ValueError("allow() without an entry would allow nothing: use lock()")
        self._backend.allow_network(entries)

    def __repr__(self) -> str:
        policy = self.policy
        return f"<network {policy.mode}{': ' + ', '.join(policy.allow) if policy.allow else ''}>"
