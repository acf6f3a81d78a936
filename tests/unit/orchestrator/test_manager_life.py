from __future__ import annotations

import threading
from pathlib import Path

import pytest
from orchestrator_helpers import dead_owner, in_child, make_manager, make_plan, make_record

from pytest_airlock.errors import (
    InvalidTransition,
    ProfileForbids,
    ProviderError,
    SandboxBusy,
    SandboxDied,
    SandboxNotFound,
    SnapshotNotFound,
    StaleSandbox,
    StoreError,
    UnsupportedFeature,
)
from pytest_airlock.models import Network, State
from pytest_airlock.providers.base import Command, Handle, ResolvedMount
from pytest_airlock.sandbox import Sandbox
from pytest_airlock.testing import FakeProvider

BOOM = ProviderError("fake", "do it", "told so")
OPEN = Network(mode="open")


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()


@pytest.fixture
def manager(tmp_path: Path, provider: FakeProvider):
    made = make_manager(tmp_path / "state", provider)
    made.create(make_plan())
    provider.calls.clear()
    return made


def operations(provider: FakeProvider) -> list[str]:
    return [operation for operation, _ in provider.calls if operation != "probe"]


def files(manager) -> list[str]:
    return sorted(path.name for path in manager.store.root.rglob("*") if path.is_file())


def changed(changes) -> set[str]:
    return {change.path for change in changes if not change.mtime_only}


