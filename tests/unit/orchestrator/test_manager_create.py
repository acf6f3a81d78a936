from __future__ import annotations

import threading
from pathlib import Path

import pytest
from orchestrator_helpers import FakeResources, dead_owner, in_child, make_manager, make_plan, make_record

from pytest_airlock.errors import (
    AlreadyExists,
    CommandFailed,
    HeldElsewhere,
    InsufficientResources,
    InvalidTransition,
    ProviderError,
    SandboxNotFound,
    StoreError,
    UnsupportedFeature,
)
from pytest_airlock.models import Network, SandboxSpec, State
from pytest_airlock.orchestrator.contracts import Manager
from pytest_airlock.orchestrator.storage.store import FileStore
from pytest_airlock.providers.base import Command, NetworkRule, ResolvedMount
from pytest_airlock.testing import FakeProvider

BOOM = ProviderError("fake", "do it", "told so")
MOUNT = ResolvedMount("/host/project", "/host/project", "cow", project=True)


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()


@pytest.fixture
def manager(tmp_path: Path, provider: FakeProvider):
    return make_manager(tmp_path / "state", provider)


def operations(provider: FakeProvider) -> list[str]:
    return [operation for operation, _ in provider.calls]


def files(manager) -> list[str]:
    return sorted(path.name for path in manager.store.root.rglob("*") if path.is_file())


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", ()))


def test_r01_create_makes_starts_snapshots_and_records_in_this_order(manager, provider: FakeProvider) -> None:
    info = manager.create(make_plan(provider_spec={"mounts": (MOUNT,)}), test="test_a.py::test_b")
    made = [operation for operation in operations(provider) if operation not in ("probe", "is_running")]
    assert made == ["create", "start", "snapshot"]
    assert info.state is State.RUNNING
    assert info.owner.test == "test_a.py::test_b"
    assert info.mounts == ({"source": MOUNT.source, "target": MOUNT.target, "mode": "cow", "project": True},)
    assert "network_locked" in info.enforced
    record = manager.store.load("box")
    assert record.state is State.RUNNING
    assert set(record.snapshots) == {"clean"}


def test_r01_a_spec_is_planned_first(manager) -> None:
    assert manager.create(SandboxSpec(name="other")).name == "other"


def test_r08_the_manager_satisfies_its_protocol(manager) -> None:
    assert isinstance(manager, Manager)


def test_r09_another_manager_on_the_same_state_sees_the_sandbox(manager, provider: FakeProvider) -> None:
    manager.create(make_plan())
    again = make_manager(manager.store.root, provider)
    assert [info.name for info in again.list()] == ["box"]


def test_r10_every_collaborator_is_given(tmp_path: Path) -> None:
    seen = []

    class Store(FileStore):
        def save(self, record) -> None:
            seen.append(record.state)
            super().save(record)

    class Resources(FakeResources):
        def check(self, need, held) -> None:
            seen.append(need.cpu)

    provider = FakeProvider()
    manager = make_manager(tmp_path / "state", provider, store=Store(tmp_path / "state"), resources=Resources())
    manager.create(make_plan(spec={"cpu": 2}))
    assert seen == [2, State.CREATING, State.CREATING, State.RUNNING]


def test_r11_a_sandbox_is_born_locked_and_opened_only_at_the_end(manager, provider: FakeProvider) -> None:
    network = Network(mode="allow", allow=("pypi.org:443",))
    manager.create(make_plan(network=network))
    made = [operation for operation in operations(provider) if operation not in ("probe", "is_running")]
    assert made == ["create", "start", "snapshot", "set_network"]
    assert provider.rule("box") == NetworkRule("allow", ("pypi.org:443",))
    assert manager.status("box").network == network


def test_r11_a_locked_sandbox_is_never_opened(manager, provider: FakeProvider) -> None:
    manager.create(make_plan(provision=(("true",),)))
    assert "set_network" not in operations(provider)
    assert provider.rule("box").mode == "locked"


