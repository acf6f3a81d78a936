"""The sandboxes this process holds, and the only way to change their records: under the lock, read again first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pytest_airlock.errors import HeldElsewhere, InvalidTransition, SandboxNotFound
from pytest_airlock.models import Owner, SandboxRecord, State
from pytest_airlock.orchestrator.contracts import Plan, Store
from pytest_airlock.orchestrator.live import LiveSandbox
from pytest_airlock.orchestrator.states import TRANSITIONS, check_transition
from pytest_airlock.orchestrator.storage.process_identity import describe
from pytest_airlock.orchestrator.undo import Undo

__all__ = ["Holdings"]


class Holdings:
    """Name to LiveSandbox, thread-safe."""

    def __init__(self, store: Store, owner: Owner) -> None:
        self._store = store
        self._owner = owner
        self._live: dict[str, LiveSandbox] = {}
        self._guard = threading.Lock()

    def enter(self, live: LiveSandbox) -> None:
        with self._guard:
            self._live[live.name] = live

    def leave(self, live: LiveSandbox) -> None:
        """It is gone: whoever waits for its lock finds that out."""
        live.gone = True
        live.end_handouts()
        if live.direct is not None:
            live.direct.end()
        with self._guard:
            del self._live[live.name]

    def names(self) -> list[str]:
        with self._guard:
            return list(self._live)

    def like(self, plan: Plan) -> Iterator[LiveSandbox]:
        """Those made from an equal plan, one at a time and locked; who is busy is left out."""
        with self._guard:
            equal = [live for live in self._live.values() if live.plan.key == plan.key]
        for live in equal:
            if live.lock.acquire(blocking=False):
                try:
                    if not live.gone and not live.error:
                        yield live
                finally:
                    live.lock.release()

    def get(self, name: str) -> LiveSandbox | None:
        return self._live.get(name)

    def require(self, name: str) -> LiveSandbox:
        """Raises SandboxNotFound, HeldElsewhere, or InvalidTransition: it is being made, or all that is left is an export."""
        live = self._live.get(name)
        if live is None:
            record = self._store.load(name)
            if record.export is not None:
                hint = f"it was kept as files, which are in {record.export.path}; `airlock destroy {name}` removes them"
                raise InvalidTransition(name, "exported", "running", (), hint=hint)
            self.refuse_unless_orphan(record)
            raise SandboxNotFound(name, hint=f"what is left of it belonged to a dead run: `airlock destroy {name}`")
        return live

    def refuse_unless_orphan(self, record: SandboxRecord) -> None:
        """HeldElsewhere or InvalidTransition for a record that a live process holds."""
        if self.is_ours(record):
            state = str(record.state)
            raise InvalidTransition(record.name, state, "anything else by request", map(str, TRANSITIONS[record.state]))
        if not self._store.is_orphan(record):
            raise HeldElsewhere(record.name, owner=describe(record.owner))

    @contextmanager
    def locked(self, name: str) -> Iterator[LiveSandbox]:
        """The sandbox, locked, for what its record does not matter to."""
        live = self.require(name)
        with live.lock:
            if live.gone:
                raise SandboxNotFound(name)
            yield live

    @contextmanager
    def held(self, name: str) -> Iterator[tuple[LiveSandbox, SandboxRecord]]:
        """The sandbox, locked, and its record as it is now."""
        with self.locked(name) as live:
            with self._store.locked(name):
                record = self._reread(live)
            yield live, record

    @contextmanager
    def steered(self, live: LiveSandbox) -> Iterator[SandboxRecord]:
        """The record as it is now, of a locked sandbox whose network policy nobody else changes meanwhile, in any process."""
        with self._store.network_lock(live.name):
            with self._store.locked(live.name):
                record = self._reread(live)
            yield record

    def change(self, live: LiveSandbox, **changes: object) -> SandboxRecord:
        """Change fields of the record. Raises SandboxNotFound if it was removed meanwhile, InvalidTransition, StoreError."""
        with self._store.locked(live.name):
            record = self._reread(live)
            state = changes.get("state", record.state)
            if isinstance(state, State):
                check_transition(live.name, record.state, state)
            changed = record.model_copy(update=changes)
            self._store.save(changed)
            return changed

    def reconcile(self, live: LiveSandbox, seen: SandboxRecord, state: State) -> SandboxRecord:
        """Record the state that was probed, unless the sandbox is being changed or has changed since `seen`."""
        told = seen.model_copy(update={"state": state})
        if not live.lock.acquire(blocking=False):
            return told
        try:
            with self._store.locked(live.name):
                if not live.gone and self._store.load(live.name) == seen:
                    self._store.save(told)
        except SandboxNotFound:
            pass  # destroyed since; what was seen is still what was true then
        finally:
            live.lock.release()
        return told

    def mark_errored(self, live: LiveSandbox, error: BaseException, remains: str = "") -> None:
        """Called with `error` under way: what fails here is attached to it."""
        undo = Undo()
        live.error = f"{type(error).__name__}: {error}"
        fields = {"state": State.ERRORED, "error": live.error, "remains": remains}
        undo.add("its record, which should say errored,", lambda: self.change(live, **fields))
        undo.run(error)

    def known(self, record: SandboxRecord) -> SandboxRecord:
        """The record, with an error that a full disk kept out of it: errored is sticky in any case."""
        live = self._live.get(record.name)
        if live is None or not live.error or record.state is State.ERRORED:
            return record
        return record.model_copy(update={"state": State.ERRORED, "error": live.error})

    def _reread(self, live: LiveSandbox) -> SandboxRecord:
        record = self._store.load(live.name)
        if not self.is_ours(record):
            raise SandboxNotFound(live.name, hint=f"the name is held by {describe(record.owner)} now")
        return self.known(record)

    def is_ours(self, record: SandboxRecord) -> bool:
        """It is recorded as this process'."""
        return (record.owner.pid, record.owner.start_time) == (self._owner.pid, self._owner.start_time)
