from __future__ import annotations

from pathlib import Path

import pytest
from orchestrator_helpers import make_manager, make_plan

from pytest_airlock.errors import ProviderError, ResetFailed, SandboxDied, StaleSandbox
from pytest_airlock.orchestrator.pool import Nobody, Pool
from pytest_airlock.providers.base import Command
from pytest_airlock.testing import FakeProvider


class Told(Nobody):
    """What a listener is told."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.proved: list[str] = []
        self.gone: list[str] = []

    def reset(self, name: str) -> None:
        self.proved.append(name)

    def failed(self, name: str, error: Exception) -> None:
        self.errors.append(error)

    def destroyed(self, name: str) -> None:
        self.gone.append(name)


@pytest.fixture(params=["resets at once", "retires"])
def provider(request: pytest.FixtureRequest) -> FakeProvider:
    return FakeProvider(without=["Retires"] if request.param == "resets at once" else [])


@pytest.fixture
def pool(tmp_path: Path, provider: FakeProvider) -> Pool:
    manager = make_manager(tmp_path / "state", provider)
    told = Told()
    pool = Pool(manager, max_idle=2, say=manager.said.append, listener=told)
    pool.manager, pool.told = manager, told
    return pool


def use(pool: Pool, name: str, key: str = "key") -> None:
    """Make a sandbox and give it back."""
    plan = make_plan(name, key=key)
    pool.manager.create(plan)
    pool.give_back(name, plan)


def test_what_comes_back_is_reset_and_handed_out_for_its_key_only(pool: Pool, provider: FakeProvider) -> None:
    plan = make_plan("one")
    pool.manager.create(plan)
    provider.files("one").write("/etc/dirt", b"x")
    pool.give_back("one", plan)
    assert pool.take("other key") is None
    assert pool.take("key") == "one"
    assert pool.take("key") is None
    with pytest.raises(FileNotFoundError):
        provider.files("one").read("/etc/dirt", limit=1)
    assert pool.told.proved == ["one"]


def test_hand_outs_end_and_all_inside_dies_when_it_comes_back_not_when_it_is_asked_for(pool, provider) -> None:
    plan = make_plan("one")
    pool.manager.create(plan)
    handout = pool.manager.backend("one")
    process = handout.spawn(Command(("/bin/sleep", "1000")))
    pool.give_back("one", plan)
    with pytest.raises(StaleSandbox):
        handout.environ()
    with pytest.raises(SandboxDied):
        process.wait(10)
    process.close()


@pytest.mark.parametrize(
    "error", [ResetFailed("one", "a process lives"), ProviderError("fake", "reset", "x"), OSError()]
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_cannot_be_proved_clean_is_destroyed_and_never_handed_out(pool: Pool, provider, error, when) -> None:
    provider.faults.fail("reset", error, when=when)
    use(pool, "one")
    assert pool.take("key") is None
    assert pool.told.errors == [error]
    assert pool.told.gone == ["one"]
    assert "could not be proved clean" in pool.manager.said[0]
    assert provider.names() == []
    assert pool.manager.names() == []


def test_an_interrupted_reset_is_no_proof(pool: Pool, provider: FakeProvider) -> None:
    provider.faults.fail("reset", KeyboardInterrupt, when="after")
    with pytest.raises(KeyboardInterrupt):
        use(pool, "one")
        pool.take("key")
    assert pool.take("key") is None
    assert provider.names() == []


def test_a_sandbox_that_does_not_run_after_its_reset_is_destroyed(pool: Pool, provider: FakeProvider) -> None:
    real = provider.reset

    def reset(handle, snapshot):
        proof = real(handle, snapshot)
        provider.die(handle.name)
        return proof

    provider.reset = reset
    use(pool, "one")
    assert pool.take("key") is None
    assert isinstance(pool.told.errors[0], ResetFailed)
    assert provider.names() == []


def test_one_that_is_gone_when_it_comes_back_is_destroyed_and_not_kept(pool: Pool, provider: FakeProvider) -> None:
    """As after a destroy that failed when all was done."""
    plan = make_plan("one")
    pool.manager.create(plan)
    provider.faults.fail("delete", ProviderError("fake", "delete", "for a test"), when="after")
    with pytest.raises(ProviderError):
        pool.manager.destroy("one")
    pool.give_back("one", plan)
    assert pool.take("key") is None
    assert pool.manager.names() == []
    assert pool.told.gone == ["one"]


def test_a_provider_without_snapshots_has_no_pool(tmp_path: Path) -> None:
    provider = FakeProvider(without=["Snapshots", "Resets", "Retires"])
    manager = make_manager(tmp_path / "state", provider)
    plan = make_plan()
    manager.create(plan)
    told = Told()
    Pool(manager, listener=told).give_back("box", plan)
    assert provider.names() == []
    assert told.errors == []
    assert told.gone == ["box"]


@pytest.mark.parametrize("provider", ["resets at once"], indirect=True)  # a retired one is dead while it waits
def test_one_that_died_while_it_waited_is_not_handed_out(pool: Pool, provider: FakeProvider) -> None:
    use(pool, "one")
    use(pool, "two")
    provider.die("two")
    assert pool.take("key") == "one"
    assert provider.names() == ["one"]
    assert "died while it waited" in pool.manager.said[0]


def test_the_oldest_of_another_key_goes_first(pool: Pool, provider: FakeProvider) -> None:
    use(pool, "a1", "a")
    use(pool, "b1", "b")
    use(pool, "a2", "a")
    assert pool.idle() == ["a1", "a2"]
    use(pool, "a3", "a")
    assert pool.idle() == ["a2", "a3"]
    assert provider.names() == ["a2", "a3"]


def test_r15_provisioning_runs_once_for_many_tests(pool: Pool, provider: FakeProvider) -> None:
    plan = make_plan("one", provision=(("true",),))
    pool.manager.create(plan)
    for _ in range(3):
        pool.give_back("one", plan)
        assert pool.take("key") == "one"
    assert len(provider.commands) == 1


def test_idle_sandboxes_make_room_for_one_that_needs_it(pool: Pool, provider: FakeProvider) -> None:
    plan = make_plan("one", spec={"cpu": 2})
    pool.manager.create(plan)
    pool.give_back("one", plan)
    pool.manager.create(make_plan("two", spec={"cpu": 2}))
    assert provider.names() == ["two"]
    assert not pool.make_room()


class Visited(FakeProvider):
    """Somebody enters sandboxes from another process."""

    def __init__(self, **words) -> None:
        super().__init__(**words)
        self.seen: set[str] = set()

    def attach(self, handle):
        raise NotImplementedError

    def visited(self, handle) -> bool:
        return handle.name in self.seen

    def reset(self, handle, snapshot):
        self.seen.discard(handle.name)
        return super().reset(handle, snapshot)


def test_what_was_visited_while_it_waited_is_reset_once_more(tmp_path: Path) -> None:
    provider = Visited(without=["Retires"])
    pool = Pool(make_manager(tmp_path / "state", provider))
    pool.manager = pool._manager
    use(pool, "one")
    provider.seen.add("one")
    provider.files("one").write("/etc/dirt", b"x")
    assert pool.take("key") == "one"
    with pytest.raises(FileNotFoundError):
        provider.files("one").read("/etc/dirt", limit=1)


def test_what_was_visited_and_cannot_be_reset_is_never_handed_out(tmp_path: Path) -> None:
    provider, said = Visited(without=["Retires"]), []
    pool = Pool(make_manager(tmp_path / "state", provider), say=said.append)
    pool.manager = pool._manager
    use(pool, "one")
    provider.seen.add("one")
    provider.faults.fail("reset", ResetFailed("one", "a process lives"))
    assert pool.take("key") is None
    assert provider.names() == []
    assert "could not be proved clean" in said[0]
