"""Changes between layers made by hand, and what their reader refuses."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from files_workers import ThreadWorker
from test_files import make_deep

from pytest_airlock.errors import ProviderError
from pytest_airlock.providers.base import Change
from pytest_airlock.providers.namespaces.diff_client import read_changes
from pytest_airlock.providers.namespaces.engine import diff as engine
from pytest_airlock.providers.namespaces.engine.diff import DiffView
from pytest_airlock.providers.namespaces.engine.frames import (
    ADDED,
    CHANGE,
    DATA,
    ERROR,
    ChangeRecord,
    FrameWriter,
    pack_error,
)
from pytest_airlock.providers.namespaces.files_client import FileClient

OLD = 10**18


def changes(*views: DiffView, limit: int = 1000, prefix: str = "user.") -> list[Change]:
    read, write = os.pipe()

    def work() -> None:
        try:
            engine.diff(views, write, xattr_prefix=prefix, limit=limit)
        finally:
            os.close(write)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        with os.fdopen(read, "rb", buffering=0) as stream:
            return list(read_changes(stream, deadline=60))
    finally:
        thread.join()


class Layers:
    """Directories that stand for layers: `top`, `middle` (both since the snapshot) and `base`."""

    def __init__(self, place: Path) -> None:
        self.top, self.middle, self.base = (place / name for name in ("top", "middle", "base"))
        for layer in (self.top, self.middle, self.base):
            layer.mkdir()

    def told(self, *, target: str = "/") -> set[tuple[str, str]]:
        view = DiffView(target, (str(self.top), str(self.middle)), (str(self.base),))
        found = changes(view)
        assert len({change.path for change in found}) == len(found)
        return {(change.kind, change.path) for change in found if not change.mtime_only}


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[Layers]:
    before = os.umask(0o022)
    yield Layers(tmp_path)
    os.umask(before)


def file(path: Path, content: bytes = b"", *, mtime: int = OLD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(mtime, mtime))
    return path


def whiteout(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(path, stat.S_IFCHR, 0)


def opaque(path: Path, value: bytes = b"y") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    os.setxattr(path, "user.overlay.opaque", value)
    return path


def test_added_modified_and_deleted_are_told_with_what_they_are(layers: Layers) -> None:
    file(layers.base / "changed", b"old")
    file(layers.base / "gone", b"12345").chmod(0o600)
    file(layers.top / "new", b"1234").chmod(0o755)
    file(layers.top / "changed", b"new")
    file(layers.top / "changed", b"newer", mtime=OLD + 1)
    (layers.top / "link").symlink_to("x")
    whiteout(layers.top / "gone")
    found = changes(DiffView("/opt/", (str(layers.top),), (str(layers.base),)))
    assert found == [
        Change("modified", "/opt/changed", "file", 5, 0o644),
        Change("deleted", "/opt/gone", "file", 5, 0o600),
        Change("added", "/opt/link", "symlink", 1, 0o777),
        Change("added", "/opt/new", "file", 4, 0o755),
    ]


def test_everything_below_a_new_or_a_deleted_directory_is_told(layers: Layers) -> None:
    file(layers.top / "new/deep/f")
    file(layers.base / "old/deep/f")
    whiteout(layers.top / "old")
    assert layers.told() == {
        ("added", "/new"),
        ("added", "/new/deep"),
        ("added", "/new/deep/f"),
        ("deleted", "/old"),
        ("deleted", "/old/deep"),
        ("deleted", "/old/deep/f"),
    }


def test_an_opaque_directory_deletes_what_was_below_and_not_made_again(layers: Layers) -> None:
    file(layers.base / "d/same", b"same")
    file(layers.base / "d/gone/f")
    opaque(layers.top / "d")
    file(layers.top / "d/same", b"same")
    file(layers.top / "d/new")
    assert layers.told() == {("deleted", "/d/gone"), ("deleted", "/d/gone/f"), ("added", "/d/new")}


def test_the_wrong_attribute_is_never_taken_for_an_opaque_one(layers: Layers) -> None:
    file(layers.base / "d/kept")
    os.setxattr(opaque(layers.top / "d", b"n"), "user.other", b"y")
    assert layers.told() == set()
    with pytest.raises(ValueError, match="xattr_prefix"):
        engine.diff([], 1, xattr_prefix="user", limit=1)


def test_the_upper_of_several_layers_decides(layers: Layers) -> None:
    file(layers.base / "back", b"same")
    whiteout(layers.middle / "back")
    file(layers.top / "back", b"same")
    file(layers.middle / "passing")
    whiteout(layers.top / "passing")
    file(layers.middle / "d/from-middle")
    file(layers.top / "d/from-top")
    file(layers.middle / "hidden/f")
    opaque(layers.top / "hidden")
    file(layers.base / "hidden/old")
    assert layers.told() == {
        ("added", "/d"),
        ("added", "/d/from-middle"),
        ("added", "/d/from-top"),
        ("deleted", "/hidden/old"),
    }


def test_a_file_in_between_cuts_a_directory_off_from_what_is_below(layers: Layers) -> None:
    file(layers.base / "d/old")
    file(layers.middle / "d")
    file(layers.top / "d/new")
    assert layers.told() == {("deleted", "/d/old"), ("added", "/d/new")}


def test_a_change_of_type_is_a_modification(layers: Layers) -> None:
    file(layers.base / "to-file/f")
    file(layers.top / "to-file")
    file(layers.base / "to-dir")
    file(layers.top / "to-dir/f")
    assert layers.told() == {
        ("modified", "/to-file"),
        ("deleted", "/to-file/f"),
        ("modified", "/to-dir"),
        ("added", "/to-dir/f"),
    }


def test_a_copy_without_a_difference_is_no_change(layers: Layers) -> None:
    for layer in (layers.base, layers.top):
        file(layer / "d/f", b"x" * 200_000)
        (layer / "d/link").symlink_to("f")
        os.utime(layer / "d/link", ns=(OLD, OLD), follow_symlinks=False)
        os.utime(layer / "d", ns=(OLD, OLD))
    assert changes(DiffView("/", (str(layers.top),), (str(layers.base),))) == []


@pytest.mark.parametrize("difference", ["content", "mode", "time", "link"])
def test_any_difference_of_a_copy_is_a_change(layers: Layers, difference: str) -> None:
    for layer in (layers.base, layers.top):
        changed = layer == layers.top
        if difference == "link":
            (layer / "f").symlink_to("b" if changed else "a")
            os.utime(layer / "f", ns=(OLD, OLD), follow_symlinks=False)
            continue
        content = b"x" * 100_000 + (b"b" if changed and difference == "content" else b"a")
        path = file(layer / "f", content, mtime=OLD + (changed and difference == "time"))
        path.chmod(0o755 if changed and difference == "mode" else 0o644)
    assert layers.told() == {("modified", "/f")}


def test_what_is_too_much_to_compare_counts_as_changed(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in (layers.base, layers.top):
        for name in "ab":
            file(layer / name, bytes(1000))
    monkeypatch.setattr(engine, "COMPARE_LIMIT", 1999)
    assert layers.told() == {("modified", "/b")}


def test_a_directory_of_which_only_the_time_differs_is_marked(layers: Layers) -> None:
    for layer, time in ((layers.base, OLD), (layers.top, OLD + 1)):
        (layer / "d").mkdir()
        os.utime(layer / "d", ns=(time, time))
    (change,) = changes(DiffView("/", (str(layers.top),), (str(layers.base),)))
    assert change == Change("modified", "/d", "dir", 0, 0o755, mtime_only=True)
    (layers.top / "d").chmod(0o700)
    (change,) = changes(DiffView("/", (str(layers.top),), (str(layers.base),)))
    assert change == Change("modified", "/d", "dir", 0, 0o700)


def test_the_mode_of_a_views_top_counts(layers: Layers) -> None:
    layers.top.chmod(0o1777)
    assert layers.told() == {("modified", "/")}
    assert layers.told(target="/opt") == {("modified", "/opt")}


def test_whiteouts_of_lower_layers_hide_what_is_below_them(layers: Layers, tmp_path: Path) -> None:
    whiteout(layers.base / "hidden")
    file(tmp_path / "host/hidden")
    file(layers.top / "hidden")
    view = DiffView("/", (str(layers.top),), (str(layers.base), str(tmp_path / "host")))
    assert [(change.kind, change.path) for change in changes(view)] == [("added", "/hidden")]


def test_whiteouts_by_attribute_count_where_the_directory_says_so(layers: Layers) -> None:
    for name, value in (("marked", b"x"), ("plain", b"n")):
        file(layers.base / name / "f", b"1")
        opaque(layers.top / name, value)
        os.setxattr(file(layers.top / name / "f"), "user.overlay.whiteout", b"y")
    assert layers.told() == {("deleted", "/marked/f"), ("modified", "/plain/f")}


def test_layers_may_be_descriptors(layers: Layers) -> None:
    file(layers.top / "f")
    fds = [os.open(layer, os.O_RDONLY) for layer in (layers.top, layers.base)]
    try:
        for _ in range(2):  # they stay the caller's
            assert [change.path for change in changes(DiffView("/", (fds[0],), (fds[1],)))] == ["/f"]
    finally:
        for fd in fds:
            os.close(fd)


def test_links_in_a_layer_are_never_followed(layers: Layers, tmp_path: Path) -> None:
    file(tmp_path / "secret/f", b"secret")
    file(layers.base / "d/f")
    (layers.top / "d").symlink_to(tmp_path / "secret")
    assert layers.told() == {("modified", "/d"), ("deleted", "/d/f")}


def test_more_changes_than_the_limit_are_an_error_with_a_path(layers: Layers) -> None:
    for name in "abc":
        file(layers.top / name)
    view = DiffView("/", (str(layers.top),), (str(layers.base),))
    assert len(changes(view, limit=3)) == 3
    with pytest.raises(OSError) as caught:
        changes(view, limit=2)
    assert (caught.value.errno, caught.value.filename) == (errno.EOVERFLOW, "/c")


def test_a_missing_layer_is_an_error_with_its_path(layers: Layers) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        changes(DiffView("/", (str(layers.top / "no"),), ()))
    assert caught.value.filename == str(layers.top / "no")


def test_a_tree_deeper_than_any_path_is_told_whole(layers: Layers) -> None:
    make_deep(layers.top / "deep", 3000)
    try:
        found = changes(DiffView("/", (str(layers.top),), (str(layers.base),)), limit=4000)
        assert len(found) == 3002
        assert found[-1].path == "/deep/" + "d/" * 3000 + "f"
    finally:
        FileClient(ThreadWorker).change("rmtree", str(layers.top / "deep"))


# ---------------------------------------------------------------- the reader


def read(*items: tuple[int, bytes], end: bool = True, limit: int = 10) -> list[Change]:
    pieces: list[bytes] = []
    out = FrameWriter(pieces.append, bound=1 << 30)
    for kind, payload in items:
        out.put(kind, payload)
    if end:
        out.finish(5)
    out.flush()
    receiver, sender = os.pipe()
    with os.fdopen(sender, "wb") as file:
        file.write(b"".join(pieces))
    with os.fdopen(receiver, "rb", buffering=0) as stream:
        return list(read_changes(stream, limit=limit))


def change(path: bytes = b"/f", mode: int = 0o100644) -> tuple[int, bytes]:
    return CHANGE, ChangeRecord(ADDED, mode, 1, False, path).pack()


def test_a_change_is_read_as_it_was_sent() -> None:
    assert read(change(b"/a\xff", 0o104755)) == [Change("added", "/a\udcff", "file", 1, 0o4755)]


@pytest.mark.parametrize("path", [b"f", b"//f", b"/a//b", b"/..", b"/a/../b", b"/./a", b"/a/", b"/a\0b"])
def test_a_path_that_is_not_plain_is_refused(path: bytes) -> None:
    with pytest.raises(ProviderError, match="sent the path"):
        read(change(path))


@pytest.mark.parametrize(
    ("items", "why"),
    [
        ([(CHANGE, b"")], "bytes where"),
        ([(CHANGE, b"\x07" + change()[1][1:])], "no known kind"),
        ([change(b"")], "no known kind"),
        ([change(mode=0)], "file type"),
        ([(DATA, b"x")], "out of place"),
        ([change()] * 11, "more than 10 changes"),
    ],
)
def test_what_is_no_list_of_changes_is_refused(items: list[tuple[int, bytes]], why: str) -> None:
    with pytest.raises(ProviderError, match=why):
        read(*items)


def test_a_list_without_an_end_is_refused() -> None:
    with pytest.raises(ProviderError, match="failed to list changes: its worker ended"):
        read(change(), end=False)


def test_an_error_of_the_walk_is_an_oserror() -> None:
    with pytest.raises(OSError) as caught:
        read(change(), (ERROR, pack_error(errno.ESTALE, b"/d")), end=False)
    assert (caught.value.errno, caught.value.filename) == (errno.ESTALE, "/d")


def test_a_walk_that_stands_still_is_given_up() -> None:
    receiver, sender = os.pipe()
    try:
        with os.fdopen(receiver, "rb", buffering=0) as stream, pytest.raises(ProviderError, match="kept us waiting"):
            list(read_changes(stream, deadline=0.05))
    finally:
        os.close(sender)


def test_a_reader_that_leaves_ends_the_walk(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(400):  # more than one piece of the stream
        file(layers.top / f"{number:0200}")
    told: list[bytes] = []

    class Counting(engine.Differ):
        def tell(self, kind: int, path: bytes, info: os.stat_result, *, mtime_only: bool = False) -> None:
            told.append(path)
            super().tell(kind, path, info, mtime_only=mtime_only)

    monkeypatch.setattr(engine, "Differ", Counting)
    receiver, sender = os.pipe()
    os.close(receiver)
    try:
        view = DiffView("/", (str(layers.top),), (str(layers.base),))
        engine.diff([view], sender, xattr_prefix="user.", limit=10_000)
    finally:
        os.close(sender)
    assert 0 < len(told) < 400