def breaking_store(manager, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(record) -> None:
        raise StoreError("records/box.json", "No space left on device")

    monkeypatch.setattr(manager.store, "save", save)


def test_r02_run_starts_a_stopped_sandbox_and_keeps_argument_boundaries(manager, provider: FakeProvider) -> None:
    manager.stop("box")
    argv = ["echo", "-n", "a b", "", "$(c)", "d\ne"]
    done = manager.run("box", argv)
    assert done.stdout == "a b  $(c) d\ne"
    assert provider.commands[-1][1].argv == tuple(argv)
    assert manager.store.load("box").state is State.RUNNING
    assert manager.run("box", ["false"]).returncode == 1


def test_r02_spawn_starts_a_stopped_sandbox(manager, provider: FakeProvider) -> None:
    manager.stop("box")
    process = manager.spawn("box", Command(("true",), (("PATH", "/bin:/usr/bin"),)))
    assert process.wait(10).returncode == 0
    process.close()


def test_r03_start_of_a_running_sandbox_is_no_error_and_corrects_the_record(manager, provider: FakeProvider) -> None:
    manager.store.save(manager.store.load("box").model_copy(update={"state": State.STOPPED}))
    assert manager.start("box").state is State.RUNNING
    assert "start" not in operations(provider)
    assert manager.store.load("box").state is State.RUNNING


def test_r03_start_puts_the_recorded_network_in_force(manager, provider: FakeProvider) -> None:
    manager.set_network("box", OPEN)
    manager.stop("box")
    manager.start("box")
    assert provider.rule("box").mode == "open"


@pytest.mark.parametrize("step", ["start", "set_network"])
def test_r03_a_start_that_fails_leaves_it_stopped(manager, provider: FakeProvider, step: str) -> None:
    manager.set_network("box", OPEN)
    manager.stop("box")
    provider.faults.fail(step, BOOM)
    with pytest.raises(ProviderError):
        manager.start("box")
    assert manager.status("box").state is State.STOPPED
    assert not provider.is_running(Handle("fake", "box"))


def test_r26_start_does_not_succeed_without_its_record(
    manager, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.stop("box")
    with monkeypatch.context() as patch:
        breaking_store(manager, patch)
        with pytest.raises(StoreError):
            manager.start("box")
    assert manager.status("box").state is State.STOPPED


def test_r04_stop_is_graceful_and_stopping_again_is_no_error(manager, provider: FakeProvider) -> None:
    grace = []
    real = provider.stop
    provider.stop = lambda handle, *, grace=5.0, seen=grace: (seen.append(grace), real(handle, grace=grace))[1]
    assert manager.stop("box", grace=2.5).state is State.STOPPED
    assert manager.stop("box").state is State.STOPPED
    assert grace == [2.5]


def test_r05_destroy_stops_deletes_and_leaves_nothing(manager, provider: FakeProvider) -> None:
    manager.destroy("box", grace=1.0)
    assert operations(provider) == ["is_running", "stop", "delete"]
    assert files(manager) == []
    with pytest.raises(SandboxNotFound):
        manager.destroy("box")
    manager.destroy("box", missing_ok=True)


def test_r05_without_grace_deleting_is_what_ends_it(manager, provider: FakeProvider) -> None:
    manager.destroy("box")
    assert operations(provider) == ["is_running", "delete"]
    assert files(manager) == []


def test_r05_a_failed_stop_is_forced_and_said(manager, provider: FakeProvider) -> None:
    provider.faults.fail("stop", BOOM, times=2)
    manager.destroy("box", grace=1.0)
    assert operations(provider) == ["is_running", "stop", "stop", "delete"]
    assert provider.names() == []
    assert files(manager) == []
    assert "deleted by force" in manager.said[0]
    assert "told so" in manager.said[0]


def test_r05_a_failed_deletion_leaves_it_errored_and_destroyable(manager, provider: FakeProvider) -> None:
    provider.faults.fail("stop", ProviderError("fake", "stop", "stuck"), times=2)
    provider.faults.fail("delete", BOOM)
    with pytest.raises(ProviderError) as caught:
        manager.destroy("box", grace=1.0)
    assert caught.value is BOOM
    assert "stuck" in caught.value.__notes__[0]
    info = manager.status("box")
    assert (info.state, info.remains) == (State.ERRORED, "the sandbox")
    manager.destroy("box")
    assert files(manager) == []


def test_r06_reset_without_resets_is_stop_restore_start(tmp_path: Path) -> None:
    provider = FakeProvider(without=["Resets"])
    manager = make_manager(tmp_path / "state", provider)
    manager.create(make_plan(network=OPEN))
    provider.files("box").write("/etc/dirt", b"x")
    provider.calls.clear()
    assert manager.reset("box") is None
    assert operations(provider) == ["stop", "restore", "start", "set_network"]
    with pytest.raises(FileNotFoundError):
        provider.files("box").read("/etc/dirt", limit=10)


def test_r06_reset_swaps_where_the_provider_can_and_returns_its_proof(manager, provider: FakeProvider) -> None:
    provider.files("box").write("/etc/dirt", b"x")
    proof = manager.reset("box")
    assert operations(provider) == ["reset"]
    assert proof.by == "fake"
    assert proof.old != proof.new
    with pytest.raises(FileNotFoundError):
        provider.files("box").read("/etc/dirt", limit=10)


def test_r06_reset_of_a_stopped_sandbox_runs_afterwards(manager) -> None:
    manager.stop("box")
    manager.reset("box")
    assert manager.status("box").state is State.RUNNING


@pytest.mark.parametrize("without", [["Snapshots", "Resets"], ["Snapshots"]])
def test_r06_reset_without_a_snapshot_is_refused_before_anything_is_touched(tmp_path: Path, without) -> None:
    provider = FakeProvider(without=without)
    manager = make_manager(tmp_path / "state", provider)
    manager.create(make_plan())
    provider.calls.clear()
    with pytest.raises(SnapshotNotFound):
        manager.reset("box")
    assert operations(provider) == []
    assert manager.status("box").state is State.RUNNING


def test_r06_reset_undoes_a_network_that_was_changed_live(manager, provider: FakeProvider) -> None:
    manager.set_network("box", OPEN)
    manager.reset("box")
    assert provider.rule("box").mode == "locked"
    assert manager.status("box").network.mode == "locked"


def test_r07_list_does_not_hold_a_lock_while_asking(manager, provider: FakeProvider) -> None:
    hold = provider.faults.block("is_running")
    found = []
    thread = threading.Thread(target=lambda: found.extend(manager.list()))
    thread.start()
    assert hold.entered.wait(10)
    # Everything that needs the sandbox's lock or its record's goes on meanwhile, in this process and in others.
    assert manager.snapshot("box")
    manager.stop("box")
    assert in_child(lambda: make_manager(manager.store.root, FakeProvider()).list()) == 0
    manager.destroy("box")
    hold.release.set()
    thread.join()
    assert [info.name for info in found] == ["box"]
    assert files(manager) == []


def test_r07_list_and_status_reconcile_with_what_is_live(manager, provider: FakeProvider) -> None:
    provider.die("box")
    assert manager.list()[0].state is State.STOPPED
    assert manager.store.load("box").state is State.STOPPED


def test_r07_what_changed_while_asking_is_not_overwritten(manager, provider: FakeProvider) -> None:
    provider.die("box")
    hold = provider.faults.block("is_running")
    thread = threading.Thread(target=manager.list)
    thread.start()
    assert hold.entered.wait(10)
    provider.faults.fail("restore", BOOM)
    with pytest.raises(ProviderError):
        manager.restore("box", manager.store.load("box").snapshots["clean"])
    hold.release.set()
    thread.join()
    assert manager.store.load("box").state is State.ERRORED


def test_r07_errored_is_sticky(manager, provider: FakeProvider) -> None:
    provider.faults.fail("reset", BOOM)
    with pytest.raises(ProviderError):
        manager.reset("box")
    assert provider.is_running(Handle("fake", "box"))
    assert manager.list()[0].state is State.ERRORED
    assert "told so" in manager.status("box").error
    for use in (manager.start, manager.stop, manager.reset, manager.snapshot, lambda name: manager.run(name, ["true"])):
        with pytest.raises(InvalidTransition, match="airlock destroy box"):
            use("box")
    manager.destroy("box")


def test_r07_errored_is_sticky_even_if_the_disk_is_too_full_to_say_so(manager, provider, monkeypatch) -> None:
    provider.faults.fail("reset", ProviderError("fake", "reset", "told so"))
    with monkeypatch.context() as patch:
        breaking_store(manager, patch)
        with pytest.raises(ProviderError) as caught:
            manager.reset("box")
    assert "No space left" in caught.value.__notes__[0]
    assert manager.status("box").state is State.ERRORED
    assert "told so" in manager.list()[0].error
    with pytest.raises(InvalidTransition):
        manager.run("box", ["true"])


def test_r07_list_tells_what_could_not_be_asked_and_status_raises_it(manager, provider: FakeProvider) -> None:
    manager.create(make_plan("other"))
    provider.faults.fail("is_running", BOOM, name="box")
    told = {info.name: info for info in manager.list()}
    assert "told so" in told["box"].error
    assert told["box"].state is State.RUNNING
    assert told["other"].error == ""
    provider.faults.fail("is_running", BOOM)
    with pytest.raises(ProviderError):
        manager.status("box")


def test_r07_the_sandbox_of_another_live_process_is_told_as_recorded(manager) -> None:
    def other() -> None:
        fresh = FakeProvider()
        if make_manager(manager.store.root, fresh).status("box").state is not State.RUNNING or fresh.calls:
            raise AssertionError(f"asked: {fresh.calls}")

    assert in_child(other) == 0


def test_r23_an_error_of_asking_whether_it_runs_is_raised_and_nothing_is_deleted(manager, provider) -> None:
    provider.faults.fail("is_running", BOOM)
    with pytest.raises(ProviderError) as caught:
        manager.destroy("box")
    assert caught.value is BOOM
    assert operations(provider) == ["is_running"]
    assert provider.names() == ["box"]
    assert manager.status("box").state is State.RUNNING


def test_r24_destroy_forgets_all_mounts_of_that_sandbox_and_none_of_another(tmp_path: Path) -> None:
    manager = make_manager(tmp_path / "state", FakeProvider())
    mounts = (ResolvedMount("/h/a", "/a", "ro"), ResolvedMount("/h/b", "/b", "rw"))
    for name in ("one", "two"):
        manager.create(make_plan(name, provider_spec={"mounts": mounts}))
    manager.destroy("one")
    assert manager._mounts.list("one") == ()
    assert manager._mounts.list("two") == mounts
    assert [mount["target"] for mount in manager.status("two").mounts] == ["/a", "/b"]


@pytest.mark.parametrize(
    "use",
    [
        lambda manager: manager.stop("box"),
        lambda manager: manager.start("box"),
        lambda manager: manager.reset("box"),
        lambda manager: manager.run("box", ["true"]),
        lambda manager: manager.snapshot("box"),
        lambda manager: manager.set_network("box", OPEN),
        lambda manager: manager.backend("box"),
    ],
)
def test_r25_a_sandbox_deleted_while_waiting_for_its_lock_is_noticed(manager, provider: FakeProvider, use) -> None:
    hold = provider.faults.block("delete")
    destroyer = threading.Thread(target=manager.destroy, args=("box",))
    destroyer.start()
    assert hold.entered.wait(10)
    raised: list[BaseException] = []

    def late() -> None:
        try:
            use(manager)
        except SandboxNotFound as error:
            raised.append(error)

    thread = threading.Thread(target=late)
    thread.start()
    hold.release.set()
    destroyer.join()
    thread.join()
    assert len(raised) == 1
    assert files(manager) == []


def test_r25_a_name_made_anew_while_waiting_is_not_mistaken_for_the_old(manager, provider, monkeypatch) -> None:
    old = manager._holdings.require("box")
    manager.destroy("box")
    manager.create(make_plan())
    provider.calls.clear()
    # What a thread found that then had to wait for the lock.
    monkeypatch.setattr(manager._holdings, "require", lambda name: old)
    with pytest.raises(SandboxNotFound):
        manager.reset("box")
    assert operations(provider) == []


def test_r25_a_record_removed_by_hand_is_noticed_before_anything_is_touched(manager, provider: FakeProvider) -> None:
    manager.store.remove("box")
    for use in (manager.stop, manager.start, manager.reset, lambda name: manager.run(name, ["true"])):
        with pytest.raises(SandboxNotFound):
            use("box")
    assert operations(provider) == []
    manager.destroy("box")
    assert provider.names() == []


def test_r25_the_record_is_read_again_before_it_is_changed(manager) -> None:
    changed = manager.store.load("box").model_copy(update={"kept": True})
    manager.store.save(changed)
    manager.stop("box")
    assert manager.store.load("box").kept


def test_r25_operations_of_one_sandbox_never_overlap(manager, provider: FakeProvider) -> None:
    hold = provider.faults.block("snapshot")
    first = threading.Thread(target=manager.snapshot, args=("box",))
    first.start()
    assert hold.entered.wait(10)
    second = threading.Thread(target=manager.reset, args=("box",))
    second.start()
    # Another sandbox is free meanwhile.
    manager.create(make_plan("other"))
    assert "reset" not in operations(provider)
    hold.release.set()
    first.join()
    second.join()
    calls = [call for call in operations(provider) if call in ("snapshot", "reset")]
    assert calls == ["snapshot", "snapshot", "reset"]


def test_r26_a_snapshot_that_cannot_be_recorded_is_not_left_behind(manager, provider, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        breaking_store(manager, patch)
        with pytest.raises(StoreError):
            manager.snapshot("box")
    assert operations(provider) == ["snapshot", "delete_snapshot"]


def test_snapshot_restore_and_diff(manager, provider: FakeProvider) -> None:
    provider.files("box").write("/etc/kept", b"1")
    taken = manager.snapshot("box")
    provider.files("box").write("/etc/lost", b"2")
    assert changed(manager.diff("box", taken)) == {"/etc/lost"}
    assert changed(manager.diff("box")) == {"/etc/kept", "/etc/lost"}
    manager.restore("box", taken)
    assert provider.files("box").read("/etc/kept", limit=9) == b"1"
    assert changed(manager.diff("box", taken)) == set()
    for use in (manager.restore, manager.diff):
        with pytest.raises(SnapshotNotFound):
            use("box", "never-taken")


def test_restore_keeps_the_network_that_is_in_force(manager, provider: FakeProvider) -> None:
    manager.set_network("box", OPEN)
    manager.restore("box", manager.snapshot("box"))
    assert provider.rule("box").mode == "open"


def test_a_snapshot_of_a_busy_sandbox_names_its_processes(manager) -> None:
    process = manager.spawn("box", Command(("sleep", "1000"), (("PATH", "/bin:/usr/bin"),)))
    with pytest.raises(SandboxBusy, match="sleep"):
        manager.snapshot("box")
    manager.snapshot("box", stop=True)
    process.close()


def test_r46_a_network_changed_live_is_in_force_and_in_the_record(manager, provider: FakeProvider) -> None:
    allow = Network(mode="allow", allow=("pypi.org:443",))
    manager.set_network("box", allow)
    assert provider.rule("box").allow == ("pypi.org:443",)
    assert make_manager(manager.store.root, FakeProvider()).status("box").network == allow
    manager.set_network("box", Network())
    assert provider.rule("box").mode == "locked"
    assert manager.store.load("box").network == Network()


def test_r46_a_policy_that_cannot_be_recorded_is_not_in_force(manager, provider, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        breaking_store(manager, patch)
        with pytest.raises(StoreError):
            manager.set_network("box", OPEN)
    assert provider.rule("box").mode == "locked"
    assert manager.store.load("box").network.mode == "locked"


def test_r46_the_profile_binds_live_changes(manager, provider: FakeProvider) -> None:
    with pytest.raises(ProfileForbids, match="host"):
        manager.set_network("box", Network(mode="host"))
    assert "set_network" not in operations(provider)


def test_r46_a_provider_without_means_refuses_to_open_and_is_locked(tmp_path: Path) -> None:
    manager = make_manager(tmp_path / "state", FakeProvider(without=["Networks"]))
    manager.create(make_plan())
    with pytest.raises(UnsupportedFeature) as caught:
        manager.set_network("box", OPEN)
    assert caught.value.feature == "network_open"
    manager.set_network("box", Network())
    with pytest.raises(UnsupportedFeature):
        manager.backend("box").attempts()


def test_r12_the_orphan_of_a_dead_run_can_be_destroyed_and_stopped(tmp_path: Path) -> None:
    provider = FakeProvider()
    manager = make_manager(tmp_path / "state", provider)
    manager.store.save(make_record(owner=dead_owner(), kept=True, handle=Handle("fake", "box").to_json()))
    manager.stop("box")
    assert manager.store.load("box").state is State.STOPPED
    with pytest.raises(SandboxNotFound, match="airlock destroy box"):
        manager.reset("box")
    manager.destroy("box")
    assert ("delete", "box") in provider.calls
    assert files(manager) == []


def test_a_backend_does_what_a_sandbox_needs(manager, provider: FakeProvider) -> None:
    sandbox = Sandbox(manager.backend("box"))
    sandbox.path("/tmp/x").write_text("y")
    assert sandbox.run(["cat", "/tmp/x"]).stdout == "y"
    assert sandbox.info.name == "box"
    sandbox.reset()
    assert not sandbox.path("/tmp/x").exists()


def test_a_backend_is_over_after_hand_back_and_the_next_is_not(manager, provider: FakeProvider) -> None:
    old = manager.backend("box")
    manager.recycle("box")
    uses = [
        old.check,
        old.environ,
        lambda: old.spawn(Command(("true",))),
        lambda: old.read("/etc/passwd", limit=1),
        lambda: old.write("/x", b""),
        lambda: old.stat("/"),
        lambda: old.listdir("/"),
        lambda: old.change("mkdir", "/x"),
        lambda: old.export_tree("/", limit=1),
        lambda: old.import_tree("/", []),
        old.diff,
        old.snapshot,
        lambda: old.restore("x"),
        old.reset,
        old.lock_network,
        old.unlock_network,
        lambda: old.allow_network(["a:1"]),
        old.attempts,
        old.info,
    ]
    provider.calls.clear()
    for use in uses:
        with pytest.raises(StaleSandbox):
            use()
    assert provider.calls == []
    manager.backend("box").check()


def test_a_backend_is_over_when_its_sandbox_is_destroyed(manager) -> None:
    backend = manager.backend("box")
    manager.destroy("box")
    with pytest.raises(StaleSandbox):
        backend.stat("/")


def test_the_environment_of_a_spec_is_part_of_the_base(tmp_path: Path) -> None:
    manager = make_manager(tmp_path / "state", FakeProvider())
    manager.create(make_plan(provider_spec={"env": (("HOME", "/elsewhere"), ("A", "b"))}))
    environ = manager.backend("box").environ()
    assert (environ["HOME"], environ["A"]) == ("/elsewhere", "b")
    assert "PATH" in environ


def test_spawn_of_a_backend_costs_one_call_of_the_provider(manager, provider: FakeProvider) -> None:
    backend = manager.backend("box")
    environ = tuple(backend.environ().items())
    provider.calls.clear()
    backend.environ()
    process = backend.spawn(Command(("true",), environ))
    process.wait(10)
    process.close()
    assert provider.calls == [("spawn", "box")]


def test_a_sandbox_that_died_by_itself_is_not_restarted_behind_a_tests_back(manager, provider: FakeProvider) -> None:
    sandbox = Sandbox(manager.backend("box"))
    provider.die("box")
    with pytest.raises(SandboxDied):
        sandbox.run(["true"])


def test_recycle_drops_the_snapshots_that_a_test_took(manager, provider: FakeProvider) -> None:
    manager.snapshot("box")
    manager.snapshot("box")
    manager.recycle("box")
    assert operations(provider).count("delete_snapshot") == 2
    assert set(manager.store.load("box").snapshots) == {"clean"}
