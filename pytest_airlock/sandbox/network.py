"""The network of one sandbox: its policy, servers of the test behind real names, and what was tried."""

from __future__ import annotations

import socket
import threading
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_airlock.errors import StaleSandbox
from pytest_airlock.models import Network
from pytest_airlock.providers.base import Attempt, Attempts, Route
from pytest_airlock.providers.endpoints import parse
from pytest_airlock.sandbox.backend import Backend
from pytest_airlock.sandbox.fakes.ends import Address, Faults, destination, fault, served_url
from pytest_airlock.sandbox.fakes.served import OpenRoute, Served
from pytest_airlock.sandbox.fakes.trust import Trust
from pytest_airlock.sandbox.transcript import escape

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["NetworkAttempts", "SandboxNetwork"]

#: Lines of str(attempts) at most.
SHOWN = 1000
_ENDS = 8
_Way = TypeVar("_Way", bound=OpenRoute)


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

    def __init__(self, backend: Backend, trust: Trust) -> None:
        self._backend = backend
        self._trust = trust
        self._lock = threading.RLock()
        self._open: list[OpenRoute] = []  # newest first
        self._told_end = False

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
        """Nothing inside reaches a network, DNS included, nor what was served; open connections end. What the policy allowed is
        kept for unlock().
        """
        with self._lock:
            if self._open:
                self._backend.set_routes(())
            self.end_all()
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

    def route(self, end: str, *, to: Address | socket.socket | None = None, **faults: Unpack[Faults]) -> OpenRoute:
        """Lead connections to `end` (`"api.example.com:443"`, `"*.example.com:*"`, `"192.0.2.0/24:80"`) to a server of the test:
        `to` is its (host, port) on this machine or its listening socket; None = where the policy leads. The newest route
        that fits counts, and comes before the policy, in every profile.

        How bad the network is on the way: `latency` (seconds, each direction), `bandwidth` (bytes a second), `reset_after`
        and `cut_after` (bytes that reach the sandbox before a reset, or an end), `refuse`, `black_hole` (no answer),
        `dns` ("answer", "nxdomain", "servfail", "silent"), `dns_delay` (seconds). Sizes are numbers or texts such as "64K".

        Raises ValueError, UnsupportedFeature.
        """
        where = None if to is None else destination(to)
        route = Route(str(parse(end)), where, fault(**faults))
        return self._enter(OpenRoute(route, self._leave))

    def serve(self, url: str, app: Any, **faults: Unpack[Faults]) -> Served:
        """Be the server of `url`: `"https://api.example.com"`, `"http://*.example.com:8080"`; with the faults of route().

        `app` is a WSGI or ASGI app, a class of http.server, a dict of responses ({"/path" or "GET /path": text, bytes, JSON or
        (status, headers, body)}), or a listening socket or (host, port), to which bytes are led as they are. For https
        programs inside trust the certificate from the first serve() on (extra `tls`).

        Raises ValueError, TypeError, UnsupportedFeature, MissingExtra, and what an app raises when it starts.
        """
        parsed = served_url(url)
        bad = fault(**faults)
        if isinstance(app, (socket.socket, tuple)):
            return self._enter(Served(Route(str(parsed.end), destination(app), bad), self._leave, url, None))
        self._backend.check()
        from pytest_airlock.sandbox.fakes.apps import serve

        server = serve(app, parsed)
        try:
            served = self._enter(Served(Route(str(parsed.end), server.server_address, bad), self._leave, url, server))
        except BaseException:
            server.close()
            raise
        if parsed.secure:
            try:
                self._trust.establish()
            except BaseException:
                served.close()
                raise
        return served

    def end_all(self) -> None:
        """Every route and server, whose life is over in the sandbox already."""
        with self._lock:
            ended, self._open = self._open, []
        for each in ended:
            each._ended()

    def renew(self) -> None:
        """The files are those of another life, and the routes are in force as before."""
        self._trust.forget()
        if any(isinstance(each, Served) and each.secure for each in self._open):
            self._trust.establish()

    def _enter(self, new: _Way) -> _Way:
        with self._lock:
            if not self._told_end:
                self._backend.at_end(self.end_all)
                self._told_end = True
            replaced: list[OpenRoute] = [each for each in self._open if each.end == new.end]
            kept: list[OpenRoute] = [new, *(each for each in self._open if each.end != new.end)]
            self._backend.set_routes(tuple(each.route for each in kept))
            self._open = kept
        for each in replaced:
            each._ended()
        return new

    def _leave(self, left: OpenRoute) -> None:
        with self._lock:
            if left not in self._open:
                return
            self._open.remove(left)
            try:
                self._backend.set_routes(tuple(each.route for each in self._open))
            except StaleSandbox:
                pass  # it is being handed back, which ends them all

    def __repr__(self) -> str:
        policy = self.policy
        return f"<network {policy.mode}{': ' + ', '.join(policy.allow) if policy.allow else ''}>"
