"""What list and status tell: the record, and what the provider says about it now (r07). No lock is held meanwhile."""

from __future__ import annotations

from typing import cast

from pytest_airlock.models import SandboxInfo, SandboxRecord, State
from pytest_airlock.orchestrator.contracts import Providers, Store
from pytest_airlock.orchestrator.holdings import Holdings
from pytest_airlock.orchestrator.orphans import handle_of

__all__ = ["look"]


def look(record: SandboxRecord, holdings: Holdings, providers: Providers, store: Store, *, strict: bool) -> SandboxInfo:
    """The sandbox as it is. `strict`: an error of asking is raised; else the recorded state is told, with the error.

    A provider can be asked about what this process holds and about what nobody holds; what another live process
    holds, that one knows best, and its record is told.
    """
    record = holdings.known(record)
    if record.state not in (State.RUNNING, State.STOPPED):  # errored is sticky, and one being made is not asked
        return _info(record)
    if record.export is not None:  # no provider has it any more
        return _info(record)
    live = holdings.get(record.name)
    if live is None and not store.is_orphan(record):
        return _info(record)
    try:
        if live is not None:
            running = live.provider.is_running(live.handle)
        else:
            running = providers.get(record.provider).is_running(handle_of(record))
    except Exception as error:
        if strict:
            raise
        return _info(record, error=f"whether it runs is not known: {error}")
    state = State.RUNNING if running else State.STOPPED
    if live is not None and state is not record.state:
        record = holdings.reconcile(live, record, state)
        return _info(record)
    return _info(record, state=state)


def _info(record: SandboxRecord, *, state: State | None = None, error: str = "") -> SandboxInfo:
    handle = record.handle or {}
    return SandboxInfo(
        name=record.name,
        state=state or record.state,
        provider=record.provider,
        profile=record.profile,
        image=record.spec.image,
        user=record.spec.user or "",
        network=record.network,
        before_lock=record.before_lock,
        enforced=tuple(cast("list[str]", handle.get("enforced", []))),
        owner=record.owner,
        created=record.created,
        runtime=record.runtime,
        mounts=record.mounts,
        snapshots=tuple(record.snapshots),
        kept=record.kept,
        error=error or record.error,
        remains=record.remains,
        export=record.export,
    )
