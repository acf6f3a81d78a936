"""Waiting until what was *set* for a sandbox fits beside what the others hold (design: waiting for resources)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pytest_airlock.errors import InsufficientResources
from pytest_airlock.models import Owner, SandboxRecord, State
from pytest_airlock.orchestrator.contracts import Clock, Lease, Need, ResourceChecker, Store
from pytest_airlock.orchestrator.storage.store import MACHINE
from pytest_airlock.orchestrator.undo import add_note

__all__ = ["DEFAULT_WAIT", "Reservations"]

#: Seconds, the default of `airlock_wait`.
DEFAULT_WAIT = 300.0
_POLL = 0.2


class Reservations:
    """Reserves a name together with its resources; the machine's lock makes check and reservation one step.

    `make_room()` gives up something this process holds but does not use (an idle pooled sandbox), False if there is
    nothing; `say` is told once when waiting begins.
    """

    def __init__(
        self,
        store: Store,
        resources: ResourceChecker,
        clock: Clock,
        owner: Owner,
        *,
        wait: float = DEFAULT_WAIT,
        say: Callable[[str], None],
    ) -> None:
        self.make_room: Callable[[], bool] = lambda: False
        self._store = store
        self._resources = resources
        self._clock = clock
        self._owner = owner
        self._wait = wait
        self._say = say

    def reserve(self, need: Need, record: SandboxRecord, *, wait: float = 0.0) -> Lease:
        """The lease, with `record` saved. Raises AlreadyExists, InsufficientResources; `wait` is for the name alone."""
        if need.cpu is need.memory is need.disk is None:
            return self._reserve(record, wait)
        deadline = self._clock.monotonic() + self._wait
        told = False
        while True:
            try:
                with self._store.locked(MACHINE):
                    self._check(need)
                    return self._reserve(record, 0.0)
            except InsufficientResources as error:
                if not error.can_ever_fit:
                    raise
                holders = self._others()
                if self.make_room():
                    continue
                if not self._fits_beside_own(need) or self._clock.monotonic() >= deadline:
                    add_note(error, self._why_not_longer(need, holders))
                    raise
                if not told:
                    told = True
                    self._say(f"sandbox {need.name!r} waits for {error.resource}, held by {_names(holders)}")
                self._clock.sleep(_POLL)

    def _reserve(self, record: SandboxRecord, wait: float) -> Lease:
        lease = self._store.reserve(record.name, record.owner, wait=wait)
        try:
            self._store.save(record)
        except BaseException:
            lease.release()
            raise
        return lease

    def _check(self, need: Need) -> None:
        self._resources.check(need, _needs(self._holding()))

    def _fits_beside_own(self, need: Need) -> bool:
        """What this process holds itself it must not wait for."""
        ceiling = self._resources.ceiling()
        own = _needs(record for record in self._holding() if self._is_ours(record))
        return all(
            wanted is None or wanted + sum(getattr(other, resource) or 0 for other in own) <= ceiling[resource]
            for resource in ("cpu", "memory", "disk")
            for wanted in [getattr(need, resource)]
        )

    def _why_not_longer(self, need: Need, holders: list[SandboxRecord]) -> str:
        if self._fits_beside_own(need):
            return f"waited {self._wait:g} s for what is held by {_names(holders)}"
        return "this process holds the rest itself: destroy a sandbox first, or set less for each"

    def _others(self) -> list[SandboxRecord]:
        return [record for record in self._holding() if not self._is_ours(record) and _need(record) is not None]

    def _holding(self) -> list[SandboxRecord]:
        """A stopped sandbox still holds its disk, and may be started: it counts whole. A dead owner's does not."""
        return [record for record in self._store.records() if not self._store.is_orphan(record)]

    def _is_ours(self, record: SandboxRecord) -> bool:
        mine = self._owner
        return (record.owner.pid, record.owner.start_time) == (mine.pid, mine.start_time)


def _need(record: SandboxRecord) -> Need | None:
    spec = record.spec
    if spec.cpu is spec.memory is spec.disk is None or (record.state is State.ERRORED and not record.remains):
        return None
    if record.export is not None and record.state is State.STOPPED:
        return None  # what is left are files on the host
    return Need(record.name, spec.cpu, spec.memory, spec.disk)


def _needs(records: Iterable[SandboxRecord]) -> list[Need]:
    return [need for need in map(_need, records) if need is not None]


def _names(records: Iterable[SandboxRecord]) -> str:
    return ", ".join(f"{record.name!r} (pid {record.owner.pid})" for record in records) or "nobody that is recorded"
