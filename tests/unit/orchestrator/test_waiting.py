from __future__ import annotations

import os
from pathlib import Path

import pytest
from orchestrator_helpers import FakeResources, dead_owner, in_child, living_child, make_manager, make_plan, make_record

from pytest_airlock.errors import InsufficientResources, StoreError
from pytest_airlock.models import SandboxSpec
from pytest_airlock.orchestrator.storage.process_identity import current_owner
from pytest_airlock.orchestrator.storage.store import MACHINE, FileStore
from pytest_airlock.testing import FakeClock, FakeProvider


class ReleasingClock(FakeClock):
    """At its `n`-th sleep it does what it was told."""

    def __init__(self, n: int, act) -> None:
        super().__init__()
        self._left, self._act = n, act

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self._left -= 1
        if self._left == 0:
            self._act()


def hold(manager, cpu: int):
    """Another live process that holds so many processors."""

    def work() -> None:
        spec = SandboxSpec(cpu=cpu)
        manager.store.reserve("theirs", current_owner(worker="gw7"))
        manager.store.save(make_record("theirs", owner=current_owner(worker="gw7"), spec=spec))

    return living_child(work)


def test_it_waits_for_what_others_hold_and_says_so_once(tmp_path: Path) -> None:
    clock = ReleasingClock(5, lambda: manager.store.remove("theirs"))
    manager = make_manager(tmp_path / "state", FakeProvider(), clock=clock)
    with hold(manager, 1) as pid:
        manager.create(make_plan(spec={"cpu": 2}))
    assert len(manager.said) == 1
    assert f"'theirs' (pid {pid})" in manager.said[0]


def test_waiting_ends_and_names_the_holders(tmp_path: Path) -> None:
    clock = FakeClock()
    start = clock.monotonic()
    provider = FakeProvider()
    manager = make_manager(tmp_path / "state", provider, clock=clock, wait=300.0)
    with hold(manager, 1), pytest.raises(InsufficientResources) as caught:
        manager.create(make_plan(spec={"cpu": 2}))
    assert 300 <= clock.monotonic() - start < 310
    assert "'theirs'" in caught.value.__notes__[0]
    assert "300 s" in caught.value.__notes__[0]
    assert provider.names() == []


def test_what_can_never_fit_is_not_waited_for(tmp_path: Path) -> None:
    clock = FakeClock()
    start = clock.monotonic()
    manager = make_manager(tmp_path / "state", FakeProvider(), clock=clock)
    with pytest.raises(InsufficientResources):
        manager.create(make_plan(spec={"cpu": 4}))
    assert clock.monotonic() == start


def test_a_process_never_waits_for_what_it_holds_itself(tmp_path: Path) -> None:
    clock = FakeClock()
    start = clock.monotonic()
    manager = make_manager(tmp_path / "state", FakeProvider(), clock=clock)
    manager.create(make_plan("mine", spec={"cpu": 1}))
    with pytest.raises(InsufficientResources) as caught:
        manager.create(make_plan(spec={"cpu": 2}))
    assert clock.monotonic() == start
    assert "this process holds the rest itself" in caught.value.__notes__[0]


def test_the_dead_hold_nothing(tmp_path: Path) -> None:
    manager = make_manager(tmp_path / "state", FakeProvider())
    manager.store.save(make_record("theirs", owner=dead_owner(), spec=SandboxSpec(cpu=2)))
    manager.create(make_plan(spec={"cpu": 2}))
    assert manager.said == []


def test_no_other_process_checks_between_check_and_reservation(tmp_path: Path) -> None:
    seen = []

    class Resources(FakeResources):
        def check(self, need, held) -> None:
            seen.append(in_child(another_is_kept_out))

    def another_is_kept_out() -> None:
        other = FileStore(tmp_path / "state")
        other._locks._patience = 0.0
        with pytest.raises(StoreError, match="another process holds this lock"), other.locked(MACHINE):
            pass

    make_manager(tmp_path / "state", FakeProvider(), resources=Resources()).create(make_plan(spec={"cpu": 1}))
    assert seen == [0]


def test_two_processes_never_reserve_the_same_processor(tmp_path: Path) -> None:
    reader, writer = os.pipe()

    def race() -> None:
        manager = make_manager(tmp_path / "state", FakeProvider(), wait=0.0)
        name = f"box-{os.getpid()}"
        try:
            manager.create(make_plan(name, spec={"cpu": 1}))
        except InsufficientResources:
            os.write(writer, b"n")
        else:
            os.write(writer, b"y")

    with living_child(race), living_child(race), living_child(race), living_child(race):
        answers = os.read(reader, 4)
    os.close(reader)
    os.close(writer)
    assert sorted(answers) == sorted(b"yynn")
