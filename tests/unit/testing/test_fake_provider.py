"""FakeProvider: what it offers beyond the contract, which the conformance suite tests."""

from __future__ import annotations

import threading

import pytest

from pytest_airlock.conformance.machine import all_dead
from pytest_airlock.errors import ProviderUnavailable, SandboxDied, SandboxNotFound, UnsupportedFeature
from pytest_airlock.providers.base import (
    FEATURES,
    Adopts,
    Command,
    Diffs,
    Exit,
    Features,
    Networks,
    Process,
    Provider,
    ProviderSpec,
    Resets,
    ResolvedMount,
    Snapshots,
    Stores,
)
from pytest_airlock.testing import FakeClock, FakeProvider, FaultScript

PROTOCOLS = {
    "Snapshots": Snapshots,
    "Resets": Resets,
    "Diffs": Diffs,
    "Networks": Networks,
    "Adopts": Adopts,
    "Stores": Stores,
}


@pytest.fixture
def provider():
    provider = FakeProvider(clock=FakeClock())
    yield provider
    provider.faults = FaultScript()
    provider.close()


@pytest.fixture
def handle(provider):
    handle = provider.create(ProviderSpec("box"))
    provider.start(handle)
    return handle


def spawn(provider, handle, *argv, **words):
    return provider.spawn(handle, Command(argv, tuple(provider.environ(handle).items()), **words))


def test_r08_it_satisfies_every_protocol(provider, handle):
    assert isinstance(provider, Provider)
    assert all(isinstance(provider, protocol) for protocol in PROTOCOLS.values())
    process = spawn(provider, handle, "true")
    assert isinstance(process, Process)
    process.close()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_can_be_left_out(name):
    provider = FakeProvider("other", without=(name,))
    assert [other for other, protocol in PROTOCOLS.items() if not isinstance(provider, protocol)] == [name]
    assert isinstance(provider, FakeProvider)
    assert isinstance(provider, Provider)
    assert provider.name == "other"
    assert isinstance(FakeProvider(), PROTOCOLS[name]), "others keep it"


def test_an_unknown_protocol_is_an_error():
    with pytest.raises(KeyError):
        FakeProvider(without=("Typo",))


def test_calls_and_commands_are_kept_in_order(provider, handle):
    spawn(provider, handle, "echo", "x").close()
    assert provider.calls == [("create", "box"), ("start", "box"), ("environ", "box"), ("spawn", "box")]
    [(name, command)] = provider.commands
    assert (name, command.argv) == ("box", ("echo", "x"))


def test_a_fault_happens_as_often_as_it_is_told(provider, handle):
    provider.faults.fail("is_running", OSError("lost"), times=2)
    for _ in range(2):
        with pytest.raises(OSError, match="lost"):
            provider.is_running(handle)
    assert provider.is_running(handle)


def test_a_fault_can_be_of_one_sandbox_only(provider, handle):
    other = provider.create(ProviderSpec("other"))
    provider.faults.fail("start", SandboxDied("other"), name="other")
    provider.start(handle)
    with pytest.raises(SandboxDied):
        provider.start(other)


@pytest.mark.parametrize(("when", "left"), [("before", []), ("after", ["box"])])
def test_a_fault_comes_before_or_after_the_work(provider, when, left):
    provider.faults.fail("create", RuntimeError, when=when)
    with pytest.raises(RuntimeError):
        provider.create(ProviderSpec("box"))
    assert provider.names() == left


def test_a_host_where_it_does_not_work(provider):
    provider.faults.fail("probe", ProviderUnavailable("fake", "a reason", hint="a fix"))
    with pytest.raises(ProviderUnavailable, match="a reason"):
        provider.probe()


def test_an_operation_can_be_held(provider, handle):
    entered, release = provider.faults.block("is_running")
    answers = []
    thread = threading.Thread(target=lambda: answers.append(provider.is_running(handle)))
    thread.start()
    assert entered.wait(10)
    assert answers == []
    release.set()
    thread.join(10)
    assert answers == [True]


def test_a_hold_that_nobody_releases_fails(provider, handle, monkeypatch):
    monkeypatch.setattr("pytest_airlock.testing.faults.HOLD_LIMIT", 0.01)
    provider.faults.block("is_running")
    with pytest.raises(TimeoutError, match="not released"):
        provider.is_running(handle)


def test_die(provider, handle):
    process = spawn(provider, handle, "sleep", "100")
    provider.files("box").write("/opt/f", b"1")
    provider.die("box", "the kernel killed it")
    assert not provider.is_running(handle)
    for call in (process.poll, process.wait, lambda: spawn(provider, handle, "true")):
        with pytest.raises(SandboxDied):
            call()
    process.close()
    provider.start(handle)
    assert provider.read(handle, "/opt/f", limit=1) == b"1"


