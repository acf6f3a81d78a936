"""Network policies of live sandboxes, changed by their owner and by other processes: record and policy stay one."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from orchestrator_helpers import begun, dead_owner, ended, make_manager, make_plan, make_record

from pytest_airlock.errors import (
    AirlockError,
    InvalidSpec,
    InvalidTransition,
    ProfileForbids,
    ProviderError,
    SandboxDied,
    SandboxNotFound,
    StoreError,
    UnsupportedFeature,
)
from pytest_airlock.models import Network, State
from pytest_airlock.orchestrator.orphans import handle_of
from pytest_airlock.providers.base import Fault, Handle, NetworkRule, Route
from pytest_airlock.sandbox import Sandbox
from pytest_airlock.testing import FakeProvider

BOOM = ProviderError("fake", "do it", "told so")
LOCKED, OPEN = Network(), Network(mode="open")
ONE = Network(mode="allow", allow=("one:1",))


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()


@pytest.fixture
def manager(tmp_path: Path, provider: FakeProvider):
    made = make_manager(tmp_path / "state", provider)
    made.create(make_plan())
    provider.calls.clear()
    return made


@pytest.fixture
def stranger(tmp_path: Path, manager):
    """The manager of a process that owns nothing; its provider knows what the handle in the record says."""
    return make_manager(manager.store.root, FakeProvider())


@pytest.fixture(params=["owner", "stranger"])
def either(request: pytest.FixtureRequest, manager):
    """Whoever it is: what is done, and what it does, are the same."""
    return manager if request.param == "owner" else request.getfixturevalue("stranger")


def in_force(provider: FakeProvider) -> Network:
    rule = provider.rule("box")
    return Network(mode=rule.mode, allow=rule.allow)


def recorded(manager) -> tuple[Network, Network | None]:
    record = manager.store.load("box")
    return record.network, record.before_lock


def test_r46_the_allow_list_survives_a_lock_by_anybody(manager, stranger, provider: FakeProvider) -> None:
    box = Sandbox(manager.backend("box"))
    box.network.allow("one:1")
    assert stranger.lock("box") == LOCKED
    assert in_force(provider) == LOCKED
    assert box.network.policy == LOCKED
    assert (stranger.status("box").network, stranger.status("box").before_lock) == (LOCKED, ONE)
    box.network.unlock()
    assert in_force(provider) == box.network.policy == ONE
    box.network.lock()
    assert stranger.unlock("box") == ONE
    assert in_force(provider) == ONE
    assert recorded(manager) == (ONE, None)


def test_r46_the_owner_adds_to_what_another_process_allowed(manager, stranger, provider: FakeProvider) -> None:
    box = Sandbox(manager.backend("box"))
    box.network.allow("one:1")
    stranger.allow("box", "Two:2")
    assert box.network.policy.allow == ("one:1", "two:2")
    box.network.allow("three:3")
    assert in_force(provider).allow == ("one:1", "two:2", "three:3")
    assert recorded(manager)[0] == in_force(provider)


def test_an_open_network_stays_open_and_reaches_what_is_listed_too(either, provider: FakeProvider) -> None:
    either.unlock("box")
    assert either.allow("box", "10.0.0.5:5432") == Network(mode="open", allow=("10.0.0.5:5432",))
    assert in_force(provider) == Network(mode="open", allow=("10.0.0.5:5432",))


def test_r46_a_reset_brings_back_the_policy_of_the_spec(manager, stranger, provider: FakeProvider) -> None:
    stranger.allow("box", "one:1")
    stranger.lock("box")
    manager.reset("box")
    assert (in_force(provider), recorded(manager)) == (LOCKED, (LOCKED, None))
    stranger.unlock("box")
    assert in_force(provider) == OPEN
    manager.recycle("box")
    assert (in_force(provider), recorded(manager)) == (LOCKED, (LOCKED, None))


def test_r46_restart_and_restore_keep_what_another_process_set(manager, stranger, provider: FakeProvider) -> None:
    stranger.allow("box", "one:1")
    manager.restore("box", manager.snapshot("box"))
    assert in_force(provider) == ONE
    manager.stop("box")
    manager.start("box")
    assert in_force(provider) == ONE


def test_a_sandbox_of_which_the_network_was_changed_is_not_pristine(manager, stranger) -> None:
    assert not manager.visited("box")
    stranger.lock("box")
    assert manager.visited("box")
    manager.recycle("box")
    assert not manager.visited("box")


def test_routes_of_the_owner_stay_unless_it_is_locked(manager, stranger, provider: FakeProvider) -> None:
    routes = (Route("db.test:5432", ("127.0.0.1", 5), Fault()),)
    provider.set_network(handle_of(manager.store.load("box")), NetworkRule("allow", ("a:1",), routes))
    stranger.unlock("box")
    assert provider.rule("box").routes == routes
    stranger.lock("box")
    assert provider.rule("box") == NetworkRule()


@pytest.mark.parametrize("change", [lambda who: who.unlock("box"), lambda who: who.allow("box", "a:1")])
@pytest.mark.parametrize("who", ["owner", "stranger"])
def test_r46_the_profile_binds_everybody_even_one_that_others_do_not_know(tmp_path, provider, who, change) -> None:
    manager = make_manager(tmp_path / "state", provider)
    manager.create(make_plan(profile={"name": "own", "network_allowed": ("locked",)}))
    with pytest.raises(ProfileForbids, match="profile 'own'"):
        change(manager if who == "owner" else make_manager(manager.store.root, FakeProvider()))
    assert in_force(provider) == LOCKED


def test_what_is_no_entry_is_refused_before_anybody_is_asked(either, provider: FakeProvider) -> None:
    with pytest.raises(InvalidSpec, match=r"allow\[1\]='nonsense' is not valid"):
        either.allow("box", "fine:1", "nonsense")
    assert provider.calls == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_r46_a_change_that_fails_is_undone(either, manager, provider: FakeProvider, when) -> None:
    either.allow("box", "one:1")
    provider.faults.fail("set_network", BOOM, when=when)
    with pytest.raises(ProviderError):
        either.unlock("box")
    assert (in_force(provider), recorded(manager)) == (ONE, (ONE, None))


def failing_saves(manager, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    save, left = manager.store.save, [times]

    def fail(record) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise StoreError("records/box.json", "No space left on device")
        save(record)

    monkeypatch.setattr(manager.store, "save", fail)


def test_r46_what_cannot_be_recorded_is_not_in_force(either, manager, provider, monkeypatch) -> None:
    failing_saves(either, monkeypatch, 1)
    with pytest.raises(StoreError):
        either.allow("box", "one:1")
    assert (in_force(provider), recorded(manager)) == (LOCKED, (LOCKED, None))


def test_r46_if_the_old_policy_cannot_be_put_back_the_sandbox_is_errored(
    either, manager, provider, monkeypatch
) -> None:
    failing_saves(either, monkeypatch, 1)
    real, calls = provider.set_network, iter([None, BOOM])

    def second_fails(handle: Handle, rule: NetworkRule) -> None:
        if error := next(calls):
            raise error
        real(handle, rule)

    monkeypatch.setattr(provider, "set_network", second_fails)
    with pytest.raises(StoreError) as caught:
        either.allow("box", "one:1")
    assert "told so" in caught.value.__notes__[0]
    record = manager.store.load("box")
    assert (record.state, record.remains) == (State.ERRORED, "a network policy that is not the recorded one")
    with pytest.raises(AirlockError, match="errored"):
        either.lock("box")
    with pytest.raises(InvalidTransition):
        manager.reset("box")


def test_a_life_that_ends_meanwhile_takes_its_policy_along(manager, stranger, provider: FakeProvider) -> None:
    hold = provider.faults.block("set_network")
    errors: list[BaseException] = []

    def unlock() -> None:
        try:
            stranger.unlock("box")
        except SandboxDied as error:
            errors.append(error)

    thread = threading.Thread(target=unlock)
    thread.start()
    assert hold.entered.wait(10)
    manager.stop("box")
    hold.release.set()
    thread.join(10)
    assert len(errors) == 1
    assert (manager.store.load("box").state, recorded(manager)) == (State.STOPPED, (LOCKED, None))
    manager.start("box")
    assert in_force(provider) == LOCKED


def test_r46_while_a_provider_takes_its_time_others_look_and_the_next_change_waits(manager, stranger, provider) -> None:
    hold = provider.faults.block("set_network")
    first = threading.Thread(target=stranger.allow, args=("box", "one:1"))
    second = threading.Thread(target=manager.allow, args=("box", "two:2"))
    first.start()
    assert hold.entered.wait(10)
    second.start()
    assert [info.network for info in manager.list()] == [LOCKED]
    assert stranger.status("box").network == LOCKED
    hold.release.set()
    first.join(10)
    second.join(10)
    assert in_force(provider).allow == ("one:1", "two:2")
    assert recorded(manager)[0] == in_force(provider)


def test_r46_a_reset_waits_for_a_change_under_way_and_undoes_it(manager, stranger, provider: FakeProvider) -> None:
    hold = provider.faults.block("set_network")
    changer = threading.Thread(target=stranger.unlock, args=("box",))
    resetter = threading.Thread(target=manager.reset, args=("box",))
    changer.start()
    assert hold.entered.wait(10)
    resetter.start()
    hold.release.set()
    changer.join(10)
    resetter.join(10)
    assert (in_force(provider), recorded(manager)) == (LOCKED, (LOCKED, None))


def test_a_name_that_another_sandbox_has_by_now_is_not_recorded_for_it(manager, stranger, monkeypatch) -> None:
    record = manager.store.load("box")
    loads = iter([record, record.model_copy(update={"created": 2.0})])
    monkeypatch.setattr(stranger.store, "load", lambda name: next(loads))
    with pytest.raises(SandboxNotFound, match="removed meanwhile"):
        stranger.unlock("box")
    assert recorded(manager) == (LOCKED, None)


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"owner": dead_owner()}, SandboxDied, "has ended"),
        ({"state": State.STOPPED}, AirlockError, "it is stopped, not running"),
        ({"state": State.CREATING}, AirlockError, "it is creating, not running"),
        ({"state": State.ERRORED}, AirlockError, "it is errored, not running"),
        ({"provider": "plain"}, UnsupportedFeature, "cannot let other processes enter"),
    ],
    ids=["dead", "stopped", "creating", "errored", "cannot"],
)
def test_what_cannot_be_entered_cannot_be_changed(stranger, fields, error, text) -> None:
    stranger.providers.register("plain", lambda: FakeProvider("plain", without=("Attaches",)))
    stranger.store.save(make_record("other", handle=Handle("fake", "other", {"fake": 0}).to_json(), **fields))
    with pytest.raises(error, match=text):
        stranger.lock("other")
    with pytest.raises(SandboxNotFound):
        stranger.lock("nobody")


class OnDisk(FakeProvider):
    """Its policies are in a file, for all processes."""

    def __init__(self, file: Path, **words: object) -> None:
        super().__init__(**words)
        self.file = file

    def set_network(self, handle: Handle, rule: NetworkRule) -> None:
        super().set_network(handle, rule)
        self.file.write_text(Network(mode=rule.mode, allow=rule.allow).model_dump_json())


def test_r46_processes_that_change_at_once_lose_nothing_and_leave_the_record_true(tmp_path: Path) -> None:
    provider = OnDisk(tmp_path / "rule")
    manager = make_manager(tmp_path / "state", provider)
    manager.create(make_plan())

    def change(who: str) -> None:
        mine = make_manager(manager.store.root, FakeProvider())
        for number in range(25):
            mine.allow("box", f"{who}-{number}:1")
            if number % 5 == 0:
                mine.lock("box")
                mine.unlock("box")

    children = [begun(lambda who=who: change(who)) for who in "ab"]
    for number in range(25):
        manager.allow("box", f"owner-{number}:1")
    assert [ended(child) for child in children] == [0, 0]
    network, _ = recorded(manager)
    assert Network.model_validate_json(provider.file.read_text()) == network
    assert set(network.allow) == {f"{who}-{number}:1" for who in ("a", "b", "owner") for number in range(25)}
