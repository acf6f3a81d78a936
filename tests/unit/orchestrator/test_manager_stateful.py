"""The manager's whole life against a model, with operations of the provider and writes of the store failing at any time."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from orchestrator_helpers import make_manager, make_plan

from pytest_airlock.errors import (
    AirlockError,
    AlreadyExists,
    InvalidTransition,
    ProviderError,
    SandboxNotFound,
    SnapshotNotFound,
    StoreError,
)
from pytest_airlock.models import Network, State
from pytest_airlock.orchestrator.pool import Pool
from pytest_airlock.testing import FakeProvider

NAMES = st.sampled_from(["a", "b"])
WHO = st.sampled_from(["manager", "stranger"])
OPERATIONS = st.sampled_from(
    [
        "create",
        "start",
        "stop",
        "delete",
        "is_running",
        "snapshot",
        "restore",
        "reset",
        "set_network",
        "delete_snapshot",
    ]
)
EXPECTED = (ProviderError, StoreError, SandboxNotFound, InvalidTransition, AlreadyExists, SnapshotNotFound)


class ManagerMachine(RuleBasedStateMachine):
    without: tuple[str, ...] = ()

    @initialize()
    def start(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="airlock-manager-"))
        self.provider = FakeProvider(without=self.without)
        self.manager = make_manager(self.root / "state", self.provider)
        self.stranger = make_manager(self.root / "state", FakeProvider())
        self.pool = Pool(self.manager)
        self.save = self.manager.store.save
        self.manager.store.save = self._save
        self.failing_saves = 0

    def teardown(self) -> None:
        self.provider.faults._faults.clear()
        self.failing_saves = 0
        for name in self.manager.names():
            self.manager.destroy(name)
        assert self.provider.names() == []
        assert [path for path in self.root.rglob("*") if path.is_file()] == []
        shutil.rmtree(self.root)

    def _save(self, record) -> None:
        if self.failing_saves:
            self.failing_saves -= 1
            raise StoreError("somewhere", "No space left on device")
        self.save(record)

    def attempt(self, operation, *args, also: type[Exception] = ProviderError, **kwargs) -> bool:
        """Carry it out; any failure is one of those that were planted or that the state calls for."""
        try:
            operation(*args, **kwargs)
        except (*EXPECTED, also):  # of others' sandboxes more can be said: that they cannot be entered
            return False
        return True

    @rule(operation=OPERATIONS, when=st.sampled_from(["before", "after"]), times=st.integers(1, 2))
    def plant_a_fault(self, operation: str, when: str, times: int) -> None:
        if (operation, when) == ("create", "after"):
            return  # a provider that makes something and says it did not breaks the contract
        self.provider.faults.fail(operation, ProviderError("fake", operation, "planted"), when=when, times=times)

    @rule(times=st.integers(1, 2))
    def fill_the_disk(self, times: int) -> None:
        self.failing_saves = times

    @rule(name=NAMES)
    def create(self, name: str) -> None:
        existed = name in self.manager.names()
        if self.attempt(self.manager.create, make_plan(name)):
            assert not existed
            assert self.provider.rule(name).mode == "locked"

    @rule(name=NAMES)
    def stop(self, name: str) -> None:
        if self.attempt(self.manager.stop, name):
            assert self.manager.store.load(name).state is State.STOPPED

    @rule(name=NAMES)
    def start_again(self, name: str) -> None:
        if self.attempt(self.manager.start, name):
            assert self.manager.store.load(name).state is State.RUNNING

    @rule(name=NAMES)
    def dirty(self, name: str) -> None:
        if name in self.provider.names():
            self.provider.files(name).write("/etc/dirt", b"x")

    @rule(name=NAMES)
    def open_the_network(self, name: str) -> None:
        if self.attempt(self.manager.set_network, name, Network(mode="open")):
            assert self.manager.store.load(name).network.mode == "open"

    @rule(name=NAMES, who=WHO, verb=st.sampled_from(["lock", "unlock"]))
    def lock_and_unlock(self, name: str, who: str, verb: str) -> None:
        self.attempt(getattr(getattr(self, who), verb), name, also=AirlockError)

    @rule(name=NAMES, who=WHO, number=st.integers(1, 3))
    def let_something_through(self, name: str, who: str, number: int) -> None:
        if self.attempt(getattr(self, who).allow, name, f"h{number}:1", also=AirlockError):
            network = self.manager.store.load(name).network
            assert f"h{number}:1" in network.allow

    @rule(name=NAMES)
    def take_a_snapshot(self, name: str) -> None:
        self.attempt(self.manager.snapshot, name)

    @rule(name=NAMES)
    def reset(self, name: str) -> None:
        if self.attempt(self.manager.reset, name):
            self.assert_pristine(name)

    @rule(name=NAMES)
    def back_through_the_pool(self, name: str) -> None:
        if name not in self.manager.names():
            return
        self.attempt(self.pool.give_back, name, make_plan(name))
        taken: list[str | None] = []
        while self.attempt(lambda: taken.append(self.pool.take("key"))) and taken[-1] is not None:
            self.assert_pristine(taken[-1])
            assert set(self.manager.store.load(taken[-1]).snapshots) == {"clean"}

    @rule(name=NAMES)
    def die(self, name: str) -> None:
        if name in self.provider.names():
            self.provider.die(name)

    @rule(name=NAMES)
    def destroy(self, name: str) -> None:
        if self.attempt(self.manager.destroy, name):
            assert name not in self.provider.names()
            assert name not in self.manager.names()

    @rule()
    def look(self) -> None:
        before = {record.name: record.state for record in self.manager.store.records()}
        told: dict[str, State] = {}
        if not self.attempt(lambda: told.update({info.name: info.state for info in self.manager.list()})):
            return
        for name, state in before.items():
            if state is State.ERRORED:
                assert told[name] is State.ERRORED

    def assert_pristine(self, name: str) -> None:
        assert self.provider.rule(name).mode == "locked"
        files = self.provider.files(name)
        try:
            files.read("/etc/dirt", limit=1)
        except FileNotFoundError:
            return
        raise AssertionError(f"{name} is dirty")

    @invariant()
    def what_exists_is_held_and_recorded(self) -> None:
        if hasattr(self, "manager"):
            recorded = {record.name for record in self.manager.store.records()}
            assert set(self.provider.names()) <= set(self.manager.names())
            assert set(self.manager.names()) <= recorded

    @invariant()
    def what_is_recorded_as_open_is_the_only_open(self) -> None:
        if hasattr(self, "manager"):
            for record in self.manager.store.records():
                box = self.provider._sandboxes.get(record.name)
                if box is not None and box.world is not None and record.state is State.RUNNING:
                    in_force = self.provider.rule(record.name)
                    assert in_force.mode in ("locked", record.network.mode)
                    if in_force.mode != "locked":
                        assert in_force.allow == record.network.allow


class RebuildingMachine(ManagerMachine):
    without = ("Resets",)


ManagerMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
RebuildingMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestManager = ManagerMachine.TestCase
TestRebuildingManager = RebuildingMachine.TestCase
