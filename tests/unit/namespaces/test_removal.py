"""remove_tree of engine/trees.py: only what is named, and nothing without a name."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pytest_airlock.providers.namespaces.engine.trees import remove_tree


def test_an_empty_name_is_refused_before_anything_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_args: object, **_words: object) -> int:
        pytest.fail("a directory was opened")

    monkeypatch.setattr(os, "open", opened)
    with pytest.raises(FileNotFoundError) as caught:
        remove_tree(b"")
    assert caught.value.errno == errno.ENOENT


def test_below_an_open_directory_wherever_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("here", "there"):
        (tmp_path / place / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "here" / "tree" / "link").symlink_to(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    here = os.open(tmp_path / "here", os.O_RDONLY)
    try:
        with pytest.raises(FileNotFoundError):
            remove_tree(b"", directory=here)
        remove_tree(b"tree", directory=here)
    finally:
        os.close(here)
    assert list((tmp_path / "here").iterdir()) == []
    assert (tmp_path / "there" / "tree" / "sub").is_dir()
