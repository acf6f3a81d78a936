"""File calls, client and worker together, on ordinary directories."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from files_workers import ThreadWorker

import pytest_airlock.providers.namespaces.engine as engine
from pytest_airlock.providers.base import TreeEntry
from pytest_airlock.providers.namespaces.engine.dirstack import OPEN_DIRECTORY, DirStack
from pytest_airlock.providers.namespaces.files_client import FileClient

DEEP = 3_000  # more than PATH_MAX bytes of path, and than Python recurses


@pytest.fixture
def client() -> FileClient:
    return FileClient(ThreadWorker, deadline=60)


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def tree(client: FileClient, path: Path, limit: int = 1 << 30) -> dict[str, tuple[object, ...]]:
    """{path: (kind, mode, content or target)} of an export."""
    found: dict[str, tuple[object, ...]] = {}
    for entry in client.export_tree(str(path), limit=limit):
        content = b"".join(entry.chunks)
        assert len(content) == entry.size
        found[entry.path] = (entry.kind, entry.mode, entry.target if entry.kind == "symlink" else content)
    return found


# ---------------------------------------------------------------- read and write


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
def test_what_was_written_is_read(client: FileClient, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    client.write(str(tmp_path / "f"), data)
    assert (tmp_path / "f").read_bytes() == data
    assert client.read(str(tmp_path / "f"), limit=size) == data


def test_a_write_replaces_content_and_mode(client: FileClient, tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_bytes(b"a longer text")
    client.write(str(target), b"short", mode=0o4751)
    assert target.read_bytes() == b"short"
    assert stat.S_IMODE(target.stat().st_mode) == 0o4751


def test_names_that_are_no_text_pass(client: FileClient, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n")
    client.write(name, b"x")
    assert os.listdir(os.fsencode(tmp_path)) == [b"\xff\n"]
    assert [info.path for info in client.listdir(str(tmp_path))] == [name]
    assert client.stat(name).path == name


def test_a_read_stops_at_its_limit(client: FileClient, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(1000))
    assert len(client.read(str(tmp_path / "f"), limit=1000)) == 1000
    with pytest.raises(OSError) as caught:
        client.read(str(tmp_path / "f"), limit=999)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "f"))


def test_a_limit_holds_for_files_that_hide_their_size(client: FileClient) -> None:
    assert b"Name:" in client.read("/proc/self/status", limit=100_000)
    with pytest.raises(OSError) as caught:
        client.read("/proc/self/status", limit=10)
    assert caught.value.errno == errno.EFBIG


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "dir"])
def test_only_regular_files_are_read_or_written(client: FileClient, tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "dir":
            path.mkdir()
        elif kind == "socket":
            listener.bind(str(path))
        else:
            path = Path("/dev/zero")
        expected = errno.EISDIR if kind == "dir" else errno.EINVAL
        for call in (lambda: client.read(str(path), limit=10), lambda: client.write(str(path), b"x")):
            with pytest.raises(OSError) as caught:
                call()
            assert (caught.value.errno, caught.value.filename) == (expected, str(path))


def test_links_are_followed_by_read_and_written_through(client: FileClient, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("f")
    client.write(str(tmp_path / "link"), b"made")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "f").read_bytes() == b"made" == client.read(str(tmp_path / "link"), limit=10)


# ---------------------------------------------------------------- stat and listdir


def test_stat_tells_all_of_an_object_and_follows_on_request(client: FileClient, tmp_path: Path) -> None:
    file, link = tmp_path / "f", tmp_path / "link"
    file.write_bytes(b"12345")
    file.chmod(0o640)
    os.utime(file, ns=(1, 1_700_000_000_123_456_789))
    link.symlink_to("f")
    info = client.stat(str(link))
    assert (info.kind, info.mode, info.size, info.target) == ("file", 0o640, 5, None)
    assert (info.uid, info.gid, info.mtime_ns) == (os.getuid(), file.stat().st_gid, 1_700_000_000_123_456_789)
    info = client.stat(str(link), follow_symlinks=False)
    assert (info.path, info.kind, info.target) == (str(link), "symlink", "f")


def test_a_listing_is_lstat_of_every_entry_sorted(client: FileClient, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "c").symlink_to("nowhere")
    (tmp_path / "a").write_bytes(b"1")
    os.mkfifo(tmp_path / "d")
    found = [(Path(info.path).name, info.kind, info.target) for info in client.listdir(str(tmp_path))]
    assert found == [("a", "file", None), ("b", "dir", None), ("c", "symlink", "nowhere"), ("d", "fifo", None)]


def test_a_listing_above_its_limit_is_refused(
    client: FileClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_airlock.providers.namespaces.engine.files.MAX_LISTING", 3)
    for name in "abcd":
        (tmp_path / name).touch()
    with pytest.raises(OSError) as caught:
        client.listdir(str(tmp_path))
    assert caught.value.errno == errno.EOVERFLOW
    (tmp_path / "d").unlink()
    assert len(client.listdir(str(tmp_path))) == 3


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda client, path: client.read(path, limit=1), errno.ENOENT),
        (lambda client, path: client.stat(path), errno.ENOENT),
        (lambda client, path: client.listdir(path), errno.ENOENT),
        (lambda client, path: client.write(path + "/f", b""), errno.ENOENT),
        (lambda client, path: client.change("mkdir", path + "/d"), errno.ENOENT),
        (lambda client, path: client.change("remove", path), errno.ENOENT),
        (lambda client, path: client.change("rmtree", path), errno.ENOENT),
        (lambda client, path: client.change("chmod", path), errno.ENOENT),
        (lambda client, path: client.change("rename", path, to="/x"), errno.ENOENT),
        (lambda client, path: list(client.export_tree(path, limit=1)), errno.ENOENT),
        (lambda client, path: client.import_tree(path + "/d", [TreeEntry("", "dir")]), errno.ENOENT),
    ],
)
def test_what_is_missing_is_told_with_its_name(client: FileClient, tmp_path: Path, call, expected: int) -> None:  # type: ignore[no-untyped-def]
    path = str(tmp_path / "missing")
    with pytest.raises(FileNotFoundError) as caught:
        call(client, path)
    assert caught.value.filename.startswith(path)


@pytest.mark.parametrize("path", ["relative", "", "./x"])
def test_relative_paths_are_an_error(client: FileClient, path: str) -> None:
    with pytest.raises(ValueError, match="absolute"):
        client.read(path, limit=1)


def test_impossible_paths_never_start_a_worker() -> None:
    def none(_: bytes) -> ThreadWorker:
        raise AssertionError("a worker was started")

    client = FileClient(none)
    with pytest.raises(ValueError, match="null byte"):
        client.stat("/a\0b")
    with pytest.raises(OSError, match="too long"):
        client.stat("/" + "x" * 4096)
    with pytest.raises(ValueError, match="needs `to`"):
        client.change("rename", "/a")
    with pytest.raises(ValueError, match="takes no `to`"):
        client.change("mkdir", "/a", to="/b")


# ---------------------------------------------------------------- changes


def test_changes_do_what_their_names_say(client: FileClient, tmp_path: Path) -> None:
    path = tmp_path / "d"
    client.change("mkdir", str(path), mode=0o777)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755  # umask 022
    client.change("chmod", str(path), mode=0o1770)
    assert stat.S_IMODE(path.stat().st_mode) == 0o1770
    client.change("symlink", str(path / "link"), to="../any where")
    assert os.readlink(path / "link") == "../any where"
    client.change("rename", str(path / "link"), to=str(tmp_path / "moved"))
    assert os.readlink(tmp_path / "moved") == "../any where"
    client.change("remove", str(tmp_path / "moved"))
    client.change("remove", str(path))
    assert os.listdir(tmp_path) == []


def test_a_failed_change_has_the_kernels_errno_and_both_names(client: FileClient, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/f").touch()
    with pytest.raises(OSError) as caught:
        client.change("remove", str(tmp_path / "full"))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOTEMPTY, str(tmp_path / "full"))
    (tmp_path / "f").touch()
    with pytest.raises(NotADirectoryError) as caught:
        client.change("rename", str(tmp_path / "full"), to=str(tmp_path / "f"))
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / "full"), str(tmp_path / "f"))


def test_rmtree_removes_everything_but_what_links_point_to(client: FileClient, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/f").touch()
    (tmp_path / "t/a/b").mkdir(parents=True)
    (tmp_path / "t/a/link").symlink_to(tmp_path / "kept")
    (tmp_path / "t/f").touch()
    os.mkfifo(tmp_path / "t/a/b/fifo")
    client.change("rmtree", str(tmp_path / "t"))
    assert [p.name for p in tmp_path.rglob("*")] == ["kept", "f"]
    (tmp_path / "link").symlink_to("kept")
    for path in ("link", "kept/f"):
        with pytest.raises(NotADirectoryError):
            client.change("rmtree", str(tmp_path / path))
    assert (tmp_path / "kept/f").exists()


# ---------------------------------------------------------------- trees


def test_an_export_is_the_whole_tree_parents_first(client: FileClient, tmp_path: Path) -> None:
    top = tmp_path / "t"
    (top / "b/c").mkdir(parents=True)
    (top / "b/c/f").write_bytes(bytes(200_000))
    (top / "a").write_bytes(b"small")
    (top / "b/link").symlink_to("/etc/passwd")
    os.mkfifo(top / "z")
    top.chmod(0o700)
    found = tree(client, top)
    assert list(found) == ["", "a", "b", "b/c", "b/c/f", "b/link", "z"]
    assert found[""] == ("dir", 0o700, b"")
    assert found["a"] == ("file", 0o644, b"small")
    assert found["b/c/f"] == ("file", 0o644, bytes(200_000))
    assert found["b/link"] == ("symlink", 0o777, "/etc/passwd")
    assert found["z"] == ("fifo", 0o644, b"")


def test_a_single_file_is_exported_also_through_a_link_and_from_proc(client: FileClient, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 100_000)
    (tmp_path / "link").symlink_to("f")
    assert tree(client, tmp_path / "link") == {"": ("file", 0o644, b"x" * 100_000)}
    (entry,) = tree(client, Path("/proc/sys/kernel/ostype")).values()
    assert entry[2] == b"Linux\n"


def test_an_export_is_limited_in_content(client: FileClient, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(bytes(1000))
    assert len(tree(client, tmp_path, limit=3000)) == 4
    with pytest.raises(OSError) as caught:
        tree(client, tmp_path, limit=2999)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "c"))


def test_content_that_nobody_takes_is_passed_over(client: FileClient, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(300_000))
    (tmp_path / "b").write_bytes(bytes(300_000))
    assert [entry.path for entry in client.export_tree(str(tmp_path), limit=1 << 20)] == ["", "a", "b"]


def test_an_export_that_is_given_up_ends_its_worker(tmp_path: Path) -> None:
    workers: list[ThreadWorker] = []

    def start(request: bytes) -> ThreadWorker:
        workers.append(ThreadWorker(request))
        return workers[-1]

    (tmp_path / "a").write_bytes(bytes(3_000_000))
    exported = FileClient(start).export_tree(str(tmp_path), limit=1 << 30)
    assert workers == []
    next(exported)
    exported.close()  # type: ignore[attr-defined]
    assert [(worker.killed, worker.finished) for worker in workers] == [(True, False)]


def test_an_import_makes_replaces_and_merges(client: FileClient, tmp_path: Path) -> None:
    top = tmp_path / "t"
    (top / "kept").mkdir(parents=True)
    (top / "kept/old").touch()
    (top / "kept").chmod(0o711)
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    (top / "f").symlink_to(victim)
    os.mkfifo(top / "g")
    client.import_tree(
        str(top),
        [
            TreeEntry("", "dir", 0o700),
            TreeEntry("f", "file", 0o755, chunks=[b"new", b"", bytes(100_000)], mtime_ns=10**18),
            TreeEntry("g", "file", 0o600, chunks=[b"g"]),
            TreeEntry("kept", "dir", 0o777),
            TreeEntry("kept/new", "dir", 0o500, mtime_ns=2 * 10**18),
            TreeEntry("kept/new/f", "file", chunks=[b"deep"]),
            TreeEntry("link", "symlink", target="/somewhere"),
            TreeEntry("fifo", "fifo", 0o600),
        ],
    )
    assert victim.read_bytes() == b"untouched"
    assert (top / "f").read_bytes() == b"new" + bytes(100_000)
    assert not (top / "f").is_symlink()
    assert ((top / "f").stat().st_mtime_ns, stat.S_IMODE((top / "f").stat().st_mode)) == (10**18, 0o755)
    assert (top / "g").read_bytes() == b"g"
    assert stat.S_IMODE(top.stat().st_mode) == 0o755  # existing directories keep theirs
    assert stat.S_IMODE((top / "kept").stat().st_mode) == 0o711
    new = (top / "kept/new").stat()
    assert (stat.S_IMODE(new.st_mode), new.st_mtime_ns) == (0o500, 2 * 10**18)
    assert (top / "kept/new/f").read_bytes() == b"deep"
    assert (top / "kept/old").exists()
    assert os.readlink(top / "link") == "/somewhere"
    assert stat.S_ISFIFO((top / "fifo").stat().st_mode)


def test_an_import_takes_entries_in_any_order_with_parents_first(client: FileClient, tmp_path: Path) -> None:
    paths = ["", "a", "b", "a/x", "b/y", "a/x/1", "b/y/2", "a/x/3"]
    client.import_tree(str(tmp_path / "t"), [TreeEntry(path, "dir", 0o755) for path in paths])
    assert sorted(str(p.relative_to(tmp_path / "t")) for p in (tmp_path / "t").rglob("*")) == sorted(paths[1:])


def test_an_import_reaches_through_a_link_to_a_directory(client: FileClient, tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    client.import_tree(str(tmp_path), [TreeEntry("bin", "dir"), TreeEntry("bin/tool", "file", chunks=[b"x"])])
    assert (tmp_path / "usr/bin/tool").read_bytes() == b"x"
    assert (tmp_path / "bin").is_symlink()


def test_an_import_of_one_file_needs_its_parent_only(client: FileClient, tmp_path: Path) -> None:
    client.import_tree(str(tmp_path / "f"), [TreeEntry("", "file", 0o640, chunks=[b"one"])])
    assert (tmp_path / "f").read_bytes() == b"one"
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (TreeEntry("d", "file"), errno.EISDIR),
        (TreeEntry("f", "dir"), errno.ENOTDIR),
        (TreeEntry("f/x", "file"), errno.ENOTDIR),
        (TreeEntry("no/x", "file"), errno.ENOENT),
        (TreeEntry("c", "char"), errno.EPERM),
        (TreeEntry("b", "block"), errno.EPERM),
    ],
)
def test_an_import_that_cannot_be_is_told_with_its_path(
    client: FileClient, tmp_path: Path, entry: TreeEntry, expected: int
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").touch()
    with pytest.raises(OSError) as caught:
        client.import_tree(str(tmp_path), [TreeEntry("", "dir"), entry])
    assert (caught.value.errno, caught.value.filename) == (expected, f"{tmp_path}/{entry.path}")


@pytest.mark.parametrize("path", ["/abs", "a//b", "..", "a/../b", ".", "a/", "a\0"])
def test_an_entry_cannot_lead_out_of_its_tree(client: FileClient, tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="below the root"):
        client.import_tree(str(tmp_path), [TreeEntry(path, "file")])
    assert os.listdir(tmp_path) == []


def test_a_worker_that_fails_early_stops_an_endless_import(client: FileClient, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()

    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(65_536)

    with pytest.raises(IsADirectoryError):
        client.import_tree(str(tmp_path), [TreeEntry("d", "file", chunks=endless())])


def test_an_error_of_the_caller_ends_the_worker(client: FileClient, tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"some"
        raise KeyError("of the caller")

    with pytest.raises(KeyError):
        client.import_tree(str(tmp_path / "f"), [TreeEntry("", "file", chunks=broken())])


def make_deep(top: Path, depth: int) -> None:
    """A chain of directories d/d/d/… with a file at its end, made without a long path."""
    top.mkdir()
    fd = os.open(top, OPEN_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        fd, above = os.open("d", OPEN_DIRECTORY, dir_fd=fd), fd
        os.close(above)
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def test_a_tree_deeper_than_any_path_is_exported_imported_and_removed(client: FileClient, tmp_path: Path) -> None:
    make_deep(tmp_path / "deep", DEEP)
    try:
        client.import_tree(str(tmp_path / "copy"), client.export_tree(str(tmp_path / "deep"), limit=100))
        deepest = max((entry.path for entry in client.export_tree(str(tmp_path / "copy"), limit=100)), key=len)
        assert deepest == "d/" * DEEP + "f"
    finally:
        for name in ("deep", "copy"):
            client.change("rmtree", str(tmp_path / name))
    assert os.listdir(tmp_path) == []


def test_going_up_into_a_moved_directory_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a/b/c/d").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    stack = DirStack(os.open(tmp_path, OPEN_DIRECTORY), keep=1)
    try:
        for name in "abcd":
            stack.down(name)
        (tmp_path / "a/b/c").rename(tmp_path / "other/c")
        stack.up()
        with pytest.raises(OSError) as caught:
            stack.up()
        assert caught.value.errno == errno.ESTALE
    finally:
        stack.close()


def test_a_walk_holds_few_descriptors(tmp_path: Path) -> None:
    make_deep(tmp_path / "deep", 300)
    stack = DirStack(os.open(tmp_path / "deep", OPEN_DIRECTORY), keep=8)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(300):
        stack.down("d")
    assert len(os.listdir("/proc/self/fd")) <= before + 9
    for _ in range(300):
        stack.up()
    assert os.listdir(stack.fd) == ["d"]
    stack.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1


_NO_LATE_IMPORT = """
import os, sys
sys.path.insert(0, sys.argv[1])
from engine import diff, files, frames
sys.path.clear()
loaded = set(sys.modules)
source, sink = os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_WRONLY)
for name in frames.OPERATIONS:
    for path in (b"/proc/self/status", os.fsencode(sys.argv[2]), os.fsencode(sys.argv[2]) + b"/no", b"relative"):
        files.serve(frames.Request(name, path, path, 0o755, 1 << 20).pack(), source, sink)
layers = (sys.argv[2],), (os.path.dirname(sys.argv[2]),)
diff.diff([diff.DiffView("/", *layers), diff.DiffView("/", ("/no",), ())], sink, xattr_prefix="user.", limit=10)
print(*set(sys.modules) - loaded)
"""


def test_nothing_is_imported_once_the_engine_runs(tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/f\udcff").write_bytes(b"x")
    parent = Path(next(iter(engine.__path__))).parent
    command = [sys.executable, "-I", "-S", "-c", _NO_LATE_IMPORT, str(parent), str(tmp_path / "d")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
