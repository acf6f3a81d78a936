from __future__ import annotations

import os
from pathlib import Path

import pytest
from orchestrator_helpers import (
    FakeResources,
    dead_owner,
    in_child,
    kill,
    living_child,
    make_providers,
    make_record,
)

import pytest_airlock
from pytest_airlock.errors import (
    AirlockError,
    AlreadyExists,
    InvalidSpec,
    ProfileForbids,
    ProviderError,
    ResetFailed,
    StaleSandbox,
    UnsupportedFeature,
)
from pytest_airlock.models import Network, SandboxSpec, State
from pytest_airlock.orchestrator import AirlockSession, Setup
from pytest_airlock.orchestrator import session as session_module
from pytest_airlock.providers.base import FEATURES, Handle
from pytest_airlock.testing import FakeClock, FakeProvider


class Events:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def reset(self, name: str) -> None:
        self.seen.append(("reset", name))

    def failed(self, name: str, error: Exception) -> None:
        self.seen.append(("failed", type(error).__name__))

    def destroyed(self, name: str) -> None:
        self.seen.append(("destroyed", name))


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()


def make_setup(tmp_path: Path, provider: FakeProvider, **given: object) -> Setup:
    values = {
        "state_dir": tmp_path / "state",
        "worker": "gw0",
        "default_provider": provider.name,
        "providers": make_providers(provider),
        "resources": FakeResources(),
        "clock": FakeClock(),
        **given,
    }
    return Setup(**values)


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def session(tmp_path: Path, provider: FakeProvider, events: Events):
    made = AirlockSession(make_setup(tmp_path, provider), listener=events)
    yield made
    made.close()


def left_over(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "state").rglob("*") if path.is_file())


SPEC = SandboxSpec()


def test_the_next_test_gets_the_same_sandbox_pristine_in_a_new_hand_out(session, provider, events) -> None:
    first = session.acquire(SPEC, "test_a")
    first.path("/etc/dirt").write_text("x")
    name = first.info.name
    session.release(first)
    second = session.acquire(SPEC, "test_b")
    assert second.info.name == name
    assert second is not first
    assert not second.path("/etc/dirt").exists()
    with pytest.raises(StaleSandbox):
        first.run(["true"])
    assert [call for call, _ in provider.calls].count("create") == 1
    assert events.seen == [("reset", name)]


def test_another_key_gets_another_sandbox(session, provider: FakeProvider) -> None:
    one = session.acquire(SPEC)
    two = session.acquire(SPEC)
    session.release(one)
    other = session.acquire(SandboxSpec(env={"A": "b"}))
    assert len({one.name, two.name, other.name}) == 3
    assert len(provider.names()) == 3


def test_a_reset_that_fails_destroys_says_so_and_the_next_is_new(session, provider, events) -> None:
    first = session.acquire(SPEC)
    provider.faults.fail("reset", ResetFailed(first.name, "a process lives"))
    session.release(first)
    second = session.acquire(SPEC)
    assert second.name != first.name
    assert provider.names() == [second.name]
    assert "a process lives" in session.messages[-1]
    assert events.seen == [("failed", "ResetFailed"), ("destroyed", first.name)]


def test_a_name_of_a_marker_gets_worker_and_number_and_skips_the_pool(session, provider: FakeProvider) -> None:
    spec = SandboxSpec(name="db")
    first = session.acquire(spec, "test_a")
    assert first.name == "db-gw0-1"
    assert first.info.owner.test == "test_a"
    session.release(first)
    assert provider.names() == []
    assert session.acquire(spec, "test_b").name == "db-gw0-2"


def test_a_number_that_another_run_has_is_passed_over(session) -> None:
    session.manager.store.save(make_record("db-gw0-1", owner=dead_owner(), kept=True))
    assert session.acquire(SandboxSpec(name="db")).name == "db-gw0-2"


def test_a_factorys_name_is_literal(session, provider: FakeProvider) -> None:
    sandbox = session.create_named(SandboxSpec(name="db"), "test_a")
    assert sandbox.name == "db"
    with pytest.raises(AlreadyExists, match="test_a"):
        session.create_named(SandboxSpec(name="db"), "test_b")
    unnamed = session.create_named(SPEC, "test_x.py::test_unnamed")
    assert unnamed.name.startswith("test-unnamed-")
    session.release(sandbox)
    session.release(sandbox)
    assert provider.names() == [unnamed.name]


def test_a_sandbox_that_cannot_be_made_is_told(session, provider, events) -> None:
    provider.faults.fail("start", ProviderError("fake", "start", "no room"))
    with pytest.raises(ProviderError):
        session.acquire(SPEC)
    assert events.seen == [("failed", "ProviderError")]
    assert session.acquire(SPEC).run(["true"]).returncode == 0


