"""Which changes of a tree are changes of its directories, and that a damaged record of them is none."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_airlock.providers.namespaces.engine.shape import Shape


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for path in ("a/b/c", "a/d", "e"):
        (tmp_path / "top" / path).mkdir(parents=True)
    (tmp_path / "top/a/file").write_text("1")
    (tmp_path / "top/e/link").symlink_to("../a")
    return tmp_path / "top"


def test_parents_come_first_and_links_are_no_directories(top: Path) -> None:
    paths = Shape.of(str(top)).paths
    assert sorted(paths) == ["", "/a", "/a/b", "/a/b/c", "/a/d", "/e"]
    assert all(paths.index(path.rpartition("/")[0]) < paths.index(path) for path in paths[1:])


SEEN: list[tuple[str, Callable[[Path], object]]] = [
    ("a new directory", lambda top: (top / "a/b/c/new").mkdir()),
    ("one that is gone", lambda top: (top / "a/d").rmdir()),
    ("another one in its place", lambda top: ((top / "a/b").rename(top / "x"), (top / "a/b/n").mkdir(parents=True))),
    ("another name", lambda top: (top / "e").rename(top / "f")),
    ("a mode", lambda top: (top / "a/b").chmod(0o711)),
    ("a file in its place", lambda top: ((top / "a/d").rmdir(), (top / "a/d").write_text(""))),
    ("a link in its place", lambda top: ((top / "a/d").rename(top / "a/x"), (top / "a/d").symlink_to("x"))),
    ("a time that was set back", lambda top: ((top / "a/n").mkdir(), os.utime(top / "a", (1, 1)))),
    ("the whole tree", lambda top: top.rename(top.parent / "elsewhere")),
]


@pytest.mark.parametrize("change", [change for _, change in SEEN], ids=[name for name, _ in SEEN])
def test_every_change_of_directories_is_seen(top: Path, change: Callable[[Path], object]) -> None:
    shape = Shape.of(str(top))
    change(top)
    assert not shape.matches(str(top))


def test_files_that_come_and_go_change_no_directory(top: Path) -> None:
    shape = Shape.of(str(top))
    assert shape.matches(str(top))
    (top / "a/b/new").write_text("")
    (top / "a/file").unlink()
    (top / "e/other").symlink_to("/")
    (top / "a/d").rmdir()
    (top / "a/d").mkdir()
    assert shape.matches(str(top))


def test_what_was_noted_while_it_changed_is_not_relied_upon(top: Path) -> None:
    assert not Shape.of(str(top)).settled(time.time_ns())
    assert Shape.of(str(top)).settled(time.time_ns() + 3_000_000_000)


def test_a_record_is_read_as_it_was_written_or_not_at_all(top: Path) -> None:
    (top / "a/x\udcff\n").mkdir()
    shape = Shape.of(str(top))
    data = shape.pack()
    assert Shape.unpack(data) == shape
    for cut in (0, 10, 60, len(data) - 1):
        assert Shape.unpack(data[:cut]) is None
    for at in (0, 20, 60, len(data) - 1):
        assert Shape.unpack(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) is None
    assert Shape.unpack(data + b"x") is None
