"""Contract 24: what changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_airlock.conformance.machine import Machine
from pytest_airlock.errors import UnsupportedFeature
from pytest_airlock.providers.base import Change, Features, ResolvedMount


@pytest.fixture
def clean(box: Machine, diffs: Any, snapshots: Any) -> str:
    box.sh("mkdir -p /opt/d/e; printf 1 > /opt/f; printf 1 > /opt/d/g; ln -s f /opt/l")
    return str(snapshots.snapshot(box.handle))


def changed(box: Machine, since: str) -> dict[str, Change]:
    """Below /opt, by path; each path once."""
    found = [change for change in box.provider.diff(box.handle, since) if change.path.startswith("/opt/")]  # type: ignore[attr-defined]
    paths = [change.path for change in found]
    assert len(set(paths)) == len(paths), f"a path is listed twice: {paths}"
    return {change.path: change for change in found}


def kinds(box: Machine, since: str) -> dict[str, str]:
    """Without directories of which only times changed."""
    return {path: change.kind for path, change in changed(box, since).items() if not change.mtime_only}


def test_c24_nothing_changed(box: Machine, clean: str) -> None:
    box.run("cat", "/opt/f")
    assert changed(box, clean) == {}


def test_c24_added_modified_deleted(box: Machine, clean: str) -> None:
    box.sh("printf 22 > /opt/f; rm /opt/l; printf x > /opt/new; mkdir /opt/n; chmod 700 /opt/n; ln -s x /opt/n/l")
    assert kinds(box, clean) == {
        "/opt/f": "modified", "/opt/l": "deleted", "/opt/n": "added", "/opt/n/l": "added", "/opt/new": "added",
    }  # fmt: skip
    found = changed(box, clean)
    assert (found["/opt/f"].file, found["/opt/f"].size) == ("file", 2)
    assert (found["/opt/n"].file, found["/opt/n"].mode & 0o7777) == ("dir", 0o700)
    assert found["/opt/n/l"].file == "symlink"


def test_c24_a_mode_alone_is_a_change(box: Machine, clean: str) -> None:
    box.sh("chmod 755 /opt/f; chmod 700 /opt/d")
    assert kinds(box, clean) == {"/opt/f": "modified", "/opt/d": "modified"}


def test_c24_a_tree_that_is_gone_is_listed_whole(box: Machine, clean: str) -> None:
    box.run("rm", "-rf", "/opt/d")
    assert kinds(box, clean) == {"/opt/d": "deleted", "/opt/d/e": "deleted", "/opt/d/g": "deleted"}


def test_c24_what_came_and_went_is_no_change(box: Machine, clean: str) -> None:
    box.sh("mkdir -p /opt/x/y; printf 1 > /opt/x/y/z; rm -rf /opt/x")
    assert kinds(box, clean) == {}


def test_c24_a_directory_made_anew_tells_what_is_not_there_any_more(box: Machine, clean: str) -> None:
    box.sh("rm -rf /opt/d; mkdir /opt/d; printf new > /opt/d/h")
    found = kinds(box, clean)
    assert found.pop("/opt/d", "modified") == "modified"
    assert found == {"/opt/d/e": "deleted", "/opt/d/g": "deleted", "/opt/d/h": "added"}


def test_c24_a_directory_around_a_change_is_marked(box: Machine, clean: str) -> None:
    box.run("touch", "/opt/d/new")
    found = changed(box, clean)
    assert found["/opt/d/new"].kind == "added"
    assert all(change.mtime_only and change.file == "dir" for path, change in found.items() if path == "/opt/d")


@pytest.mark.parametrize("name", [" ", "a\nb", "é", "\udcff", "-rf", ".wh.x"])
def test_c24_odd_names(box: Machine, clean: str, name: str) -> None:
    box.write(f"/opt/{name}", b"1")
    assert kinds(box, clean) == {f"/opt/{name}": "added"}


def test_c24_since_any_snapshot(box: Machine, clean: str, snapshots: Any) -> None:
    box.run("touch", "/opt/first")
    later = snapshots.snapshot(box.handle)
    box.sh("touch /opt/second; rm /opt/first")
    assert kinds(box, later) == {"/opt/second": "added", "/opt/first": "deleted"}
    assert kinds(box, clean) == {"/opt/second": "added"}


def test_c24_after_a_reset_nothing_differs(box: Machine, clean: str, resets: Any) -> None:
    box.run("rm", "-rf", "/opt/d")
    resets.reset(box.handle, clean)
    assert changed(box, clean) == {}


@pytest.mark.parametrize("mode", ["cow", "rw"])
def test_c24_mounts_are_left_out(
    make: Callable[..., Machine], snapshots: Any, diffs: Any, features: Features, tmp_path: Path, mode: Any
) -> None:
    if f"mount_{mode}" not in features:
        pytest.skip(f"mount_{mode}: {features.absent[f'mount_{mode}'].why}")
    try:
        box = make(mounts=(ResolvedMount(str(tmp_path), "/opt/mount", mode),))
    except UnsupportedFeature as error:
        pytest.skip(f"mount_{mode}: {error.why}")  # of this directory's file system
    clean = snapshots.snapshot(box.handle)
    box.sh("printf 1 > /opt/mount/x; printf 1 > /opt/y")
    assert kinds(box, clean) == {"/opt/y": "added"}
