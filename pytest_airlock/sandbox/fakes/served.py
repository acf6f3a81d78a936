"""What route() and serve() return."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from pytest_airlock.errors import ServedAppFailed
from pytest_airlock.providers.base import Fault, Route
from pytest_airlock.sandbox.fakes.received import Request

if TYPE_CHECKING:
    from typing_extensions import Self

    from pytest_airlock.sandbox.fakes.server import Server

__all__ = ["OpenRoute", "Served"]


class OpenRoute:
    """A route in force: `end` ("api.example.com:443"), `to` ((host, port) of this machine, or None = where the network policy
    leads), `fault`.

    Until close(), the end of the `with` block, another route for the same end, network.lock(), a reset, or the end of the
    sandbox.
    """

    def __init__(self, route: Route, leave: Callable[[OpenRoute], None]) -> None:
        self.route = route
        self._leave = leave

    @property
    def end(self) -> str:
        return self.route.end

    @property
    def to(self) -> tuple[str, int] | None:
        return self.route.to

    @property
    def fault(self) -> Fault:
        return self.route.fault

    def close(self) -> None:
        """Twice is fine, and so is after the sandbox was handed back."""
        try:
            self._leave(self)
        finally:
            self._ended()

    def _ended(self) -> None:
        """It is in force no more, whoever ended it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<route {self.end} to {'the outside' if self.to is None else '{}:{}'.format(*self.to)}>"


class Served(OpenRoute):
    """An app behind the name of `url`. What came in and what went wrong can be read while it is open, and after.

    Leaving the `with` block raises what check() raises.
    """

    def __init__(self, route: Route, leave: Callable[[OpenRoute], None], url: str, server: Server | None) -> None:
        super().__init__(route, leave)
        self.url = url
        self._server = server
        self._told = 0
        #: Whether programs inside have to trust a certificate of ours.
        self.secure = server is not None and url.lower().startswith("https:")

    @property
    def requests(self) -> tuple[Request, ...]:
        """The first 1,000 received, in order; none where the app is a socket or an address, whose requests are its own."""
        return () if self._server is None else self._server.received.requests

    @property
    def lost(self) -> int:
        """How many more requests there were than are kept."""
        return 0 if self._server is None else self._server.received.lost

    @property
    def errors(self) -> tuple[BaseException, ...]:
        """What the app raised; the client saw status 500, or a broken connection."""
        return () if self._server is None else self._server.received.errors

    @property
    def broken(self) -> tuple[str, ...]:
        """Why connections brought no request that could be answered: a client that does not trust the certificate, no HTTP."""
        return () if self._server is None else self._server.received.broken

    def check(self) -> None:
        """Raise ServedAppFailed, with the app's error as its cause, if the app raised errors since the last check."""
        errors = self.errors
        new = errors[self._told :]
        self._told = len(errors)
        if new:
            raise ServedAppFailed(self.url, f"{type(new[0]).__name__}: {new[0]}", len(new)) from new[0]

    def _ended(self) -> None:
        if self._server is not None:
            self._server.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()
        if error is None:
            self.check()

    def __repr__(self) -> str:
        return f"<served {self.url}: {len(self.requests) + self.lost:,} requests>"
