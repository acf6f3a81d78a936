"""Visits to what another live process holds: the one thing besides looking that is done to it, by its provider's leave."""

from __future__ import annotations

from pytest_airlock.errors import AirlockError, SandboxDied, UnsupportedFeature
from pytest_airlock.models import SandboxRecord, State
from pytest_airlock.orchestrator.contracts import Providers, Store
from pytest_airlock.orchestrator.orphans import handle_of
from pytest_airlock.providers.attaching import Attaches, Visit

__all__ = ["visit"]


def visit(record: SandboxRecord, providers: Providers, store: Store) -> Visit:
    """Raises AirlockError (kept as files, not running), SandboxDied (its owner is dead), UnsupportedFeature, and what the
    provider raises.
    """
    name, cannot = record.name, f"sandbox {record.name!r} cannot be entered"
    if record.export is not None:
        raise AirlockError(
            cannot, why="it was kept as files, and no process of it runs", hint=f"look at them in {record.export.path}"
        )
    if not record.kept and store.is_orphan(record):
        hint = "`airlock gc` removes what it left"
        raise SandboxDied(name, f"its run (process {record.owner.pid}) has ended", hint=hint)
    if record.state is not State.RUNNING:
        raise AirlockError(cannot, why=f"it is {record.state}, not running", hint=f"see `airlock status {name}`")
    provider = providers.get(record.provider)
    if not isinstance(provider, Attaches):
        raise UnsupportedFeature("attach", provider.name, "it cannot let other processes enter its sandboxes")
    return provider.attach(handle_of(record))
