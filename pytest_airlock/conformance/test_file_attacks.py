"""Contract 12 and 13 against a sandbox that wants the host to hang, to read too much, or to follow it out."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_airlock.conformance.machine import Machine, refused, within
from pytest_airlock.providers.base import TreeEntry

SECRET = b"only the host has this"


@pytest.fixture
def secret(tmp_path: Path) -> str:
    (tmp_path / "secret").write_bytes(SECRET)
    return str(tmp_path / "secret")


def test_c12_a_fifo_is_refused_and_not_opened(box: Machine) -> None:
    box.sh("mkfifo /opt/fifo; ln -s fifo /opt/link")
    for path in ("/opt/fifo", "/opt/link"):
        with refused():
            box.read(path)
    with refused():
        within(lambda: box.write("/opt/fifo", b"x"))
    assert within(lambda: box.provider.stat(box.handle, "/opt/fifo").kind) == "fifo"


def test_c12_devices_are_refused(box: Machine) -> None:
    for path in ("/dev/zero", "/dev/null"):
        with refused():
            box.read(path)


def test_c12_a_fifo_in_a_tree_does_not_hang_it(box: Machine) -> None:
    box.sh("mkdir /opt/t; mkfifo /opt/t/a; touch /opt/t/b")
    found = within(lambda: [(e.path, e.kind) for e in box.provider.export_tree(box.handle, "/opt/t", limit=10)])
    assert sorted(found) == [("", "dir"), ("a", "fifo"), ("b", "file")]


@pytest.mark.parametrize("prefix", ["", "/..", "/../../../../../.."])
def test_c12_links_lead_nowhere_else(box: Machine, secret: str, prefix: str) -> None:
    box.provider.change(box.handle, "symlink", "/opt/link", to=prefix + secret)
    with pytest.raises(FileNotFoundError):
        box.read("/opt/link")
    with pytest.raises(FileNotFoundError):
        box.provider.stat(box.handle, "/opt/link")
    with pytest.raises(FileNotFoundError):
        box.read("/opt/../../../../../.." + secret)


def test_c12_a_directory_that_is_a_link_is_resolved_inside(box: Machine, secret: str) -> None:
    folder = str(Path(secret).parent)
    box.provider.change(box.handle, "symlink", "/opt/out", to=folder)
    with refused():
        box.write("/opt/out/planted", b"x")
    assert not (Path(folder) / "planted").exists()


def test_c12_a_tree_that_goes_out_has_links_as_links(box: Machine, secret: str) -> None:
    box.sh(f"mkdir /opt/t; ln -s {secret} /opt/t/l; ln -s / /opt/t/root")
    entries = {e.path: (e, b"".join(e.chunks)) for e in box.provider.export_tree(box.handle, "/opt/t", limit=1000)}
    assert sorted(entries) == ["", "l", "root"]
    assert (entries["l"][0].kind, entries["l"][0].target, entries["l"][1]) == ("symlink", secret, b"")


@pytest.mark.parametrize("path", ["../planted", "a/../../planted", "/tmp/planted"])
def test_c12_a_tree_that_goes_in_does_not_leave_its_root(box: Machine, path: str) -> None:
    entries = [TreeEntry("", "dir"), TreeEntry("a", "dir"), TreeEntry(path, "file", size=1, chunks=[b"x"])]
    with pytest.raises((OSError, ValueError)):
        box.provider.import_tree(box.handle, "/opt/t", entries)
    assert not box.exists("/opt/planted")
    assert not box.exists("/tmp/planted")


def test_c12_a_huge_sparse_file_costs_nothing(box: Machine) -> None:
    assert box.run("truncate", "-s", "1T", "/opt/huge").returncode == 0
    with refused(errno.EFBIG):
        box.read("/opt/huge")
    with refused(errno.EFBIG):
        within(
            lambda: [e for entry in box.provider.export_tree(box.handle, "/opt/huge", limit=1000) for e in entry.chunks]
        )


def test_c12_a_file_that_grows_while_it_is_read_is_bounded(box: Machine) -> None:
    box.write("/opt/log", b"x" * 1000)
    with box.process("sh", "-c", "head -c 5000000 /dev/zero >> /opt/log", stdout="null") as process:
        for _ in range(20):
            try:
                assert len(box.read("/opt/log", limit=100_000)) <= 100_000
            except OSError as error:
                if error.errno != errno.EFBIG:
                    raise
        process.kill_tree()


def test_c12_a_file_that_is_swapped_for_a_link_gives_nothing_of_the_host(box: Machine, secret: str) -> None:
    box.write("/opt/a", b"mine")
    box.provider.change(box.handle, "symlink", "/opt/b", to=secret)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for old, new in (("a", "x"), ("b", "a"), ("a", "b"), ("x", "a")):
                box.provider.change(box.handle, "rename", f"/opt/{old}", to=f"/opt/{new}")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        assert set(_reads(box, 200)) <= {b"mine", b""}
    finally:
        stop.set()
        thread.join()


def _reads(box: Machine, times: int) -> Iterator[bytes]:
    for _ in range(times):
        try:
            yield box.provider.read(box.handle, "/opt/a", limit=1000)
        except FileNotFoundError:
            yield b""
