"""Network policies: what a profile lets one be, and what locking, unlocking and allowing make of one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from pydantic import ValidationError

from pytest_airlock.errors import InvalidSpec, ProfileForbids
from pytest_airlock.models import Network, NetworkMode
from pytest_airlock.orchestrator.policy.merge import explain

__all__ = ["Policy", "Step", "allowing", "check_network", "locking", "modes_of", "replacing", "unlocking"]


class Policy(NamedTuple):
    """`network` is in force. `before_lock` is what unlocking goes back to; None: nobody locked the live sandbox."""

    network: Network
    before_lock: Network | None = None


Step = Callable[[Policy], Policy]
"""From the policy in force to the next one."""


def modes_of(network: Network) -> tuple[NetworkMode, ...]:
    """What it takes: an open network that reaches private addresses, too, is open and has an allow-list."""
    return ("open", "allow") if network.mode == "open" and network.allow else (network.mode,)


def check_network(network: Network, profile: str, allowed: Collection[NetworkMode]) -> None:
    """Raises ProfileForbids unless `allowed`, the modes of `profile`, has room for it; InvalidSpec for a contradiction."""
    for mode in modes_of(network):
        if mode not in allowed:
            raise ProfileForbids(
                profile,
                f"network mode {mode!r}",
                hint=f"it allows {', '.join(map(repr, allowed))}: choose another profile, or extend one with network_allowed",
            )
    if network.allow and network.mode not in ("allow", "open"):
        raise InvalidSpec(
            "network.allow",
            network.allow,
            f"it counts only with mode 'allow' or 'open', and the mode is {network.mode!r}",
        )
    if network.mode == "allow" and not network.allow:
        raise InvalidSpec("network.allow", (), "the list is empty", hint="network='locked' allows nothing")


def locking(now: Policy) -> Policy:
    """Nothing is reached. What was allowed is kept, whoever locks, and how often."""
    if now.network.mode == "locked":
        return now
    return Policy(Network(), now.network if now.before_lock is None else unlocking(now).network)


def unlocking(now: Policy) -> Policy:
    """As before it was locked, with what was allowed since; else the outside world, with what was allowed before."""
    if now.before_lock is not None:
        return Policy(_with(now.before_lock, now.network.allow))
    if now.network.mode in ("locked", "allow"):
        return Policy(Network(mode="open", allow=now.network.allow))
    return now


def allowing(entries: Iterable[str]) -> Step:
    """These, too. Raises InvalidSpec for an entry that is none, or none at all."""
    try:
        added = Network(mode="allow", allow=tuple(entries)).allow
    except ValidationError as error:
        first, *others = explain(error, Network)
        for other in others:
            first.add_note(str(other))
        raise first from None
    if not added:
        raise InvalidSpec(
            "allow", (), "an entry is missing, and nothing would be allowed", hint="lock to allow nothing"
        )

    def step(now: Policy) -> Policy:
        base = Network(mode="allow") if now.network.mode == "locked" else now.network
        changed = Policy(_with(base, added), now.before_lock)
        if changed.before_lock is not None:
            unlocking(changed)  # what is too much together is refused now: locking and unlocking never are
        return changed

    return step


def replacing(network: Network) -> Step:
    """This and no other, but that what is locked can be unlocked."""
    return locking if network.mode == "locked" and not network.allow else lambda _: Policy(network)


def _with(network: Network, added: tuple[str, ...]) -> Network:
    if network.mode == "host":  # it reaches whatever the host does
        return network
    try:
        return Network(mode=network.mode, allow=(*dict.fromkeys((*network.allow, *added)),))
    except ValidationError as error:
        raise explain(error, Network)[0] from None
