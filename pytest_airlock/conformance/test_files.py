"""Contract 12 and 13: files in and out."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from pytest_airlock.conformance.machine import Machine, refused
from pytest_airlock.providers.base import FileStat, Provider, TreeEntry

NAMES = ["plain", " ", "a\nb", "-rf", "é", "\udcff\udcfe", "\x1b[31m", "x" * 255]


def listed(box: Machine, path: str) -> dict[str, FileStat]:
    return {entry.path: entry for entry in box.provider.listdir(box.handle, path)}


def exported(box: Machine, path: str, limit: int = 1 << 30) -> dict[str, tuple[TreeEntry, bytes]]:
    entries = box.provider.export_tree(box.handle, path, limit=limit)
    return {entry.path: (entry, b"".join(entry.chunks)) for entry in entries}


def test_c12_write_creates_and_replaces(box: Machine) -> None:
    box.write("/opt/f", b"\0\xff" * 1000, mode=0o600)
    assert box.read("/opt/f") == b"\0\xff" * 1000
    box.write("/opt/f", b"", mode=0o755)
    found = box.provider.stat(box.handle, "/opt/f")
    assert (found.kind, found.size, found.mode & 0o7777, found.uid, found.gid) == ("file", 0, 0o755, 0, 0)


def test_c12_megabytes(box: Machine) -> None:
    data = bytes(range(256)) * 20_000
    box.write("/tmp/big", data)
    assert box.read("/tmp/big", limit=len(data)) == data


def test_c12_commands_and_the_host_see_the_same_files(box: Machine) -> None:
    box.write("/opt/from-host", b"host")
    assert box.run("cat", "/opt/from-host").out == b"host"
    box.sh("printf inside > /opt/from-inside")
    assert box.read("/opt/from-inside") == b"inside"


def test_c12_access_is_as_root_of_the_sandbox(make: Callable[..., Machine], features: Any) -> None:
    box = make(user="airlock") if "user_ordinary" in features else make()
    box.write("/root/private", b"1", mode=0o600)
    assert box.read("/root/private") == b"1"
    if "many_users" in features:
        assert box.provider.stat(box.handle, "/root/private").uid == 0


def test_c12_stat_follows_or_not(box: Machine) -> None:
    box.write("/opt/f", b"123")
    box.provider.change(box.handle, "symlink", "/opt/l", to="f")
    assert box.provider.stat(box.handle, "/opt/l").kind == "file"
    found = box.provider.stat(box.handle, "/opt/l", follow_symlinks=False)
    assert (found.path, found.kind, found.target) == ("/opt/l", "symlink", "f")


def test_c12_listdir_is_sorted_and_complete(box: Machine) -> None:
    box.provider.change(box.handle, "mkdir", "/opt/d", mode=0o750)
    for name in NAMES:
        box.write(f"/opt/d/{name}", name.encode("utf-8", "surrogateescape"))
    box.provider.change(box.handle, "symlink", "/opt/d/link", to="nowhere")
    found = box.provider.listdir(box.handle, "/opt/d")
    assert [entry.path for entry in found] == sorted(f"/opt/d/{name}" for name in [*NAMES, "link"])
    assert listed(box, "/opt/d")["/opt/d/link"].target == "nowhere"
    assert box.provider.stat(box.handle, "/opt/d").mode & 0o7777 == 0o750
    for name in NAMES:
        assert box.read(f"/opt/d/{name}") == os.fsencode(name)


def test_c12_changes(box: Machine) -> None:
    change = box.provider.change
    change(box.handle, "mkdir", "/opt/d", mode=0o700)
    box.write("/opt/d/f", b"1")
    change(box.handle, "chmod", "/opt/d/f", mode=0o640)
    assert box.provider.stat(box.handle, "/opt/d/f").mode & 0o7777 == 0o640
    change(box.handle, "rename", "/opt/d/f", to="/opt/g")
    assert box.read("/opt/g") == b"1"
    change(box.handle, "remove", "/opt/d")
    change(box.handle, "remove", "/opt/g")
    assert not box.exists("/opt/d")
    assert not box.exists("/opt/g")


def test_c12_rmtree_takes_all_below_and_follows_no_link(box: Machine) -> None:
    box.sh("mkdir -p /opt/d/e/f /opt/kept; touch /opt/d/e/x /opt/kept/x; ln -s /opt/kept /opt/d/e/l")
    box.provider.change(box.handle, "rmtree", "/opt/d")
    assert not box.exists("/opt/d")
    assert box.exists("/opt/kept/x")


def test_c12_a_tree_goes_out_parents_first(box: Machine) -> None:
    box.sh(
        "mkdir -p /opt/t/a/b; printf 1 > /opt/t/a/b/f; ln -s ../f /opt/t/a/l; mkfifo /opt/t/pipe; chmod 711 /opt/t/a"
    )
    found = exported(box, "/opt/t")
    paths = list(found)
    assert sorted(paths) == ["", "a", "a/b", "a/b/f", "a/l", "pipe"]
    for path in paths[1:]:
        assert paths.index(path.rpartition("/")[0]) < paths.index(path)
    assert (found["a/b/f"][1], found["a/l"][0].target, found["pipe"][0].kind) == (b"1", "../f", "fifo")
    assert found["a"][0].mode & 0o7777 == 0o711


def test_c12_one_file_goes_out(box: Machine) -> None:
    box.write("/opt/f", b"x" * 3_000_000)
    [(path, (entry, data))] = exported(box, "/opt/f").items()
    assert (path, entry.kind, entry.size, data) == ("", "file", 3_000_000, b"x" * 3_000_000)


def test_c12_what_goes_out_is_bounded(box: Machine) -> None:
    box.sh("mkdir /opt/t; printf 12345 > /opt/t/a; printf 12345 > /opt/t/b")
    assert len(exported(box, "/opt/t", limit=10)) == 3
    with refused(errno.EFBIG):
        exported(box, "/opt/t", limit=9)


def test_c12_a_tree_goes_in_and_is_merged(box: Machine) -> None:
    box.sh("mkdir -p /opt/t/d; printf old > /opt/t/f; printf kept > /opt/t/d/kept")
    box.provider.import_tree(
        box.handle,
        "/opt/t",
        [
            TreeEntry("", "dir", 0o755),
            TreeEntry("f", "file", 0o640, 3, chunks=[b"n", b"ew"]),
            TreeEntry("d", "dir", 0o755),
            TreeEntry("d/x", "file", 0o755, 0),
            TreeEntry("l", "symlink", target="d/x"),
            *[TreeEntry(name, "file", 0o644, 1, chunks=[b"1"]) for name in NAMES],
        ],
    )
    assert box.read("/opt/t/f") == b"new"
    assert box.read("/opt/t/d/kept") == b"kept"
    assert box.provider.stat(box.handle, "/opt/t/l").mode & 0o7777 == 0o755
    assert {f"/opt/t/{name}" for name in NAMES} < set(listed(box, "/opt/t"))
    assert box.provider.stat(box.handle, "/opt/t/f").uid == 0


def test_c12_a_tree_that_goes_in_is_written_through_no_link(box: Machine) -> None:
    box.sh("mkdir -p /opt/t /opt/victim; printf safe > /opt/safe; ln -s /opt/safe /opt/t/f")
    box.provider.import_tree(
        box.handle, "/opt/t", [TreeEntry("", "dir"), TreeEntry("f", "file", size=3, chunks=[b"new"])]
    )
    assert box.read("/opt/safe") == b"safe"
    assert box.read("/opt/t/f") == b"new"


ERRORS: dict[str, tuple[int, Callable[[Provider, Any], object]]] = {
    "read missing": (errno.ENOENT, lambda p, h: p.read(h, "/opt/no", limit=1)),
    "read below a file": (errno.ENOTDIR, lambda p, h: p.read(h, "/opt/f/x", limit=1)),
    "read a directory": (errno.EISDIR, lambda p, h: p.read(h, "/opt/d", limit=1)),
    "read more than the limit": (errno.EFBIG, lambda p, h: p.read(h, "/opt/f", limit=2)),
    "write without directory": (errno.ENOENT, lambda p, h: p.write(h, "/opt/no/f", b"")),
    "write a directory": (errno.EISDIR, lambda p, h: p.write(h, "/opt/d", b"")),
    "stat missing": (errno.ENOENT, lambda p, h: p.stat(h, "/opt/no")),
    "stat a loop": (errno.ELOOP, lambda p, h: p.stat(h, "/opt/loop")),
    "stat a name too long": (errno.ENAMETOOLONG, lambda p, h: p.stat(h, "/opt/" + "x" * 256)),
    "list missing": (errno.ENOENT, lambda p, h: p.listdir(h, "/opt/no")),
    "list a file": (errno.ENOTDIR, lambda p, h: p.listdir(h, "/opt/f")),
    "mkdir existing": (errno.EEXIST, lambda p, h: p.change(h, "mkdir", "/opt/d")),
    "mkdir without parent": (errno.ENOENT, lambda p, h: p.change(h, "mkdir", "/opt/no/d")),
    "remove missing": (errno.ENOENT, lambda p, h: p.change(h, "remove", "/opt/no")),
    "remove a full directory": (errno.ENOTEMPTY, lambda p, h: p.change(h, "remove", "/opt/d")),
    "rmtree missing": (errno.ENOENT, lambda p, h: p.change(h, "rmtree", "/opt/no")),
    "rename missing": (errno.ENOENT, lambda p, h: p.change(h, "rename", "/opt/no", to="/opt/x")),
    "symlink existing": (errno.EEXIST, lambda p, h: p.change(h, "symlink", "/opt/f", to="x")),
    "chmod missing": (errno.ENOENT, lambda p, h: p.change(h, "chmod", "/opt/no", mode=0o644)),
    "export missing": (errno.ENOENT, lambda p, h: list(p.export_tree(h, "/opt/no", limit=1))),
    "import without parent": (
        errno.ENOENT, lambda p, h: p.import_tree(h, "/opt/no/f", [TreeEntry("", "file")])
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_c13_errors_are_those_of_the_kernel(box: Machine, case: str) -> None:
    box.sh("printf 123 > /opt/f; mkdir /opt/d; touch /opt/d/x; ln -s loop /opt/loop")
    code, call = ERRORS[case]
    with pytest.raises(OSError, match=rf"Errno {code}\]") as caught:
        call(box.provider, box.handle)
    assert str(caught.value.filename).startswith("/opt")