def test_close_destroys_what_is_lent_idle_and_named(tmp_path: Path, provider: FakeProvider) -> None:
    session = AirlockSession(make_setup(tmp_path, provider))
    lent = session.acquire(SPEC)
    session.release(session.acquire(SandboxSpec(env={"A": "b"})))
    session.create_named(SandboxSpec(name="db"))
    session.close()
    session.close()
    assert provider.names() == []
    assert left_over(tmp_path) == []
    with pytest.raises(StaleSandbox):
        lent.run(["true"])
    with pytest.raises(AirlockError, match="closed"):
        session.acquire(SPEC)


def test_close_goes_on_after_errors_and_raises_the_first_with_the_others(tmp_path: Path, provider) -> None:
    session = AirlockSession(make_setup(tmp_path, provider))
    for name in ("a", "b", "c"):
        session.create_named(SandboxSpec(name=name))
    provider.faults.fail("delete", ProviderError("fake", "delete", "first"), name="a")
    provider.faults.fail("delete", ProviderError("fake", "delete", "second"), name="b")
    with pytest.raises(ProviderError, match="first") as caught:
        session.close()
    assert any("second" in note for note in caught.value.__notes__)
    assert ("delete", "c") in provider.calls
    assert ("close", "") in provider.calls
    assert {"a.json", "b.json"} <= set(left_over(tmp_path))
    assert "c.json" not in left_over(tmp_path)


def test_r12_an_ephemeral_sandbox_goes_with_its_owner_and_the_next_run_says_so(tmp_path: Path, provider) -> None:
    def run() -> None:
        session = AirlockSession(make_setup(tmp_path, FakeProvider()))
        session.create_named(SandboxSpec(name="db"), "test_x.py::test_y")
        session.acquire(SPEC)

    with living_child(run) as pid:
        quiet = AirlockSession(make_setup(tmp_path, provider))
        assert quiet.messages == []
        quiet.close()
        assert "db.json" in left_over(tmp_path)
        kill(pid)
    told: list[str] = []
    session = AirlockSession(make_setup(tmp_path, provider, say=told.append))
    assert len(session.messages) == 2
    assert told == session.messages
    assert any("'db'" in text and f"process {pid}" in text and "test_y" in text for text in told)
    assert ("delete", "db") in provider.calls
    session.close()
    assert left_over(tmp_path) == []


def test_r12_an_orphan_that_cannot_be_deleted_is_said_and_stays_recorded(tmp_path: Path, provider) -> None:
    first = AirlockSession(make_setup(tmp_path, provider))
    first.manager.store.save(make_record("bad", owner=dead_owner()))
    first.manager.store.save(make_record("good", owner=dead_owner()))
    provider.faults.fail("delete", ProviderError("fake", "delete", "stuck"), name="bad")
    told = AirlockSession(make_setup(tmp_path, provider)).messages
    assert any("could not remove sandbox 'bad'" in text and "stuck" in text for text in told)
    assert any("removed sandbox 'good'" in text for text in told)
    record = first.manager.store.load("bad")
    assert (record.state, record.remains) == (State.ERRORED, "the sandbox")
    again = AirlockSession(make_setup(tmp_path, provider)).messages
    assert ["removed sandbox 'bad'" in text for text in again] == [True]


def test_r12_the_orphan_of_an_unknown_provider_is_said(tmp_path: Path, provider: FakeProvider) -> None:
    first = AirlockSession(make_setup(tmp_path, provider))
    first.manager.store.save(make_record("lost", owner=dead_owner(), provider="gone"))
    assert "there is no such provider" in AirlockSession(make_setup(tmp_path, provider)).messages[0]


def test_r12_an_owner_killed_before_there_was_a_handle_is_cleaned_up_by_name(tmp_path: Path, provider) -> None:
    first = AirlockSession(make_setup(tmp_path, provider))
    first.manager.store.save(make_record("early", owner=dead_owner(), state=State.CREATING))
    AirlockSession(make_setup(tmp_path, provider))
    assert ("delete", "early") in provider.calls


def test_r12_a_kept_sandbox_is_not_destroyed_with_its_owner(tmp_path: Path, provider: FakeProvider) -> None:
    session = AirlockSession(make_setup(tmp_path, provider, default_profile="trusted"))
    kept = session.create_named(SandboxSpec(name="kept", keep=True))
    lent = session.create_named(SandboxSpec(name="lent", keep=True))
    session.create_named(SandboxSpec(name="gone"))
    session.release(kept)
    with pytest.raises(StaleSandbox):
        kept.run(["true"])
    session.close()
    assert provider.names() == ["kept", "lent"]
    assert provider.is_running(Handle("fake", "kept"))
    assert any("airlock destroy kept" in text for text in session.messages)
    with pytest.raises(StaleSandbox):
        lent.run(["true"])

    # The next run leaves it alone, although nobody holds it any more.
    def next_run() -> None:
        later = AirlockSession(make_setup(tmp_path, provider))
        if later.messages or provider.names() != ["kept", "lent"]:
            raise AssertionError(later.messages)

    assert in_child(next_run) == 0


