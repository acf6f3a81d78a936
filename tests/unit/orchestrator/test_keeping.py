"""Kept sandboxes (r12): left as they are where they can live on, else exported as files that nobody can misuse (r44)."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from orchestrator_helpers import dead_owner, make_manager, make_plan, make_record

from pytest_airlock.errors import (
    AlreadyExists,
    InsufficientResources,
    InvalidTransition,
    ProfileForbids,
    ProviderError,
    SnapshotNotFound,
    StaleSandbox,
    StoreError,
    UnsupportedFeature,
)
from pytest_airlock.models import Export, Network, State
from pytest_airlock.orchestrator import exporting
from pytest_airlock.orchestrator.exporting import export
from pytest_airlock.orchestrator.manager import SandboxManager
from pytest_airlock.providers.base import FEATURES, Change, Command, Handle, TreeEntry
from pytest_airlock.sandbox import Sandbox
from pytest_airlock.testing import FakeProvider

MORTAL = frozenset(FEATURES) - {"outlives"}
TRUSTED = {"outlive": True}


@pytest.fixture
def provider() -> FakeProvider:
    """Its sandboxes die with their owner."""
    return FakeProvider(features=MORTAL)


@pytest.fixture
def manager(tmp_path: Path, provider: FakeProvider) -> SandboxManager:
    """It has a running sandbox `box` that may outlive the run."""
    made = make_manager(tmp_path / "state", provider)
    made.create(make_plan(profile=TRUSTED))
    return made


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "state/kept/box"


def changes(kept: Path) -> dict[str, dict[str, Any]]:
    return {change["path"]: change for change in json.loads((kept / "changes.json").read_text())["changes"]}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_r12_what_cannot_live_on_is_exported_and_deleted(manager, provider: FakeProvider, kept: Path) -> None:
    files = provider.files("box")
    files.write("/etc/hosts", b"changed\n")
    files.mkdir("/opt/tool")
    files.write("/opt/tool/bin", b"\xff\0new")
    files.symlink("/opt/tool/link", "bin")
    files.remove("/etc/hostname")
    record = manager.let_go("box")
    assert provider.names() == []
    assert (kept / "files/etc/hosts").read_bytes() == b"changed\n"
    assert (kept / "files/opt/tool/bin").read_bytes() == b"\xff\0new"
    assert os.readlink(kept / "files/opt/tool/link") == "bin"
    assert not (kept / "files/etc/passwd").exists(), "what is unchanged is not exported"
    assert {path: (told["kind"], told["type"], told["size"], told["mode"]) for path, told in changes(kept).items()} == {
        "/etc/hosts": ("modified", "file", 8, "0644"),
        "/etc/hostname": ("deleted", "file", 8, "0644"),
        "/opt/tool": ("added", "dir", 0, "0755"),
        "/opt/tool/bin": ("added", "file", 5, "0644"),
        "/opt/tool/link": ("added", "symlink", 3, "0777"),
    }
    assert record.export == Export(path=str(kept), files=2, bytes=13, changes=5)
    assert (record.kept, record.state, record.error, record.remains) == (True, State.STOPPED, "", "")
    assert manager.store.load("box") == record
    assert manager.names() == []


def test_r12_what_can_live_on_is_left_as_it_is(tmp_path: Path, kept: Path) -> None:
    provider = FakeProvider()
    manager = make_manager(tmp_path / "state", provider)
    manager.create(make_plan(profile=TRUSTED))
    provider.calls.clear()
    record = manager.let_go("box")
    assert {operation for operation, _ in provider.calls} <= {"probe"}
    assert provider.is_running(Handle("fake", "box"))
    assert (record.kept, record.state, record.export) == (True, State.RUNNING, None)
    assert not kept.exists()


def test_r12_the_lease_is_released_and_the_name_stays_taken(manager, kept: Path) -> None:
    sandbox = Sandbox(manager.backend("box"))
    manager.let_go("box")
    with pytest.raises(StaleSandbox):
        sandbox.run(["true"])
    assert list((kept.parents[1] / "leases").iterdir()) == []
    with pytest.raises(AlreadyExists):
        manager.create(make_plan())
    assert kept.exists()


def test_r12_processes_are_dead_and_the_network_is_locked_before_files_are_read(tmp_path: Path) -> None:
    class Watching(FakeProvider):
        def diff(self, handle: Handle, since: str) -> Iterator[Change]:
            world = self._sandboxes[handle.name].world
            self.seen = (world.living(), self.rule(handle.name).mode)
            with pytest.raises(StaleSandbox):  # else another thread of the test could still write
                backend.check()
            return super().diff(handle, since)

    provider = Watching(features=MORTAL)
    manager = make_manager(tmp_path / "state", provider)
    manager.create(make_plan(profile=TRUSTED))
    manager.set_network("box", Network(mode="open"))
    backend = manager.backend("box")
    process = manager.spawn("box", Command(("/usr/bin/sleep", "1000")))
    manager.let_go("box")
    process.close()
    assert provider.seen == ([], "locked")


@pytest.mark.parametrize("end", ["stop", "die"])
def test_r12_what_does_not_run_any_more_is_exported_too(manager, provider: FakeProvider, kept: Path, end: str) -> None:
    provider.files("box").write("/etc/left", b"x")
    if end == "stop":
        manager.stop("box")
    else:
        provider.die("box")
    assert manager.let_go("box").state is State.STOPPED
    assert (kept / "files/etc/left").read_bytes() == b"x"


def test_r12_an_errored_sandbox_stays_errored(manager, provider: FakeProvider, kept: Path) -> None:
    provider.files("box").write("/etc/left", b"x")
    provider.faults.fail("restore", ProviderError("fake", "restore", "EIO"))
    with pytest.raises(ProviderError):
        manager.restore("box", manager.snapshot_id("box"))
    record = manager.let_go("box")
    assert (record.state, "EIO" in record.error) == (State.ERRORED, True)
    assert (kept / "files/etc/left").exists()


def test_r12_what_was_exported_cannot_be_started_and_says_where_it_is(manager, provider, kept: Path) -> None:
    manager.let_go("box")
    provider.calls.clear()
    uses = [
        lambda: manager.start("box"),
        lambda: manager.run("box", ["true"]),
        lambda: manager.reset("box"),
        lambda: manager.backend("box"),
    ]
    for use in uses:
        with pytest.raises(InvalidTransition) as caught:
            use()
        assert str(kept) in str(caught.value)
        assert "airlock destroy box" in caught.value.hint
    assert manager.status("box").state is State.STOPPED
    assert provider.calls == []


def test_r12_destroy_removes_the_export(manager, kept: Path) -> None:
    manager.let_go("box")
    manager.destroy("box")
    assert not kept.exists()
    assert manager.store.records() == []
    manager.create(make_plan())


def exported_by_a_dead_run(manager: SandboxManager, kept: Path) -> None:
    (kept / "files/etc").mkdir(parents=True)
    (kept / "files/etc/left").write_text("x")
    left = Export(path="/nowhere/else", files=1, bytes=1, changes=1)
    manager.store.save(make_record(owner=dead_owner(), kept=True, state=State.STOPPED, export=left))


def test_r12_collection_of_orphans_leaves_an_export_alone_unless_asked(tmp_path: Path, provider, kept: Path) -> None:
    manager = make_manager(tmp_path / "state", provider)
    exported_by_a_dead_run(manager, kept)
    assert manager.orphans.collect_all() == []
    assert (kept / "files/etc/left").exists()
    assert manager.stop("box").export is not None
    assert [one.error for one in manager.orphans.collect_all(kept=True)] == [None]
    assert not kept.exists()
    assert manager.store.records() == []


def test_r12_removal_follows_no_link(tmp_path: Path, provider, kept: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("mine")
    manager = make_manager(tmp_path / "state", provider)
    exported_by_a_dead_run(manager, kept)
    (kept / "files/link").symlink_to(victim)
    manager.destroy("box")
    kept.symlink_to(victim)
    manager.store.save(make_record(owner=dead_owner(), kept=True))
    manager.destroy("box")
    assert not os.path.lexists(kept)
    kept.parent.rmdir()
    (victim / "box").mkdir()
    kept.parent.symlink_to(victim)
    manager.store.save(make_record(owner=dead_owner(), kept=True))
    with pytest.raises(StoreError, match="it is a link"):
        manager.destroy("box")
    assert sorted(path.name for path in victim.iterdir()) == ["box", "file"]


def test_r12_an_owner_killed_before_the_export_leaves_an_ordinary_orphan(tmp_path: Path, provider) -> None:
    manager = make_manager(tmp_path / "state", provider)
    manager.create(make_plan(profile=TRUSTED, spec={"keep": True}))
    assert not manager.store.load("box").kept
    other = make_manager(tmp_path / "other", FakeProvider())
    other.create(make_plan(profile=TRUSTED, spec={"keep": True}))
    assert other.store.load("box").kept


@pytest.mark.parametrize("missing", ["Diffs", "Snapshots"])
def test_r12_keep_is_refused_where_nothing_can_be_kept(tmp_path: Path, missing: str) -> None:
    provider = FakeProvider(features=MORTAL, without=[missing])
    manager = make_manager(tmp_path / "state", provider)
    with pytest.raises(UnsupportedFeature) as caught:
        manager.create(make_plan(profile=TRUSTED, spec={"keep": True}))
    assert caught.value.feature == "outlives"
    assert provider.names() == []
    manager.create(make_plan(profile=TRUSTED))
    with pytest.raises(UnsupportedFeature):
        manager.let_go("box")
    assert manager.names() == ["box"]


def test_r12_the_profile_is_asked_first(tmp_path: Path, provider: FakeProvider) -> None:
    manager = make_manager(tmp_path / "state", provider)
    manager.create(make_plan())
    with pytest.raises(ProfileForbids):
        manager.let_go("box")
    assert provider.is_running(Handle("fake", "box"))


@pytest.mark.parametrize("operation", ["stop", "start", "diff"])
def test_r12_an_export_that_fails_leaves_the_sandbox_held_and_no_half_export(
    manager, provider, kept, operation
) -> None:
    provider.faults.fail(operation, ProviderError("fake", operation, "EIO"))
    with pytest.raises(ProviderError):
        manager.let_go("box")
    assert not kept.exists()
    assert (manager.names(), manager.store.load("box").kept) == (["box"], False)
    manager.destroy("box")
    assert provider.names() == []


def test_r12_without_a_clean_snapshot_nothing_is_exported(manager, kept: Path) -> None:
    record = manager.store.load("box")
    manager.store.save(record.model_copy(update={"snapshots": {}}))
    with pytest.raises(SnapshotNotFound):
        manager.let_go("box")
    assert not kept.exists()


def test_r12_an_unusable_state_directory_is_an_error_with_its_path(manager, provider: FakeProvider, kept: Path) -> None:
    kept.parent.mkdir(mode=0o755)
    kept.parent.chmod(0o755)
    with pytest.raises(StoreError, match="others have access"):
        manager.let_go("box")
    assert provider.names() == ["box"]


def test_r12_a_sandbox_that_cannot_be_deleted_keeps_its_export(manager, provider: FakeProvider, kept: Path) -> None:
    provider.faults.fail("delete", ProviderError("fake", "delete", "stuck"))
    with pytest.raises(ProviderError):
        manager.let_go("box")
    record = manager.store.load("box")
    assert (record.kept, record.state, record.remains) == (True, State.ERRORED, "the sandbox")
    assert (kept / "changes.json").exists()
    assert manager.names() == []
    manager.destroy("box")
    assert provider.names() == []
    assert not kept.exists()


def test_r12_what_a_killed_export_left_is_replaced(manager, provider: FakeProvider, kept: Path) -> None:
    (kept / "files").mkdir(parents=True)
    kept.parent.chmod(0o700)
    (kept / "files/old").write_text("x")
    manager.let_go("box")
    assert not (kept / "files/old").exists()
    assert (mode(kept.parent), mode(kept), mode(kept / "files")) == (0o700, 0o700, 0o700)
    assert mode(kept / "changes.json") == 0o600


def test_r12_files_on_the_host_hold_no_resources(tmp_path: Path, provider: FakeProvider) -> None:
    manager = make_manager(tmp_path / "state", provider)
    manager.create(make_plan(profile=TRUSTED, spec={"cpu": 2}))
    with pytest.raises(InsufficientResources):
        manager.create(make_plan("other", spec={"cpu": 2}))
    manager.let_go("box")
    manager.create(make_plan("other", spec={"cpu": 2}))


def test_r44_modes_are_masked(manager, provider: FakeProvider, kept: Path) -> None:
    files = provider.files("box")
    files.mkdir("/opt/d", 0o3777)
    files.write("/opt/d/tool", b"x", mode=0o6777)
    files.mkdir("/srv", 0o000)
    files.chmod("/etc", 0o2777)
    files.write("/etc/hosts", b"x", mode=0o4766)
    manager.let_go("box")
    found = {path: mode(kept / "files" / path) for path in ("opt/d", "opt/d/tool", "srv", "etc", "etc/hosts")}
    assert found == {"opt/d": 0o755, "opt/d/tool": 0o755, "srv": 0o700, "etc": 0o755, "etc/hosts": 0o744}
    assert changes(kept)["/opt/d/tool"]["mode"] == "6777"


@pytest.mark.parametrize("target", ["/etc/shadow", "../../../../secret", "d/../../x"])
@pytest.mark.parametrize("place", ["/opt", "/opt/new"])
def test_r44_links_that_lead_out_are_only_listed(manager, provider, kept: Path, place: str, target: str) -> None:
    files = provider.files("box")
    if place == "/opt/new":
        files.mkdir(place)
    files.symlink(f"{place}/link", target)
    record = manager.let_go("box")
    assert not os.path.lexists(kept / "files" / place[1:] / "link")
    told = changes(kept)[f"{place}/link"]
    assert told["target"] == target
    assert told["left_out"].startswith("a link that")
    assert record.export.left_out == 1


@pytest.mark.parametrize("place", ["/opt", "/opt/new"])
@pytest.mark.parametrize("kind", ["fifo", "socket", "char", "block"])
def test_r44_special_files_are_only_listed(manager, provider: FakeProvider, kept: Path, place: str, kind) -> None:
    files = provider.files("box")
    if place == "/opt/new":
        files.mkdir(place)
    files.special(f"{place}/special", kind)
    manager.let_go("box")
    assert not os.path.lexists(kept / "files" / place[1:] / "special")
    assert changes(kept)[f"{place}/special"]["left_out"] == f"a {kind}"


def directly(manager: SandboxManager, provider: FakeProvider, kept: Path, **given: int) -> Export:
    return export(provider, Handle("fake", "box"), manager.snapshot_id("box"), kept, **given)


def test_r12_the_largest_files_are_left_out_beyond_the_limit(manager, provider: FakeProvider, kept: Path) -> None:
    files = provider.files("box")
    files.mkdir("/opt/new")
    for size in (10, 400, 1000):
        files.write(f"/opt/new/{size}", b"x" * size)
    files.truncate("/etc/sparse", 2**40)
    files.mkdir("/opt/new/whole")
    files.write("/opt/new/whole/file", b"x" * 20)
    left = directly(manager, provider, kept, limit=500)
    assert (left.files, left.bytes, left.left_out) == (3, 430, 2)
    assert sorted(os.listdir(kept / "files/opt/new")) == ["10", "400", "whole"]
    told = changes(kept)
    assert {path for path in told if "left_out" in told[path]} == {"/opt/new/1000", "/etc/sparse"}
    assert told["/etc/sparse"]["left_out"] == "beyond the limit of 500 bytes in all"


@pytest.mark.parametrize(("bound", "value"), [("MAX_CHANGES", 3), ("MAX_TEXT", 40)])
def test_r12_the_list_of_changes_is_bounded(manager, provider, kept, monkeypatch, bound: str, value: int) -> None:
    monkeypatch.setattr(exporting, bound, value)
    provider.files("box").mkdir("/opt/new")
    for number in range(9):
        provider.files("box").write(f"/opt/new/{number}", b"x")
    left = directly(manager, provider, kept)
    assert 1 <= left.changes <= 3
    assert left.left_out == 1
    document = json.loads((kept / "changes.json").read_text())
    assert "more than" in document["incomplete"]
    assert len(document["changes"]) == left.changes
    assert {f"/opt/new/{name}" for name in os.listdir(kept / "files/opt/new")} == changes(kept).keys() - {"/opt/new"}


def test_r12_a_list_that_breaks_off_is_told(manager, kept: Path) -> None:
    class Breaking(FakeProvider):
        def diff(self, handle: Handle, since: str) -> Iterator[Change]:
            yield Change("deleted", "/etc/hosts", "file")
            raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW), "/usr")

    left = directly(manager, Breaking(), kept)
    assert (left.changes, left.left_out) == (1, 1)
    assert os.strerror(errno.EOVERFLOW) in json.loads((kept / "changes.json").read_text())["incomplete"]


class Lying(FakeProvider):
    """What it lists and what it hands out are an attacker's."""

    def __init__(self, listed: dict[str, str], *entries: TreeEntry) -> None:
        super().__init__()
        self.listed, self.entries = listed, entries

    def diff(self, handle: Handle, since: str) -> Iterator[Change]:
        yield from (Change("added", path, kind) for path, kind in self.listed.items())

    def export_tree(self, handle: Handle, path: str, *, limit: int) -> Iterator[TreeEntry]:
        yield from self.entries


