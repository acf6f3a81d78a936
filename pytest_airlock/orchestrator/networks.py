"""The network of a sandbox that lives: its policy, which is recorded, and its routes, which are objects of this process."""

from __future__ import annotations

from pytest_airlock.errors import ProfileForbids
from pytest_airlock.models import Network, SandboxRecord
from pytest_airlock.orchestrator.holdings import Holdings
from pytest_airlock.orchestrator.live import LiveSandbox
from pytest_airlock.orchestrator.preparation import apply_network, require_network, require_routes
from pytest_airlock.orchestrator.undo import Undo
from pytest_airlock.providers.base import Route

__all__ = ["put_in_force", "set_policy", "set_routes"]


def put_in_force(live: LiveSandbox, network: Network) -> None:
    """After a start, which locks: the policy, and the routes there are."""
    if network.mode != "locked" or live.routes:
        apply_network(live.provider, live.handle, network, live.routes)


def set_policy(live: LiveSandbox, record: SandboxRecord, network: Network, holdings: Holdings) -> None:
    """In force, and recorded. Raises ProfileForbids, UnsupportedFeature; any other error leaves the old one in force."""
    profile = live.plan.profile
    if network.mode not in profile.network_allowed:
        allowed = ", ".join(profile.network_allowed)
        raise ProfileForbids(profile.name, f"network {network.mode!r}", hint=f"it allows: {allowed}")
    require_network(live.provider, network)
    undo = Undo()
    try:
        if live.provider.is_running(live.handle):
            # What others read must be what is in force.
            undo.add("the new network policy", lambda: _apply(live, record.network, live.routes))
            _apply(live, network, live.routes)
        holdings.change(live, network=network)
    except BaseException as error:
        if undo.run(error):
            holdings.mark_errored(live, error, "a network policy that is not the recorded one")
        raise


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
