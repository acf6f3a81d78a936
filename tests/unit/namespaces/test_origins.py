"""What a sandbox begins with: any change that commands could see makes another text, what tools leave does not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_airlock.providers.namespaces.engine.world import Entry, View, World
from pytest_airlock.providers.namespaces.images import origin
from pytest_airlock.providers.namespaces.images.origins import MAX_FILES

MODULE = "pytest_airlock.providers.namespaces.images.origins"


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "top/src/pkg").mkdir(parents=True)
    (tmp_path / "top/src/pkg/a.py").write_text("1")
    (tmp_path / "top/.git/refs").mkdir(parents=True)
    (tmp_path / "top/.git/objects").mkdir()
    (tmp_path / "top/.git/HEAD").write_text("ref: x")
    (tmp_path / "top/link").symlink_to("src")
    return tmp_path / "top"


def text(top: Path, **words: object) -> str:
    view = View(str(top), "/srv/project", system=False)._replace(**words)
    return origin(World((), (view,)), {})


CHANGES: dict[str, Callable[[Path], object]] = {
    "a new file": lambda top: (top / "src/new").touch(),
    "a file that is gone": lambda top: (top / "src/pkg/a.py").unlink(),
    "other content": lambda top: (top / "src/pkg/a.py").write_text("22"),
    "other content of the same length": lambda top: ((top / "src/pkg/a.py").write_text("2"), os.utime(top / "src/pkg/a.py", (5, 5))),
    "a mode": lambda top: (top / "src/pkg/a.py").chmod(0o755),
    "a link elsewhere": lambda top: ((top / "link").unlink(), (top / "link").symlink_to("src/pkg")),
    "an empty directory": lambda top: (top / "src/new").mkdir(),
    "another commit": lambda top: (top / ".git/HEAD").write_text("ref: y/z"),
    "a branch": lambda top: (top / ".git/refs/heads").mkdir(),
}  # fmt: skip
NONE: dict[str, Callable[[Path], object]] = {
    "nothing": lambda top: None,
    "byte code": lambda top: ((top / "src/pkg/__pycache__").mkdir(), (top / "src/pkg/__pycache__/a.pyc").touch()),
    "a cache of pytest": lambda top: (top / ".pytest_cache/v").mkdir(parents=True),
    "objects of git": lambda top: (top / ".git/objects/aa").mkdir(),
    "the index of git": lambda top: (top / ".git/index").touch(),
    "the time of a directory": lambda top: os.utime(top / "src", (1, 1)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_can_be_read_counts(top: Path, name: str) -> None:
    before = text(top)
    CHANGES[name](top)
    assert text(top) not in ("", before)


@pytest.mark.parametrize("name", NONE)
def test_what_tools_leave_does_not(top: Path, name: str) -> None:
    before = text(top)
    NONE[name](top)
    assert text(top) == before != ""


def test_the_world_itself_counts(top: Path) -> None:
    world = World((Entry("file", "/etc/hosts", data="a"),), (View(str(top), "/srv", system=False),))
    other = world._replace(entries=(Entry("file", "/etc/hosts", data="b"),))
    assert origin(world, {}) != origin(other, {})


def test_a_file_that_is_copied_into_it_counts(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("1")
    world = World((Entry("copy", "/etc/f", data=str(tmp_path / "f")),), ())
    before = origin(world, {})
    (tmp_path / "f").write_text("22")
    assert origin(world, {}) != before


def test_a_single_file_as_a_mount_counts(top: Path) -> None:
    before = text(top / "src/pkg/a.py")
    (top / "src/pkg/a.py").write_text("22")
    assert text(top / "src/pkg/a.py") != before


def test_what_is_shared_read_write_cannot_be_told(top: Path) -> None:
    assert text(top, mode="rw") == ""


def test_more_files_than_are_worth_a_look_cannot_be_told(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_FILES > 1000
    monkeypatch.setattr(f"{MODULE}.MAX_FILES", 4)
    assert text(top) == ""


def test_of_the_distributions_own_directories_every_one_counts_and_below_local_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "usr/share/doc").mkdir(parents=True)
    (tmp_path / "usr/local/bin").mkdir(parents=True)
    (tmp_path / "usr/local/bin/tool").write_text("1")
    stamps = ["installed"]
    monkeypatch.setattr(f"{MODULE}.package_stamps", lambda: stamps)
    seen = {text(tmp_path / "usr", target="/usr", system=True)}
    changes: list[Callable[[], object]] = [
        lambda: (tmp_path / "usr/local/bin/tool").write_text("22"),
        (tmp_path / "usr/share/doc/new").touch,
        lambda: stamps.append("more"),
    ]
    for count, change in enumerate(changes, 2):
        change()
        seen.add(text(tmp_path / "usr", target="/usr", system=True))
        assert len(seen) == count