def given(path: str, kind: str = "file", **more: Any) -> TreeEntry:
    return TreeEntry(path, kind, size=4, chunks=[b"evil"], **more)


def everything(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() or path.is_symlink()}


@pytest.mark.parametrize("name", ["../../../../x", "../x", "a/../../../../x", "/x", ".", "a//b"])
def test_r44_names_that_lead_out_make_nothing(manager, tmp_path: Path, kept: Path, name: str) -> None:
    before = everything(tmp_path)
    lying = Lying({"/opt": "dir", f"/opt/{name}": "file", f"/{name}": "file"}, given("", "dir"), given(name))
    left = directly(manager, lying, kept)
    assert everything(tmp_path) - before == {"state/kept/box/changes.json"}
    assert left.files == left.bytes == 0
    assert "left_out" in changes(kept)[f"/opt/{name}"]


def test_r44_a_link_of_the_export_is_never_written_through(manager, tmp_path: Path, kept: Path) -> None:
    listed = {"/a": "dir", "/a/up": "symlink", "/a/up/x": "file"}
    lying = Lying(listed, given("", "dir"), given("up", "symlink", target=".."), given("up/x"))
    directly(manager, lying, kept)
    assert everything(kept) == {"changes.json", "files/a/up"}
    assert "left_out" in changes(kept)["/a/up/x"]