def test_r11_a_required_network_that_cannot_be_had_fails_before_anything_is_made(tmp_path: Path) -> None:
    provider = FakeProvider(without=["Networks"])
    manager = make_manager(tmp_path / "state", provider)
    plan = make_plan(network=Network(mode="open"), provider_spec={"required": frozenset({"network_open"})})
    with pytest.raises(UnsupportedFeature) as caught:
        manager.create(plan)
    assert caught.value.feature == "network_open"
    assert "create" not in operations(provider)
    assert files(manager) == []


def test_r11_an_open_network_that_only_the_profile_would_give_stays_locked(tmp_path: Path) -> None:
    manager = make_manager(tmp_path / "state", FakeProvider(without=["Networks"]))
    assert manager.create(make_plan(network=Network(mode="open"))).network.mode == "locked"


def test_r15_provision_runs_in_order_before_the_clean_snapshot(manager, provider: FakeProvider) -> None:
    shell = ("/bin/sh", "-c", "echo made > /etc/made")
    manager.create(make_plan(provision=(shell, ("true",))))
    assert [command.argv for _, command in provider.commands] == [shell, ("true",)]
    calls = operations(provider)
    assert max(i for i, call in enumerate(calls) if call == "spawn") < calls.index("snapshot")
    manager.reset("box")
    assert provider.files("box").read("/etc/made", limit=100) == b"made\n"
    assert len(provider.commands) == 2


def test_r15_what_provisioning_leaves_running_is_killed_before_the_snapshot(manager, provider: FakeProvider) -> None:
    manager.create(make_plan(provision=(("/bin/sh", "-c", "sleep 1000 &"),)))
    # A snapshot refuses while a process is alive.
    assert manager.snapshot("box")


def test_r15_a_second_sandbox_of_the_same_content_adopts_what_was_provisioned(manager, provider: FakeProvider) -> None:
    shell = ("/bin/sh", "-c", "echo made > /etc/made")
    manager.create(make_plan(provision=(shell,), key="same"))
    manager.create(make_plan("second", provision=(shell,), key="same"))
    assert [name for name, _ in provider.commands] == ["box"]
    assert provider.files("second").read("/etc/made", limit=100) == b"made\n"
    manager.destroy("box")
    manager.backend("second").write("/etc/made", b"changed")
    manager.reset("second")
    assert provider.files("second").read("/etc/made", limit=100) == b"made\n"


def test_r15_other_content_or_a_provider_that_cannot_adopt_provisions_again(tmp_path: Path) -> None:
    shell = ("/bin/sh", "-c", "echo made > /etc/made")
    for provider, keys in ((FakeProvider(), ("a", "b")), (FakeProvider(without=["Adopts"]), ("a", "a"))):
        manager = make_manager(tmp_path / "-".join(keys), provider)
        for number, key in enumerate(keys):
            manager.create(make_plan(f"box{number}", provision=(shell,), key=key))
        assert [name for name, _ in provider.commands] == ["box0", "box1"]


def test_r15_without_snapshots_provisioning_processes_end_by_stop_and_start(tmp_path: Path) -> None:
    provider = FakeProvider(without=["Snapshots", "Resets"])
    manager = make_manager(tmp_path / "state", provider)
    manager.create(make_plan(provision=(("true",),)))
    assert operations(provider)[-3:] == ["stop", "start", "is_running"]


def test_r15_provisioning_has_the_network_that_the_plan_gives_it(manager, provider: FakeProvider) -> None:
    network = Network(mode="open")
    manager.create(make_plan(network=network, provision=(("true",),), provision_network=network))
    calls = [call for call in operations(provider) if call in ("set_network", "spawn", "snapshot")]
    assert calls == ["set_network", "spawn", "snapshot", "set_network"]


def test_r15_a_failing_command_is_an_error_with_head_and_tail_of_its_output(manager, provider: FakeProvider) -> None:
    script = "echo first; echo last >&2; exit 3"
    with pytest.raises(CommandFailed) as caught:
        manager.create(make_plan(provision=(("true",), ("/bin/sh", "-c", script))))
    assert caught.value.returncode == 3
    assert "command 2 of 2" in str(caught.value)
    assert "first\nlast" in str(caught.value)
    assert provider.names() == []
    assert files(manager) == []


