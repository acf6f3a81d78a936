"""What dead runs left: taken over, deleted by the provider, forgotten, and said (r12)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pytest_airlock.errors import SandboxNotFound
from pytest_airlock.models import Owner, SandboxRecord, State
from pytest_airlock.orchestrator.contracts import Providers, Store
from pytest_airlock.orchestrator.undo import Undo
from pytest_airlock.providers.base import Handle

__all__ = ["Collected", "Orphans", "handle_of"]


class Collected(NamedTuple):
    """What was done about one orphan, in words; `error` if it is still there."""

    text: str
    error: Exception | None = None


def handle_of(record: SandboxRecord) -> Handle:
    """The recorded handle; an owner killed while the provider was creating left only the name."""
    return Handle(record.provider, record.name) if record.handle is None else Handle.from_json(record.handle)


class Orphans:
    """Collects sandboxes whose owner is proved dead. Nothing else is ever touched."""

    def __init__(self, store: Store, providers: Providers, owner: Owner) -> None:
        self._store = store
        self._providers = providers
        self._owner = owner

    def collect_all(self, *, kept: bool = False) -> list[Collected]:
        """Every orphan, those marked kept only if `kept`. Returns what was done, and what could not be."""
        told = []
        for record in self._store.records():
            if (record.kept and not kept) or not self._store.is_orphan(record):
                continue
            try:
                if self.collect(record.name):
                    told.append(Collected(f"removed sandbox {record.name!r}, left by {_past(record.owner)}"))
            except Exception as error:  # noqa: BLE001 - one that cannot be removed must not keep the others
                text = f"could not remove sandbox {record.name!r}, left by {_past(record.owner)}: {error}"
                told.append(Collected(text, error))
        self._store.sweep()
        return told

    def collect_name(self, name: str) -> bool:
        """Remove the orphan of this name, if it is one and not kept."""
        try:
            record = self._store.load(name)
        except SandboxNotFound:
            return False
        return not record.kept and self._store.is_orphan(record) and self.collect(name)

    def collect(self, name: str) -> bool:
        """Remove this orphan; False if another process was faster. Raises what the provider or the store raises."""
        with self._adopted(name) as record:
            if record is None:
                return False
            self._providers.get(record.provider).delete(handle_of(record))
            self._store.remove(name)
            return True

    def stop(self, name: str, *, grace: float) -> bool:
        """Stop this orphan and leave it recorded; False if another process was faster."""
        with self._adopted(name) as record:
            if record is None:
                return False
            self._providers.get(record.provider).stop(handle_of(record), grace=grace)
            if record.state is State.RUNNING:
                self._store.save(record.model_copy(update={"state": State.STOPPED}))
            return True

    @contextmanager
    def _adopted(self, name: str) -> Iterator[SandboxRecord | None]:
        """The record, its lease ours for the block. What fails is recorded, and the sandbox is an orphan as before."""
        before = self._store.load(name)
        lease = self._store.adopt(name, self._owner)
        if lease is None:
            yield None
            return
        undo = Undo()
        undo.add("its lease", lease.release)
        try:
            yield before
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
            failed = before.model_copy(update={"state": State.ERRORED, "error": text, "remains": "the sandbox"})
            undo.add("its record, which should say errored,", lambda: self._store.save(failed))
            undo.run(error)
            raise
        lease.release()


def _past(owner: Owner) -> str:
    words = [f"process {owner.pid}"]
    words += [f"worker {owner.worker}"] if owner.worker else []
    words += [f"test {owner.test}"] if owner.test else []
    return f"{', '.join(words)}, which is dead"
