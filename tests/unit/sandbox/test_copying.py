"""copy_in and copy_out: what crosses, and every way out that must be shut."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_airlock.providers.base import TreeEntry
from pytest_airlock.sandbox.copying import COPY_LIMIT, MAX_DEPTH, _leads_out, copy_out


class Hostile:
    """A backend whose export is whatever an attacker likes."""

    def __init__(self, *entries):
        self.entries = entries

    def export_tree(self, path, *, limit):
        return iter(self.entries)


def take(target, *entries, limit=COPY_LIMIT):
    return copy_out(Hostile(*entries), "/x", target, limit=limit)


def folder(path=""):
    return TreeEntry(path, "dir", 0o755)


def file(path, data=b"data", mode=0o644):
    return TreeEntry(path, "file", mode, len(data), chunks=[data])


def link(path, target):
    return TreeEntry(path, "symlink", target=target)


@pytest.fixture
def tree(tmp_path):
    base = tmp_path / "tree"
    (base / "sub").mkdir(parents=True)
    (base / "a.txt").write_bytes(b"\xff\0a")
    (base / "sub/tool").write_text("#!/bin/sh\n")
    (base / "sub/tool").chmod(0o4775)
    (base / "link").symlink_to("sub/tool")
    (base / "out").symlink_to("/etc/passwd")
    os.mkfifo(base / "fifo")
    return base


def test_a_tree_goes_in_and_comes_out(box, tree, tmp_path):
    copied = box.copy_in(tree, "/srv/made/here")
    assert (copied.files, copied.skipped) == (2, [("fifo", "neither file, directory nor link")])
    assert box.path("/srv/made/here/a.txt").read_bytes() == b"\xff\0a"
    assert box.path("/srv/made/here/link").readlink() == "sub/tool"
    assert box.path("/srv/made/here/out").readlink() == "/etc/passwd"
    assert stat.S_IMODE(box.path("/srv/made/here/sub/tool").stat().st_mode) == 0o755

    copied = box.copy_out("/srv/made/here", tmp_path / "new/out")
    assert (tmp_path / "new/out/a.txt").read_bytes() == b"\xff\0a"
    assert (tmp_path / "new/out/link").readlink() == Path("sub/tool")
    assert not os.path.lexists(tmp_path / "new/out/out")
    assert copied.skipped == [("out", "a link that is not relative")]
    assert copied.bytes == 3 + 10


def test_a_file_goes_below_a_directory_or_to_a_name(box, tree, tmp_path):
    box.copy_in(tree / "a.txt", "/tmp")
    box.copy_in(tree / "a.txt", "/srv/new/")
    box.copy_in(str(tree / "a.txt"), box.path("/srv/name"))
    for path in ("/tmp/a.txt", "/srv/new/a.txt", "/srv/name"):
        assert box.path(path).read_bytes() == b"\xff\0a"
    box.copy_out("/srv/name", tmp_path)
    box.copy_out("/srv/name", tmp_path / "other")
    assert (tmp_path / "name").read_bytes() == (tmp_path / "other").read_bytes() == b"\xff\0a"


def test_trees_are_merged_and_files_replaced(box, tree, tmp_path):
    box.copy_in(tree, "/srv")
    box.path("/srv/kept").touch()
    (tree / "a.txt").write_text("2")
    box.copy_in(tree, "/srv")
    assert box.path("/srv/a.txt").read_text() == "2"
    assert box.path("/srv/kept").exists()
    (tmp_path / "to").mkdir()
    (tmp_path / "to/mine").touch()
    box.copy_out("/srv", tmp_path / "to")
    box.copy_out("/srv", tmp_path / "to")
    assert (tmp_path / "to/mine").exists()


def test_a_big_file(box, tmp_path):
    (tmp_path / "big").write_bytes(os.urandom(3_500_000))
    box.copy_in(tmp_path / "big", "/tmp/big")
    box.copy_out("/tmp/big", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "big").read_bytes()


def test_a_special_or_missing_source_is_an_error(box, tree):
    with pytest.raises(OSError, match="neither a file nor a directory"):
        box.copy_in(tree / "fifo", "/tmp/x")
    with pytest.raises(FileNotFoundError):
        box.copy_in(tree / "nothing", "/tmp/x")
    with pytest.raises(FileNotFoundError):
        box.copy_out("/nothing", tree / "x")


def test_r44_modes_are_masked_on_the_host(tmp_path):
    take(tmp_path / "to", TreeEntry("", "dir", 0o7777), file("f", mode=0o6777), TreeEntry("d", "dir", 0o3777))
    for name in ("", "f", "d"):
        assert stat.S_IMODE((tmp_path / "to" / name).stat().st_mode) == 0o755


@pytest.mark.parametrize("kind", ["fifo", "socket", "char", "block"])
def test_r44_special_files_are_listed_not_made(tmp_path, kind):
    copied = take(tmp_path / "to", folder(), TreeEntry("x", kind))
    assert copied.skipped == [("x", f"a {kind}")]
    assert os.listdir(tmp_path / "to") == []


@pytest.mark.parametrize("name", ["..", "../x", "/x", "a/../../x", ".", "a//b", "x/", "a\0b", "/"])
def test_r44_names_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(OSError) as caught:
        take(tmp_path / "in/to", folder(), folder("a"), file(name))
    assert caught.value.errno == errno.EINVAL
    assert sorted(os.listdir(tmp_path / "in")) == ["to"]
    assert os.listdir(tmp_path / "in/to") == ["a"]


def test_r44_a_link_is_never_written_through(tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "file").write_text("safe")
    to = tmp_path / "to"
    to.mkdir()
    (to / "d").symlink_to(victim)
    (to / "f").symlink_to(tmp_path / "file")
    take(to, folder(), file("f"))
    assert (tmp_path / "file").read_text() == "safe"
    assert not (to / "f").is_symlink()
    with pytest.raises(OSError):
        take(to, folder(), folder("d"), file("d/x"))
    assert os.listdir(victim) == []


def test_r44_a_link_made_by_the_copy_is_never_entered(tmp_path):
    with pytest.raises(OSError):
        take(tmp_path / "to", folder(), folder("a"), link("l", "a"), file("l/x"))
    assert os.listdir(tmp_path / "to/a") == []


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "..", "../x", "../../x", "a/../../x", "a/../b", "", "a\0b", None, "./../.."]
)
def test_r44_links_that_may_lead_out_are_listed_not_made(tmp_path, target):
    copied = take(tmp_path / "to", folder(), link("l", target))
    assert [path for path, _ in copied.skipped] == ["l"]
    assert os.listdir(tmp_path / "to") == []


def test_links_within_the_tree_are_made(tmp_path):
    take(tmp_path / "to", folder(), folder("a"), link("a/l", "../f"), file("f"))
    assert (tmp_path / "to/a/l").read_text() == "data"


def test_r44_two_harmless_links_make_no_way_out(tmp_path):
    """`p/q` is the root itself; `p/q/..` would be outside, though its text looks like `p`."""
    copied = take(tmp_path / "to", folder(), folder("p"), link("p/q", ".."), link("l", "p/q/../x"))
    assert copied.skipped == [("l", "a link that leads out of the tree")]


def test_an_entry_before_its_directory_is_refused(tmp_path):
    with pytest.raises(OSError, match="before its directory"):
        take(tmp_path / "to", folder(), file("a/b"))
    with pytest.raises(OSError, match="its root"):
        take(tmp_path / "other", file("a"))


def test_siblings_after_deep_directories(tmp_path):
    take(tmp_path / "to", folder(), folder("a"), folder("a/b"), file("a/b/c"), file("a/d"), file("e"))
    assert (tmp_path / "to/a/d").exists()
    assert (tmp_path / "to/e").exists()


def test_content_is_bounded_whatever_the_provider_does(tmp_path):
    def endless():
        while True:
            yield b"x" * 100_000

    with pytest.raises(OSError) as caught:
        take(tmp_path / "to", TreeEntry("", "file", chunks=endless()), limit=1_000_000)
    assert caught.value.errno == errno.EFBIG
    assert (tmp_path / "to").stat().st_size <= 1_000_000


def test_a_sparse_file_is_bounded(box, tmp_path):
    box.run(["truncate", "-s", "1T", "/tmp/huge"])
    with pytest.raises(OSError) as caught:
        box.copy_out("/tmp/huge", tmp_path / "huge")
    assert caught.value.errno == errno.EFBIG


def test_depth_is_bounded(tmp_path):
    deep = [folder("/".join(["d"] * depth)) for depth in range(1, 210)]
    with pytest.raises(OSError, match="levels"):
        take(tmp_path / "to", folder(), *deep)


def test_a_directory_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "to/d").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        take(tmp_path / "to", folder(), file("d"))


def test_odd_names_survive(box, tmp_path):
    for name in ("a\nb", "\udcff", "-rf", " "):
        (box.path("/srv/odd") / name).parent.mkdir(parents=True, exist_ok=True)
        (box.path("/srv/odd") / name).write_text(name.encode("utf-8", "surrogateescape").hex())
    box.copy_out("/srv/odd", tmp_path / "odd")
    assert sorted(os.listdir(tmp_path / "odd")) == sorted(["a\nb", "\udcff", "-rf", " "])


def test_no_descriptor_is_left_open(box, tree, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    box.copy_in(tree, "/srv")
    box.copy_out("/srv", tmp_path / "x")
    with pytest.raises(OSError):
        take(tmp_path / "y", folder(), folder("a"), file("a/.."))
    assert len(os.listdir("/proc/self/fd")) == before


@given(st.lists(st.sampled_from(["..", ".", "a", "b", ""]), max_size=8), st.integers(0, 4))
def test_r44_no_accepted_link_leads_above_its_root(parts, depth):
    target = "/".join(parts)
    if _leads_out(target, depth):
        return
    at = depth
    for part in target.split("/"):
        at += {"..": -1, ".": 0, "": 0}.get(part, 1)
        assert at >= 0


def test_the_names_of_what_is_skipped_have_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("pytest_airlock.sandbox.copying.MAX_SKIPPED", 100)
    fifos = [TreeEntry(f"{number:010}", "fifo") for number in range(11)]
    assert len(take(tmp_path / "t", folder(), *fifos[:10]).skipped) == 10
    with pytest.raises(OSError, match="names alone") as caught:
        take(tmp_path / "t", folder(), *fifos)
    assert caught.value.errno == errno.EFBIG


def test_a_path_in_an_error_is_one_that_can_be_read(tmp_path):
    with pytest.raises(OSError, match="more than 200 levels") as caught:
        take(tmp_path / "t", folder(), TreeEntry("/".join("d" * 300 for _ in range(201)), "dir"))
    assert len(caught.value.filename) < 1100


def test_a_host_tree_that_is_too_deep_is_refused_before_recursion_is(box, tmp_path):
    deep = tmp_path / "t"
    for _ in range(MAX_DEPTH + 2):
        deep = deep / "d"
    deep.mkdir(parents=True)
    with pytest.raises(OSError, match="refused to copy in") as caught:
        box.copy_in(tmp_path / "t", "/opt")
    assert caught.value.errno == errno.ELOOP
