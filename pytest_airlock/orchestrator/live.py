"""What a manager holds of a sandbox that it owns: lease, handle, lock, and who was handed it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from pytest_airlock.models import Network
from pytest_airlock.orchestrator.contracts import Lease, Plan
from pytest_airlock.orchestrator.handout import Handout
from pytest_airlock.providers.base import Handle, Provider, Route

__all__ = ["LiveSandbox"]


@dataclass(slots=True, eq=False)
class LiveSandbox:
    """`lock` makes every change of one sandbox one after the other (provider contract 16).

    `network` is the policy it is reset to, `routes` are those in force, newest first; `direct` is the manager's own hand-out, which ends only with the sandbox.
    `error` says why it is errored, even where the store could not be told.
    """

    name: str
    plan: Plan
    lease: Lease
    provider: Provider
    handle: Handle
    network: Network
    routes: tuple[Route, ...] = ()
    lock: threading.RLock = field(default_factory=threading.RLock)
    handouts: list[Handout] = field(default_factory=list)
    direct: Handout | None = None
    gone: bool = False
    error: str = ""

    def end_handouts(self) -> None:
        for handout in self.handouts:
            handout.end()
        self.handouts.clear()