def test_r15_a_missing_program_is_the_error_of_the_standard_library(manager, provider: FakeProvider) -> None:
    with pytest.raises(FileNotFoundError, match=r"provisioning command 2 of 2 \(the sandbox was not made") as caught:
        manager.create(make_plan(provision=(("true",), ("no-such-program",))))
    assert caught.value.filename == "no-such-program"
    assert provider.names() == []


def test_r20_of_two_threads_exactly_one_creates_and_nothing_is_made_for_the_other(
    manager, provider: FakeProvider
) -> None:
    hold = provider.faults.block("create")
    first = threading.Thread(target=manager.create, args=(make_plan(),), kwargs={"test": "first"})
    first.start()
    assert hold.entered.wait(10)
    with pytest.raises(AlreadyExists) as caught:
        manager.create(make_plan())
    assert caught.value.owner["test"] == "first"
    assert caught.value.owner["worker"] == "gw0"
    hold.release.set()
    first.join()
    assert operations(provider).count("create") == 1
    assert manager.status("box").state is State.RUNNING


def test_r20_another_process_does_not_get_the_name(manager, provider: FakeProvider) -> None:
    manager.create(make_plan())

    def other() -> None:
        fresh = FakeProvider()
        theirs = make_manager(manager.store.root, fresh)
        with pytest.raises(AlreadyExists):
            theirs.create(make_plan())
        with pytest.raises(HeldElsewhere):
            theirs.destroy("box")
        with pytest.raises(HeldElsewhere):
            theirs.stop("box")
        with pytest.raises(HeldElsewhere):
            theirs.run("box", ["true"])
        if fresh.calls:
            raise AssertionError(f"the other's provider was asked: {fresh.calls}")

    assert in_child(other) == 0
    assert provider.names() == ["box"]


def test_r20_the_name_of_an_orphan_is_free_once_its_remains_are_deleted(manager, provider: FakeProvider) -> None:
    manager.store.save(make_record(owner=dead_owner()))
    manager.create(make_plan())
    assert operations(provider)[0] == "delete"
    assert manager.status("box").owner.pid == manager.owner.pid


def test_r20_a_kept_sandbox_keeps_its_name(manager, provider: FakeProvider) -> None:
    manager.store.save(make_record(owner=dead_owner(), kept=True))
    with pytest.raises(AlreadyExists, match="airlock destroy box"):
        manager.create(make_plan())
    assert operations(provider) == []


def test_a_sandbox_in_the_making_cannot_be_used_yet(manager, provider: FakeProvider) -> None:
    hold = provider.faults.block("start")
    thread = threading.Thread(target=manager.create, args=(make_plan(),))
    thread.start()
    assert hold.entered.wait(10)
    assert manager.status("box").state is State.CREATING
    for use in (manager.destroy, manager.reset, manager.backend):
        with pytest.raises(InvalidTransition):
            use("box")
    hold.release.set()
    thread.join()


def test_r21_start_fails_what_was_made_is_deleted_and_nothing_remains(manager, provider: FakeProvider) -> None:
    provider.faults.fail("start", BOOM)
    with pytest.raises(ProviderError) as caught:
        manager.create(make_plan())
    assert caught.value is BOOM
    assert provider.names() == []
    assert files(manager) == []
    manager.create(make_plan())


def test_r21_the_deletion_error_is_attached_and_the_record_says_errored(manager, provider: FakeProvider) -> None:
    error = ProviderError("fake", "start", "first")
    provider.faults.fail("start", error)
    provider.faults.fail("delete", ProviderError("fake", "delete", "second"))
    with pytest.raises(ProviderError) as caught:
        manager.create(make_plan())
    assert caught.value is error
    assert "second" in notes(caught.value)
    info = manager.status("box")
    assert info.state is State.ERRORED
    assert info.remains == "the sandbox"
    assert "first" in info.error
    with pytest.raises(AlreadyExists):
        manager.create(make_plan())
    manager.destroy("box")
    assert provider.names() == []
    assert files(manager) == []


