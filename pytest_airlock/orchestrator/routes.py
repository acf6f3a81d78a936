"""Routes of a live sandbox to servers of the test: objects of this process, which no record keeps."""

from __future__ import annotations

from pytest_airlock.models import Network, SandboxRecord
from pytest_airlock.orchestrator.holdings import Holdings
from pytest_airlock.orchestrator.live import LiveSandbox
from pytest_airlock.orchestrator.preparation import apply_network, require_routes
from pytest_airlock.orchestrator.undo import Undo
from pytest_airlock.providers.base import Route

__all__ = ["put_in_force", "set_routes"]


def put_in_force(live: LiveSandbox, network: Network) -> None:
    """After a start, which locks: the policy, and the routes there are."""
    if network.mode != "locked" or live.routes:
        apply_network(live.provider, live.handle, network, live.routes)


def set_routes(live: LiveSandbox, record: SandboxRecord, routes: tuple[Route, ...], holdings: Holdings) -> None:
    """In force beside the recorded policy, in every profile: where they lead is the test's own, and no outside world.

    Raises UnsupportedFeature; any other error leaves the old ones in force.
    """
    if routes:
        require_routes(live.provider)
    if routes == live.routes:
        return
    undo = Undo()
    try:
        if live.provider.is_running(live.handle):
            undo.add("the new routes", lambda: _apply(live, record.network, live.routes))
            _apply(live, record.network, routes)
    except BaseException as error:
        if undo.run(error):
            holdings.mark_errored(live, error, "routes that nobody asked for")
        raise
    live.routes = routes


def _apply(live: LiveSandbox, network: Network, routes: tuple[Route, ...]) -> None:
    apply_network(live.provider, live.handle, network, routes)
