from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from orchestrator_helpers import dead_owner, in_child, make_record

from pytest_airlock.errors import AlreadyExists, CorruptRecord, InvalidName, SandboxNotFound, StoreError
from pytest_airlock.models import Network, State
from pytest_airlock.orchestrator.storage import state_files
from pytest_airlock.orchestrator.storage import store as store_module
from pytest_airlock.orchestrator.storage.process_identity import current_owner
from pytest_airlock.orchestrator.storage.store import MACHINE, FileStore


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "state")


def files(store: FileStore) -> set[str]:
    """Every file but the locks of names that are in use."""
    found = {str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file()}
    in_use = {Path(path).name.partition(".")[0] for path in found if not path.startswith("locks/")}
    return found - {f"locks/{name}.lock" for name in in_use}


def test_r09_records_survive_a_new_store_and_carry_a_version(store: FileStore) -> None:
    record = make_record(network=Network(mode="allow", allow=("pypi.org:443",)), snapshots={"clean": "s1"})
    store.save(record)
    assert FileStore(store.root).load("box") == record
    assert '"version":1' in (store.root / "records" / "box.json").read_text()


def test_r40_files_are_0600_and_directories_0700_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store = FileStore(tmp_path / "deep" / "state")
        lease = store.reserve("box", current_owner())
        store.save(make_record())
        with store.locked("box"):
            modes = {
                path.relative_to(tmp_path): stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "deep").rglob("*")
            }
    finally:
        os.umask(old)
    lease.release()
    made = [mode for path, mode in modes.items() if (tmp_path / path).suffix == ""]
    assert len(made) == 5
    assert set(made) == {0o700}
    assert {mode for path, mode in modes.items() if path.suffix} == {0o600}
    assert {path.suffix for path in modes if path.suffix} == {".json", ".lease", ".owner", ".lock"}


def test_r40_no_file_is_ever_wider_than_0600_while_it_is_written(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    real = os.open

    def spy(path: str, flags: int, mode: int = 0o777, **kwargs: object) -> int:
        if flags & os.O_CREAT:
            opened.append((flags & os.O_EXCL, mode))
        return real(path, flags, mode, **kwargs)

    monkeypatch.setattr(state_files.os, "open", spy)
    state_files.write_file(str(store.root / "records" / "box.json"), b"x")
    assert opened == [(os.O_EXCL, 0o600)]


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_r40_a_state_directory_that_others_can_write_is_refused_and_left_alone(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(StoreError, match="others have access") as caught:
        FileStore(tmp_path)
    assert "chmod 700" in caught.value.hint
    assert stat.S_IMODE(tmp_path.stat().st_mode) == mode


def test_r40_records_that_others_can_read_are_refused(store: FileStore) -> None:
    (store.root / "records").chmod(0o755)
    with pytest.raises(StoreError, match="755"):
        FileStore(store.root)


def test_a_file_in_place_of_the_state_directory_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StoreError):
        FileStore(tmp_path / "state")


def test_the_state_directory_comes_from_the_environment_else_from_platformdirs(tmp_path: Path) -> None:
    assert state_files.default_state_dir({"AIRLOCK_STATE_DIR": str(tmp_path)}) == tmp_path
    assert state_files.default_state_dir({"AIRLOCK_STATE_DIR": ""}).name == "pytest-airlock"
    assert state_files.default_state_dir({}).is_absolute()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: b"", "damaged or truncated"),
        (lambda data: data[: len(data) // 2], "damaged or truncated"),
        (lambda data: b"\0" * len(data), "damaged or truncated"),
        (lambda data: b"\xff\xfe" + data, "damaged or truncated"),
        (lambda data: b"[" * 100_000, "damaged or truncated"),
        (lambda data: b"[1]", "version None"),
        (lambda data: data.replace(b'"version":1', b'"version":2'), "version 2"),
        (lambda data: data.replace(b'"state":"running"', b'"state":"flying"'), "state"),
        (lambda data: data.replace(b'"name":"box"', b'"name":"other"'), "the record of 'other'"),
        (lambda data: data.replace(b'"kept"', b'"kempt"'), "kempt"),
    ],
)
def test_a_record_that_cannot_be_read_is_moved_aside_and_named(store: FileStore, damage, why: str) -> None:
    store.save(make_record())
    path = store.root / "records" / "box.json"
    content = damage(path.read_bytes())
    path.write_bytes(content)
    with pytest.raises(CorruptRecord, match=why) as caught:
        store.load("box")
    moved = Path(caught.value.moved_to)
    assert moved.read_bytes() == content
    assert moved.suffix == ".corrupt"
    assert str(moved) in str(caught.value)
    with pytest.raises(SandboxNotFound):
        store.load("box")


def test_two_corrupt_records_of_one_name_are_both_kept(store: FileStore) -> None:
    for content in ("one", "two"):
        (store.root / "records" / "box.json").write_text(content)
        with pytest.raises(CorruptRecord):
            store.load("box")
    assert sorted(path.read_text() for path in store.root.rglob("*.corrupt")) == ["one", "two"]