@pytest.mark.parametrize("step", ["create", "start", "spawn", "snapshot", "set_network"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_r22_every_failing_step_rolls_back_what_came_before(manager, provider: FakeProvider, step: str, when) -> None:
    provider.faults.fail(step, BOOM, when=when)
    plan = make_plan(network=Network(mode="open"), provision=(("true",),), provider_spec={"mounts": (MOUNT,)})
    with pytest.raises(ProviderError) as caught:
        manager.create(plan)
    assert caught.value is BOOM
    if (step, when) != ("create", "after"):  # then the provider breaks contract 3: nobody has a handle
        assert provider.names() == []
    assert manager._mounts.list("box") == ()
    assert files(manager) == []


def test_r22_an_interrupt_rolls_back_too(manager, provider: FakeProvider) -> None:
    provider.faults.fail("snapshot", KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        manager.create(make_plan())
    assert provider.names() == []
    assert files(manager) == []


def failing_save(manager, monkeypatch: pytest.MonkeyPatch, *, number: int, times: int = 1) -> list[int]:
    """Make the `number`-th save from now on fail, and those after it, `times` in all."""
    real, calls = manager.store.save, []

    def save(record) -> None:
        calls.append(1)
        if number <= len(calls) < number + times:
            raise StoreError("records/box.json", "No space left on device")
        real(record)

    monkeypatch.setattr(manager.store, "save", save)
    return calls


@pytest.mark.parametrize("number", [1, 2, 3])
def test_r26_r29_a_record_that_cannot_be_written_leaves_no_sandbox(
    manager, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    failing_save(manager, monkeypatch, number=number)
    with pytest.raises(StoreError, match="No space left"):
        manager.create(make_plan())
    assert provider.names() == []
    assert files(manager) == []


def test_r26_a_store_that_fails_during_the_clean_up_is_attached(
    manager, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_save(manager, monkeypatch, number=3, times=2)
    provider.faults.fail("delete", BOOM)
    with pytest.raises(StoreError) as caught:
        manager.create(make_plan())
    assert "told so" in notes(caught.value)
    assert "should say errored" in notes(caught.value)
    manager.destroy("box")
    assert provider.names() == []


def test_r26_a_record_that_cannot_be_removed_is_attached(
    manager, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove(name: str) -> None:
        raise StoreError("records/box.json", "Read-only file system")

    monkeypatch.setattr(manager.store, "remove", remove)
    provider.faults.fail("start", BOOM)
    with pytest.raises(ProviderError) as caught:
        manager.create(make_plan())
    assert caught.value is BOOM
    assert "Read-only" in notes(caught.value)


def test_r27_values_that_are_not_set_are_not_reserved(tmp_path: Path) -> None:
    class Full(FakeResources):
        def check(self, need, held) -> None:
            raise InsufficientResources("cpu", 1, 0, can_ever_fit=False)

    manager = make_manager(tmp_path / "state", FakeProvider(), resources=Full())
    assert manager.create(make_plan()).state is State.RUNNING
    with pytest.raises(InsufficientResources):
        manager.create(make_plan("other", spec={"cpu": 1}))


def test_clamp_lowers_what_was_set_to_what_there_is(tmp_path: Path) -> None:
    provider = FakeProvider()
    manager = make_manager(tmp_path / "state", provider, insufficient="clamp", resources=FakeResources(cpu=2))
    manager.create(make_plan(spec={"cpu": 64}, provider_spec={"cpu": 64}))
    assert provider.spec("box").cpu == 2
    assert manager.store.load("box").spec.cpu == 2


def test_a_provider_that_lacks_what_is_required_leaves_nothing(tmp_path: Path) -> None:
    provider = FakeProvider(features={"network_locked"})
    manager = make_manager(tmp_path / "state", provider)
    with pytest.raises(UnsupportedFeature):
        manager.create(make_plan(provider_spec={"required": frozenset({"memory"})}))
    assert files(manager) == []


def test_nothing_is_found_where_nothing_is(manager) -> None:
    for use in (
        manager.status,
        manager.destroy,
        manager.start,
        manager.stop,
        manager.reset,
        manager.backend,
        lambda name: manager.run(name, ["true"]),
        lambda name: manager.spawn(name, Command(("true",))),
    ):
        with pytest.raises(SandboxNotFound):
            use("box")
    manager.destroy("box", missing_ok=True)