def test_r12_what_cannot_live_on_is_kept_as_files_and_its_provider_closed(tmp_path: Path, events: Events) -> None:
    provider = FakeProvider(features=FEATURES.keys() - {"outlives"})
    session = AirlockSession(make_setup(tmp_path, provider, default_profile="trusted"), listener=events)
    for name in ("kept", "lent"):
        session.create_named(SandboxSpec(name=name, keep=True, network=Network())).path("/etc/left").write_text(name)
    session.release(next(lent.sandbox for lent in session._lent.values() if lent.name == "kept"))
    session.close()
    assert provider.names() == []
    assert ("close", "") in provider.calls
    for name in ("kept", "lent"):
        place = tmp_path / "state/kept" / name
        assert (place / "files/etc/left").read_text() == name
        assert any(f"files in {place}: `airlock destroy {name}`" in text for text in session.messages)
    assert events.seen == [("destroyed", "kept"), ("destroyed", "lent")]


def test_r12_a_provider_of_sandboxes_that_live_on_is_not_closed(tmp_path: Path, provider: FakeProvider) -> None:
    session = AirlockSession(make_setup(tmp_path, provider, default_profile="trusted"))
    session.create_named(SandboxSpec(name="kept", keep=True))
    session.close()
    assert ("close", "") not in provider.calls


def test_r12_a_profile_that_must_not_outlive_the_run_keeps_nothing(session, provider: FakeProvider) -> None:
    with pytest.raises(ProfileForbids):
        session.create_named(SandboxSpec(name="kept", keep=True))
    sandbox = session.create_named(SandboxSpec(name="kept"))
    with pytest.raises(ProfileForbids):
        session.release(sandbox, keep=True)
    session.close()
    assert provider.names() == []


def test_a_forked_child_neither_uses_nor_ends_its_parents_sandboxes(session, provider: FakeProvider) -> None:
    sandbox = session.acquire(SPEC)

    def child() -> None:
        with pytest.raises(AirlockError, match="belongs to process") as caught:
            session.acquire(SPEC)
        if str(os.getppid()) not in str(caught.value):
            raise AssertionError(str(caught.value))
        provider.calls.clear()
        session.release(sandbox)
        session.close()
        if provider.calls:
            raise AssertionError(f"the child did {provider.calls}")

    assert in_child(child) == 0
    assert sandbox.run(["true"]).returncode == 0


def test_notes_of_a_plan_are_said_once(tmp_path: Path, provider: FakeProvider) -> None:
    (tmp_path / "plain").mkdir()
    session = AirlockSession(make_setup(tmp_path, provider, project_root=tmp_path / "plain"))
    for name in ("a", "b"):
        session.create_named(SandboxSpec(name=name))
    assert len([text for text in session.messages if "no project is visible" in text]) == 1
    session.close()


@pytest.fixture
def outside_pytest(tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    real = session_module.Setup
    monkeypatch.setattr(
        session_module, "Setup", lambda **given: make_setup(tmp_path, provider, **given) if given else real()
    )


@pytest.mark.usefixtures("outside_pytest")
def test_create_sandbox_lasts_as_long_as_its_block(tmp_path: Path, provider: FakeProvider) -> None:
    with pytest_airlock.create_sandbox(profile="strict", env={"A": "b"}) as box:
        assert box.run(["env"]).stdout.count("A=b\n") == 1
        assert box.info.profile == "strict"
        assert provider.names() == [box.name]
    assert provider.names() == []
    assert left_over(tmp_path) == []


@pytest.mark.usefixtures("outside_pytest")
def test_create_sandbox_keeps_the_error_of_the_block_first(provider: FakeProvider) -> None:
    provider.faults.fail("delete", ProviderError("fake", "delete", "stuck"))
    with pytest.raises(ZeroDivisionError) as caught, pytest_airlock.create_sandbox():
        raise ZeroDivisionError
    assert "stuck" in caught.value.__notes__[0]


@pytest.mark.usefixtures("outside_pytest")
def test_create_sandbox_raises_what_its_end_raises(provider: FakeProvider) -> None:
    provider.faults.fail("delete", ProviderError("fake", "delete", "stuck"))
    with pytest.raises(ProviderError, match="stuck"), pytest_airlock.create_sandbox():
        pass


def test_create_sandbox_checks_its_words_before_anything(provider: FakeProvider) -> None:
    with pytest.raises(InvalidSpec, match="memori"), pytest_airlock.create_sandbox(memori="1G"):
        pass


def test_a_provider_that_cannot_is_told_before_anything_is_made(tmp_path: Path) -> None:
    provider = FakeProvider(features={"network_locked"})
    session = AirlockSession(make_setup(tmp_path, provider))
    with pytest.raises(UnsupportedFeature):
        session.acquire(SandboxSpec(memory="1G"))
    assert provider.names() == []
    session.close()
    assert left_over(tmp_path) == []