def test_a_process_that_had_ended_keeps_its_exit_when_the_sandbox_dies(provider, handle):
    process = spawn(provider, handle, "sh", "-c", "exit 3")
    process.wait()
    provider.die("box")
    assert process.poll() == Exit(3)
    process.close()


def test_features_can_be_chosen():
    provider = FakeProvider(features=("network_locked",))
    assert provider.probe().present == {"network_locked"}
    assert provider.probe().absent.keys() == FEATURES.keys() - {"network_locked"}
    with pytest.raises(UnsupportedFeature, match="'memory'"):
        provider.create(ProviderSpec("box", required=frozenset({"memory"})))
    assert provider.create(ProviderSpec("box")).enforced == ("network_locked",)
    exact = Features(frozenset({"cpu"}))
    assert FakeProvider(features=exact).probe() is exact
    with pytest.raises(ValueError, match="telepathy"):
        FakeProvider(features=("telepathy",))


def test_another_user_than_that_of_the_spec_needs_many_users():
    provider = FakeProvider(features=FEATURES.keys() - {"many_users"})
    handle = provider.create(ProviderSpec("box"))
    provider.start(handle)
    spawn(provider, handle, "true", user="root").close()
    with pytest.raises(UnsupportedFeature, match="many_users"):
        spawn(provider, handle, "true", user="airlock")
    provider.close()


def test_only_limits_that_were_asked_for_are_enforced(provider):
    plain, limited = provider.create(ProviderSpec("a")), provider.create(ProviderSpec("b", memory=1, cpu=1))
    assert {"cpu", "memory", "disk"} & set(plain.enforced) == set()
    assert {"cpu", "memory", "disk"} & set(limited.enforced) == {"cpu", "memory"}


def test_stop_spends_its_grace_on_the_given_clock(handle, provider):
    process = spawn(provider, handle, "sh", "-c", "trap '' TERM; echo ready; sleep 100 & wait")
    assert process.stdout.read(6) == b"ready\n"
    provider.stop(handle, grace=4.5)
    assert provider._clock.sleeps == [4.5]
    process.close()


def test_programs_can_be_added(handle, provider):
    mine = FakeProvider(programs={"greet": lambda context: context.out(f"hello {context.argv[1]}\n")})
    box = mine.create(ProviderSpec("box"))
    mine.start(box)
    process = spawn(mine, box, "greet", "you")
    assert process.wait() == Exit(0)
    assert process.stdout.read() == b"hello you\n"
    process.close()
    mine.close()


def test_mounts_are_empty_directories_and_no_host_file_is_read(provider, tmp_path):
    (tmp_path / "host").touch()
    spec = ProviderSpec("box", mounts=(ResolvedMount(str(tmp_path), "/srv/project", "cow"),))
    handle = provider.create(spec)
    provider.start(handle)
    assert provider.listdir(handle, "/srv/project") == []
    assert provider.spec("box") == spec


def breed(context):
    """Each starts the next and is over."""
    context.world.start_program(context, context.argv, context.task)


@pytest.mark.parametrize("round_", range(8))
def test_what_is_started_while_it_is_stopped_for_a_snapshot_dies_too(round_):
    mine = FakeProvider(programs={"breed": breed})
    box = mine.create(ProviderSpec("box"))
    mine.start(box)
    process = spawn(mine, box, "breed")
    process.wait()
    mine.snapshot(box, stop=True)
    assert all_dead(process)
    mine.snapshot(box)
    process.close()
    mine.close()


def test_a_handle_that_was_never_made_cannot_be_started(provider, handle):
    provider.delete(handle)
    with pytest.raises(SandboxNotFound):
        provider.start(handle)


def test_the_policy_in_force_can_be_looked_at(provider, handle):
    assert provider.rule("box").mode == "locked"


def test_no_thread_is_left(provider, handle):
    before = threading.active_count()
    process = spawn(provider, handle, "sh", "-c", "sleep 100 & sleep 100 & yes")
    provider.delete(handle)
    assert threading.active_count() == before
    process.close()


class TestClock:
    def test_time_passes_by_sleeping_and_by_advancing(self):
        clock = FakeClock(100.0)
        clock.sleep(5)
        clock.advance(2.5)
        assert (clock.time(), clock.monotonic(), clock.sleeps) == (107.5, 7.5, [5])

    def test_time_does_not_go_back(self):
        for call in (FakeClock().sleep, FakeClock().advance):
            with pytest.raises(ValueError, match=r"negative|back"):
                call(-1)

    def test_it_satisfies_the_contract(self):
        from pytest_airlock.orchestrator.contracts import Clock

        assert isinstance(FakeClock(), Clock)
