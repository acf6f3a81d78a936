"""Store and leases against a model: several owners, some in processes that are killed."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from orchestrator_helpers import make_record

from pytest_airlock.errors import AlreadyExists, SandboxNotFound
from pytest_airlock.orchestrator.contracts import Lease
from pytest_airlock.orchestrator.storage.process_identity import current_owner
from pytest_airlock.orchestrator.storage.store import FileStore

NAMES = st.sampled_from(["a", "b-1"])


class StoreMachine(RuleBasedStateMachine):
    """`mine` and `theirs` are held names; `records` says which have a record and whether its owner lives."""

    @initialize()
    def start(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="airlock-store-"))
        self.store = FileStore(self.root / "state")
        self.mine: dict[str, Lease] = {}
        self.theirs: dict[str, int] = {}
        self.records: dict[str, str] = {}

    def teardown(self) -> None:
        for pid in self.theirs.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for lease in self.mine.values():
            lease.release()
        shutil.rmtree(self.root)

    def taken(self, name: str) -> bool:
        return name in self.mine or name in self.theirs or name in self.records

    @rule(name=NAMES)
    def reserve(self, name: str) -> None:
        try:
            lease = self.store.reserve(name, current_owner())
        except AlreadyExists:
            assert self.taken(name)
        else:
            assert not self.taken(name)
            self.mine[name] = lease

    @rule(name=NAMES, with_record=st.booleans())
    def reserve_in_another_process(self, name: str, with_record: bool) -> None:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._other_life(name, writer, with_record)
        os.close(writer)
        with open(reader, "rb") as file:
            answer = file.read(1)
        if self.taken(name):
            assert answer == b"n"
            os.waitpid(pid, 0)
            return
        assert answer == b"y"
        self.theirs[name] = pid
        if with_record:
            self.records[name] = "alive"

    def _other_life(self, name: str, writer: int, with_record: bool) -> None:
        try:
            store = FileStore(self.store.root)
            store.reserve(name, current_owner())
            if with_record:
                store.save(make_record(name))
            os.write(writer, b"y")
            os.close(writer)
            signal.pause()
        except AlreadyExists:
            os.write(writer, b"n")
        finally:
            os._exit(0)

    @precondition(lambda self: self.theirs)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.theirs)))
        pid = self.theirs.pop(name)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if name in self.records:
            self.records[name] = "dead"

    @precondition(lambda self: self.mine)
    @rule(data=st.data(), error=st.text(max_size=5))
    def save(self, data: st.DataObject, error: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.mine)))
        self.store.save(make_record(name, error=error))
        assert self.store.load(name).error == error
        self.records[name] = "alive"

    @precondition(lambda self: self.mine)
    @rule(data=st.data())
    def destroy(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.mine)))
        self.store.remove(name)
        self.records.pop(name, None)
        self.mine.pop(name).release()

    @rule(name=NAMES)
    def adopt(self, name: str) -> None:
        lease = self.store.adopt(name, current_owner())
        assert (lease is not None) == (self.records.get(name) == "dead")
        if lease is not None:
            self.mine[name] = lease
            self.records[name] = "alive"

    @rule()
    def sweep(self) -> None:
        self.store.sweep()

    @invariant()
    def records_are_as_the_model_has_them(self) -> None:
        if not hasattr(self, "store"):
            return
        found = {record.name: record for record in self.store.records()}
        assert set(found) == set(self.records)
        for name, record in found.items():
            assert self.store.is_orphan(record) == (self.records[name] == "dead")

    @invariant()
    def a_held_lease_is_never_free(self) -> None:
        if hasattr(self, "store"):
            for name in (*self.mine, *self.theirs):
                assert not self.store._leases.is_free(name)

    @rule()
    def a_missing_record_is_not_found(self) -> None:
        try:
            self.store.load("never")
        except SandboxNotFound:
            return
        raise AssertionError("a record out of nowhere")


StoreMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestStore = StoreMachine.TestCase