def test_r44_what_was_not_listed_is_not_made(manager, kept: Path) -> None:
    lying = Lying({"/a": "dir", "/a/b": "file"}, given("", "dir"), given("b", "fifo"), given("c"))
    directly(manager, lying, kept)
    assert os.listdir(kept / "files/a") == []
    assert changes(kept)["/a/b"]["left_out"] == "the sandbox did not hand it out"


@pytest.mark.parametrize("error", [OSError(errno.ESTALE, "it shrank"), ProviderError("fake", "export", "it lies")])
def test_r12_a_file_that_does_not_come_whole_is_left_out(manager, kept: Path, error: Exception) -> None:
    def half() -> Iterator[bytes]:
        yield b"half"
        raise error

    lying = Lying({"/a": "file", "/b": "fifo"}, TreeEntry("", "file", size=8, chunks=half()))
    left = directly(manager, lying, kept)
    assert (left.files, left.bytes, left.left_out) == (0, 0, 2)
    assert everything(kept) == {"changes.json"}
    assert changes(kept)["/a"]["left_out"]


def test_r44_more_content_than_was_listed_is_bounded(manager, kept: Path) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 100

    lying = Lying({"/a": "file"}, TreeEntry("", "file", chunks=endless()))
    assert directly(manager, lying, kept, limit=1000).bytes == 0
    assert everything(kept) == {"changes.json"}


