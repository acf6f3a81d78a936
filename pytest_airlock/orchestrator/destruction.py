"""Removing a sandbox that this process holds (r05, r23, r24)."""

from __future__ import annotations

from pytest_airlock.orchestrator.contracts import Mounts, Store
from pytest_airlock.orchestrator.holdings import Holdings
from pytest_airlock.orchestrator.live import LiveSandbox
from pytest_airlock.orchestrator.undo import add_note

__all__ = ["destroy"]


def destroy(live: LiveSandbox, holdings: Holdings, store: Store, mounts: Mounts, *, grace: float) -> list[Exception]:
    """Stop with `grace` seconds, by force if it must be, delete, forget its mounts and record, release the lease.

    Without grace there is nothing to ask its processes for: deleting ends them.

    An error of asking whether it runs is raised and changes nothing; one of deleting leaves it errored. It can be called
    again after any failure. Returns why it could not be stopped, if it was deleted all the same.
    """
    provider, handle = live.provider, live.handle
    failures = _stop(live, grace) if provider.is_running(handle) and grace else []
    try:
        provider.delete(handle)
    except BaseException as error:
        for failure in failures:
            add_note(error, f"stopping it had failed before: {failure}")
        holdings.mark_errored(live, error, "the sandbox")
        raise
    mounts.unregister_all(live.name)
    store.remove(live.name)
    live.lease.release()
    holdings.leave(live)
    return failures


def _stop(live: LiveSandbox, grace: float) -> list[Exception]:
    """Gracefully, then forced. A sandbox that cannot be stopped can still be deleted, so failures are only returned."""
    failures: list[Exception] = []
    for seconds in dict.fromkeys((grace, 0.0)):
        try:
            live.provider.stop(live.handle, grace=seconds)
        except Exception as error:  # noqa: BLE001 - told by the caller, once it is known what deleting did
            failures.append(error)
        else:
            break
    return failures