def test_records_tells_of_a_corrupt_one_once_and_returns_the_others(tmp_path: Path) -> None:
    told: list[str] = []
    store = FileStore(tmp_path / "state", warn=told.append)
    store.save(make_record("good"))
    (store.root / "records" / "bad.json").write_text("{")
    (store.root / "records" / "README.json").write_text("not ours")
    assert [record.name for record in store.records()] == ["good"]
    assert [record.name for record in store.records()] == ["good"]
    assert len(told) == 1
    assert "bad.json" in told[0]
    assert (store.root / "records" / "README.json").exists()


def test_r26_a_full_disk_is_a_store_error_with_path_and_hint_and_the_old_record_stays(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_record()
    store.save(old)

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(state_files.os, "write", full)
        with pytest.raises(StoreError, match="No space left") as caught:
            store.save(old.model_copy(update={"state": State.STOPPED}))
    assert caught.value.path.endswith("records/box.json")
    assert "AIRLOCK_STATE_DIR" in caught.value.hint
    assert store.load("box") == old
    assert files(store) == {"records/box.json"}


def test_a_full_disk_while_reserving_leaves_the_name_free(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(state_files.os, "write", full)
        with pytest.raises(StoreError):
            store.reserve("box", current_owner())
    store.reserve("box", current_owner()).release()


def test_short_writes_are_continued(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(state_files.os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    store.save(make_record())
    assert store.load("box") == make_record()


def test_a_state_directory_that_vanished_is_a_store_error(store: FileStore) -> None:
    (store.root / "records").rename(store.root / "elsewhere")
    for use in (lambda: store.save(make_record()), store.records):
        with pytest.raises(StoreError, match="removed while it was in use"):
            use()


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".", "UPPER", "a\0b", "ä", "x" * 300, MACHINE])
def test_names_are_never_paths(store: FileStore, name: str) -> None:
    for use in (store.load, store.remove, lambda name: store.reserve(name, current_owner())):
        with pytest.raises(InvalidName):
            use(name)
    assert files(store) == set()


@pytest.mark.parametrize("writer", ["the same store", "another process' store"])
def test_r25_what_was_loaded_before_is_read_again_once_somebody_wrote(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    monkeypatch.setattr(store_module, "_TICKS", -1)
    store.save(make_record(state=State.RUNNING))
    other = store if writer == "the same store" else FileStore(store.root)
    for state in (State.STOPPED, State.RUNNING, State.STOPPED):
        assert store.load("box") is store.load("box")
        other.save(make_record(state=state))
        assert store.load("box").state is state
    other.remove("box")
    with pytest.raises(SandboxNotFound):
        store.load("box")


def test_r25_a_record_so_young_that_the_next_could_look_the_same_is_not_remembered(store, monkeypatch) -> None:
    monkeypatch.setattr(store_module, "_TICKS", 10**15)
    store.save(make_record())
    assert store.load("box") is not store.load("box")


def test_r46_the_network_lock_is_another_one_and_leaves_nothing(store: FileStore) -> None:
    store.save(make_record())
    with store.network_lock("box"):
        assert not in_child(lambda: (FileStore(store.root).save(make_record()), FileStore(store.root).records()))
        FileStore(store.root).sweep()
        store.remove("box")
        assert (store.root / "networks/box.lock").exists()
    assert files(store) == set()
    with store.network_lock("nobody"):
        pass
    assert files(store) == set()
    (store.root / "networks/box.lock").touch()  # of one that was killed
    store.sweep()
    assert files(store) == set()
    store.save(make_record())
    with store.network_lock("box"):
        pass
    store.remove("box")
    assert files(store) == set()


def test_load_and_remove_of_what_is_not_there(store: FileStore) -> None:
    with pytest.raises(SandboxNotFound):
        store.load("box")
    store.remove("box")
    assert files(store) == set()


def test_nothing_is_left_after_release(store: FileStore) -> None:
    lease = store.reserve("box", current_owner())
    store.save(make_record())
    store.remove("box")
    lease.release()
    lease.release()
    assert files(store) == set()


def test_a_name_with_a_record_is_taken_even_if_its_owner_is_dead(store: FileStore) -> None:
    store.save(make_record(owner=dead_owner(worker="gw3", test="test_a.py::test_b")))
    with pytest.raises(AlreadyExists) as caught:
        store.reserve("box", current_owner())
    assert caught.value.owner["worker"] == "gw3"
    assert caught.value.owner["test"] == "test_a.py::test_b"
    assert "airlock destroy box" in caught.value.hint


def test_sweep_removes_what_killed_processes_leave_without_a_record(store: FileStore) -> None:
    for name in ("records/a.json.new", "leases/b.lease", "leases/c.owner", "locks/d.lock", "locks/@machine.lock"):
        (store.root / name).write_text("")
    store.save(make_record("kept-record"))
    live = store.reserve("live", current_owner())
    store.sweep()
    assert files(store) == {"records/kept-record.json", "leases/live.lease", "leases/live.owner"}
    live.release()


def test_r12_an_export_whose_record_is_corrupt_is_not_swept_away(store: FileStore) -> None:
    kept = store.kept_dir("box")
    kept.mkdir(parents=True)
    store.reserve("box", current_owner()).release()
    (store.root / "records/box.json.new").write_text("{")
    store.sweep()
    assert not (store.root / "records/box.json.new").exists()
    assert kept.exists()