def test_r12_a_host_that_is_full_is_an_error_and_leaves_nothing(manager, provider, kept, monkeypatch) -> None:
    def full(path: str, data: bytes) -> None:
        raise StoreError(path, "No space left on device")

    monkeypatch.setattr(exporting, "write_file", full)
    with pytest.raises(StoreError, match="No space"):
        manager.let_go("box")
    assert not kept.exists()
    assert provider.names() == ["box"]


def test_r12_odd_names_survive(manager, provider: FakeProvider, kept: Path) -> None:
    names = ["a\nb", "\udcff", "-rf", " "]
    for name in names:
        provider.files("box").write(f"/opt/{name}", b"x")
    manager.let_go("box")
    assert sorted(os.listdir(kept / "files/opt")) == sorted(names)
    assert changes(kept).keys() == {f"/opt/{name}" for name in names}


def test_r12_depth_is_bounded(manager, provider: FakeProvider, kept: Path) -> None:
    path = "/opt"
    for _ in range(205):
        path += "/d"
        provider.files("box").mkdir(path)
    manager.let_go("box")
    told = changes(kept)
    assert "levels" in told[path]["left_out"]
    assert "left_out" not in told["/opt" + "/d" * 150]
    assert (kept / "files/opt" / "/".join("d" * 150)).is_dir()


def test_r12_no_descriptor_is_left_open(manager, provider: FakeProvider) -> None:
    provider.files("box").write("/etc/left", b"x")
    before = len(os.listdir("/proc/self/fd"))
    manager.let_go("box")
    assert len(os.listdir("/proc/self/fd")) <= before
