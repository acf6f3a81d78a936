"""Provisioning is done once for equal content: by one process for all that run beside it, and for later runs.

What decides the content is the plan and what its sandbox begins with (contract 29). Where the provider cannot tell that, or
has no Stores, every process provisions by itself. Keeping never fails a sandbox: what goes wrong with it is said.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pytest_airlock.errors import AirlockError, StoreError
from pytest_airlock.models import Network, Owner
from pytest_airlock.orchestrator.contracts import Lease, Plan
from pytest_airlock.orchestrator.policy.provision import layer_key
from pytest_airlock.orchestrator.storage.layer_files import LayerFiles
from pytest_airlock.providers.base import Handle, Provider, Stores

__all__ = ["Claim", "Provisioned"]


class Claim:
    """The right to provision: `load` what was kept, else provision and `save`. This one keeps nothing."""

    def load(self) -> str | None:
        """The snapshot that the sandbox, which was never started, has of it now; None if nothing was kept."""
        return None

    def save(self, snapshot: str | None) -> None:
        """Keep the snapshot of what was provisioned."""


class Provisioned:
    """`files` makes the store of what is kept, None = nothing is. `refresh`: what other runs kept is made anew."""

    def __init__(
        self,
        files: Callable[[], LayerFiles] | None = None,
        *,
        say: Callable[[str], None] = lambda _: None,
        refresh: bool = False,
    ) -> None:
        self._files, self.say, self.refresh = files, say, refresh

    @contextmanager
    def claim(self, plan: Plan, provider: Provider, handle: Handle, network: Network) -> Iterator[Claim]:
        """Waits while another process provisions the same: its result will do."""
        origin = ""
        if plan.provision and self._files is not None and isinstance(provider, Stores):
            origin = provider.origin(handle)
        if not origin or self._files is None or not isinstance(provider, Stores):
            yield Claim()
            return
        files, key = self._files(), _key(plan, provider.name, origin, network)
        lease = self._lease(files, key, plan)
        if lease is None:
            yield Claim()
            return
        try:
            yield _Keeping(key, files, provider, handle, origin, self)
        finally:
            lease.release()

    def _lease(self, files: LayerFiles, key: str, plan: Plan) -> Lease | None:
        def waiting(owner: Owner | None) -> None:
            who = "another process" if owner is None else f"worker {owner.worker} (pid {owner.pid})"
            self.say(f"waiting for {who}, which provisions {_shortened(plan)}")

        try:
            return files.claim(key, waiting=waiting)
        except StoreError as error:
            self.say(f"what is provisioned is not kept for other runs: {error.path}: {error.why}")
            return None


@dataclass
class _Keeping(Claim):
    _key: str
    _files: LayerFiles
    _provider: Stores
    _handle: Handle
    _origin: str
    _parent: Provisioned

    def load(self) -> str | None:
        try:
            with self._files.opened(self._key, of_this_run=self._parent.refresh) as file:
                if file is None:
                    return None
                return self._provider.import_snapshot(self._handle, file, limit=self._files.limit)
        except (ValueError, OSError, AirlockError) as error:
            self._parent.say(f"what an earlier run provisioned cannot be used and is made anew: {error}")
            self._files.remove(self._key)
            return None

    def save(self, snapshot: str | None) -> None:
        # What changed while it was being read is nothing to rely on.
        if snapshot is None or self._provider.origin(self._handle) != self._origin:
            return
        limit = self._files.limit
        try:
            self._files.save(
                self._key, lambda file: self._provider.export_snapshot(self._handle, snapshot, file, limit=limit)
            )
        except (OSError, AirlockError) as error:
            self._parent.say(f"what was provisioned is not kept for other runs: {error}")


def _key(plan: Plan, provider: str, origin: str, network: Network) -> str:
    context = {
        "version": importlib.metadata.version("pytest-airlock"),
        "provider": provider,
        "plan": plan.key,
        "origin": origin,
        "network": [network.mode, *sorted(network.allow)],
    }
    return layer_key(plan.provision, context)


def _shortened(plan: Plan) -> str:
    text = "; ".join(" ".join(argv) for argv in plan.provision)
    return repr(text if len(text) <= 60 else f"{text[:59]}…")
