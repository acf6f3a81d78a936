"""Files of what was provisioned: private, whole or not there, bounded, and made by one process at a time."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import IO

import pytest
from orchestrator_helpers import kill, living_child

from pytest_airlock.errors import StoreError
from pytest_airlock.models import Owner
from pytest_airlock.orchestrator.clock import SystemClock
from pytest_airlock.orchestrator.storage.layer_files import LayerFiles
from pytest_airlock.orchestrator.storage.process_identity import current_owner

KEY = "ab" * 32


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "layers"


def make(root: Path, *, run: str = "run", **words: int) -> LayerFiles:
    files = LayerFiles(root, current_owner(run_id=run, worker="gw0"), SystemClock(), **words)
    files.claim("first", waiting=never).release()
    return files


def never(owner: Owner | None) -> None:
    raise AssertionError(f"nobody has it: {owner}")


def save(files: LayerFiles, data: bytes, key: str = KEY) -> None:
    files.save(key, lambda file: file.write(data) and None)


def load(files: LayerFiles, key: str = KEY, *, of_this_run: bool = False) -> bytes | None:
    with files.opened(key, of_this_run=of_this_run) as file:
        return None if file is None else file.read()


def test_what_was_saved_is_read_by_another_process(root: Path) -> None:
    assert load(make(root)) is None
    save(make(root), b"content")
    assert load(make(root, run="other")) == b"content"


def test_nobody_else_can_look(root: Path) -> None:
    save(make(root), b"secret")
    assert (root.stat().st_mode & 0o777, (root / f"{KEY}.layer").stat().st_mode & 0o777) == (0o700, 0o600)


def test_refreshing_believes_this_run_only(root: Path) -> None:
    save(make(root, run="old"), b"old")
    assert load(make(root, run="new"), of_this_run=True) is None
    save(make(root, run="new"), b"new")
    assert load(make(root, run="new"), of_this_run=True) == b"new"


@pytest.mark.parametrize("damage", ["cut", "flipped", "longer", "empty", "another file"])
def test_a_damaged_file_is_told_from_a_whole_one(root: Path, damage: str) -> None:
    files = make(root)
    save(files, b"x" * 5000)
    path = root / f"{KEY}.layer"
    data = path.read_bytes()
    path.write_bytes(
        {
            "cut": data[:-1],
            "flipped": data[:3000] + b"y" + data[3001:],
            "longer": data + b"x",
            "empty": b"",
            "another file": b"#!/bin/sh\n" * 100,
        }[damage]
    )
    with pytest.raises(ValueError, match="it is"):
        load(files)


def test_a_link_is_not_followed(root: Path, tmp_path: Path) -> None:
    files = make(root)
    save(files, b"1")
    (root / f"{KEY}.layer").rename(tmp_path / "elsewhere")
    (root / f"{KEY}.layer").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError):
        load(files)


def test_what_fails_while_it_is_written_leaves_what_was_there(root: Path) -> None:
    files = make(root)
    save(files, b"old")

    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError(28, "no space")

    with pytest.raises(OSError, match="no space"):
        files.save(KEY, fail)
    assert load(files) == b"old"
    assert not list(root.glob("*.new"))


def test_what_a_killed_writer_left_is_no_obstacle(root: Path) -> None:
    files = make(root)
    (root / f"{KEY}.layer.new").write_bytes(b"half")
    save(files, b"whole")
    assert load(files) == b"whole"
    with living_child(lambda: (files.claim("killed", waiting=never), (root / "killed.layer.new").touch())) as pid:
        save(files, b"1", "other")
        assert (root / "killed.layer.new").exists(), "its writer lives"
        kill(pid)
    save(files, b"2", "other")
    assert not list(root.glob("killed*"))


def test_those_used_last_stay_within_the_limit(root: Path) -> None:
    files = make(root, limit=3_500)
    for number in range(3):
        save(files, b"x" * 900, f"key{number}")
        os.utime(root / f"key{number}.layer", (number + 1, number + 1))
    assert load(files, "key0") is not None, "now it was used last"
    save(files, b"x" * 900, "key3")
    assert sorted(path.stem for path in root.glob("*.layer")) == ["key0", "key2", "key3"]


def test_others_wait_for_the_one_who_has_claimed_it(root: Path) -> None:
    files, told, got = make(root), threading.Event(), threading.Event()
    lease = files.claim(KEY, waiting=never)
    seen: list[Owner | None] = []

    def tell(owner: Owner | None) -> None:
        seen.append(owner)
        told.set()

    def wait() -> None:
        make(root).claim(KEY, waiting=tell).release()
        got.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert told.wait(30)
    assert seen[0] is not None
    assert (seen[0].pid, seen[0].worker) == (os.getpid(), "gw0")
    assert not got.is_set()
    lease.release()
    assert got.wait(30)
    thread.join()


def test_nobody_waits_for_a_dead_one(root: Path) -> None:
    with living_child(lambda: make(root).claim(KEY, waiting=never)) as pid:
        kill(pid)
        make(root).claim(KEY, waiting=lambda _: None).release()


def test_different_keys_do_not_wait_for_each_other(root: Path) -> None:
    files = make(root)
    one, other = (files.claim(key, waiting=never) for key in ("one", "other"))
    one.release()
    other.release()
    assert not list(root.glob("*.lease"))


def test_a_directory_that_others_can_see_is_refused(root: Path) -> None:
    files = make(root)
    root.chmod(0o755)
    with pytest.raises(StoreError):
        files.claim(KEY, waiting=never)


def test_what_another_user_put_in_our_place_is_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who owns a directory above (HOME kept by sudo) can exchange ours after it was looked at."""
    files = make(root)
    save(files, b"content")
    assert load(files) == b"content"
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(StoreError, match="not ours alone"):
        load(files)


def test_what_others_may_read_or_write_is_not_read(root: Path) -> None:
    files = make(root)
    save(files, b"content")
    (root / f"{KEY}.layer").chmod(0o620)
    with pytest.raises(StoreError, match="not ours alone"):
        load(files)
