"""Letting go of a sandbox that shall outlive the run (r12): as it is, or as the files that it changed."""

from __future__ import annotations

from pytest_airlock.errors import SnapshotNotFound, UnsupportedFeature
from pytest_airlock.models import Export, SandboxRecord, State
from pytest_airlock.orchestrator.contracts import Mounts, Store
from pytest_airlock.orchestrator.holdings import Holdings
from pytest_airlock.orchestrator.live import LiveSandbox
from pytest_airlock.orchestrator.preparation import CLEAN
from pytest_airlock.orchestrator.routes import set_routes
from pytest_airlock.providers.base import Absence, Diffs, Provider, Snapshots

__all__ = ["let_go", "lives_on"]


def lives_on(provider: Provider) -> bool:
    """Whether its sandboxes live on after this process. If not, and they cannot be exported either: UnsupportedFeature."""
    features = provider.probe()
    if "outlives" in features:
        return True
    if isinstance(provider, Diffs) and isinstance(provider, Snapshots):
        return False
    absence = features.absent.get("outlives", Absence("its sandboxes end with their run"))
    why = f"{absence.why}; nor can their files be kept, for it cannot tell what changed in them"
    raise UnsupportedFeature("outlives", provider.name, why, hint="leave keep= and --airlock-keep out")


def let_go(live: LiveSandbox, record: SandboxRecord, holdings: Holdings, store: Store, mounts: Mounts) -> SandboxRecord:
    """Under its lock. What fails before the sandbox is deleted leaves it held; what was exported by then stays."""
    if lives_on(live.provider):
        # A port of this process may be anybody's once it has ended.
        set_routes(live, record, (), holdings)
        kept = holdings.change(live, kept=True)
        _leave(live, holdings, mounts)
        return kept
    live.end_handouts()
    holdings.change(live, kept=True, export=_export(live, record, store))
    try:
        live.provider.delete(live.handle)
        return holdings.change(live, state=State.ERRORED if record.state is State.ERRORED else State.STOPPED)
    except BaseException as error:
        holdings.mark_errored(live, error, "the sandbox")
        raise
    finally:
        _leave(live, holdings, mounts)


def _leave(live: LiveSandbox, holdings: Holdings, mounts: Mounts) -> None:
    live.lease.release()
    mounts.unregister_all(live.name)
    holdings.leave(live)


def _export(live: LiveSandbox, record: SandboxRecord, store: Store) -> Export:
    # It brings in all of pytest_airlock.sandbox, for which a command line that only looks must not pay.
    from pytest_airlock.orchestrator.exporting import export

    clean = record.snapshots.get(CLEAN)
    if clean is None:
        raise SnapshotNotFound(live.name, CLEAN)
    # Started anew no process of the test is left, so nobody changes the files under the export; and it is locked.
    live.provider.stop(live.handle, grace=0)
    live.provider.start(live.handle)
    return export(live.provider, live.handle, clean, store.kept_dir(live.name))
