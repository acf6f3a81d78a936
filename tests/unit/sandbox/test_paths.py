"""path(): pathlib's words for files inside."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from pytest_airlock.errors import StaleSandbox
from pytest_airlock.providers.base import FileStat
from pytest_airlock.sandbox import SandboxPath


def test_parts_and_joins(box):
    path = box.path("/etc") / "app" / "app.conf"
    assert str(path) == "/etc/app/app.conf" == str(box.path("/etc").joinpath("app", "app.conf"))
    assert (path.name, path.stem, path.suffix) == ("app.conf", "app", ".conf")
    assert path.parent == box.path("/etc/app")
    assert path.parents[-1] == box.path("/")
    assert path.with_name("x") == box.path("/etc/app/x")
    assert path.with_suffix(".ini") == box.path("/etc/app/app.ini")
    assert repr(path) == "SandboxPath('/etc/app/app.conf')"
    assert sorted([box.path("/b"), box.path("/a")]) == [box.path("/a"), box.path("/b")]


def test_paths_of_two_sandboxes_are_different(box, other):
    assert box.path("/etc") != other.path("/etc")
    assert len({box.path("/etc"), box.path("/etc"), other.path("/etc")}) == 2


def test_it_is_not_a_path_of_the_host(box):
    with pytest.raises(TypeError):
        os.fspath(box.path("/etc/passwd"))


@pytest.mark.parametrize("path", ["", "etc", "./x", "~"])
def test_a_relative_path_is_refused(box, path):
    with pytest.raises(ValueError, match="not absolute"):
        box.path(path)


def test_write_read_and_newlines(box):
    path = box.path("/tmp/f")
    assert path.write_bytes(b"a\r\n\xff") == 4
    assert path.read_bytes() == b"a\r\n\xff"
    assert path.write_text("é\r\n") == 3
    assert path.read_text() == "é\n"
    path.write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        path.read_text()
    assert path.read_text(errors="replace") == "\ufffd"


def test_rewriting_keeps_the_mode(box):
    path = box.path("/opt/tool")
    path.write_text("1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    path.chmod(0o750)
    path.write_text("2")
    assert stat.S_IMODE(path.stat().st_mode) == 0o750


def test_reads_are_bounded(box):
    box.run(["truncate", "-s", "1T", "/tmp/huge"])
    with pytest.raises(OSError) as caught:
        box.path("/tmp/huge").read_bytes()
    assert caught.value.errno == errno.EFBIG
    box.path("/tmp/f").write_bytes(b"12345")
    assert box.path("/tmp/f").read_bytes(limit=5) == b"12345"
    with pytest.raises(OSError):
        box.path("/tmp/f").read_bytes(limit=4)


def test_kinds(box):
    box.run(["mkfifo", "/tmp/fifo"])
    box.path("/tmp/link").symlink_to("/etc")
    box.path("/tmp/broken").symlink_to("nowhere")
    assert box.path("/etc").is_dir()
    assert box.path("/etc/passwd").is_file()
    assert not box.path("/tmp/fifo").is_file()
    assert box.path("/tmp/link").is_dir()
    assert box.path("/tmp/link").is_symlink()
    assert not box.path("/tmp/broken").exists()
    assert box.path("/tmp/broken").exists(follow_symlinks=False)
    assert not box.path("/etc/passwd/x").exists()
    assert box.path("/tmp/link").readlink() == "/etc"
    with pytest.raises(OSError):
        box.path("/etc").readlink()


def test_stat_is_a_stat_result(box):
    box.path("/tmp/f").write_bytes(b"123")
    found = box.path("/tmp/f").stat()
    assert isinstance(found, os.stat_result)
    assert (stat.S_ISREG(found.st_mode), found.st_size, found.st_uid) == (True, 3, 0)
    assert found.st_mtime_ns // 10**9 == int(found.st_mtime)
    box.path("/tmp/l").symlink_to("f")
    assert stat.S_ISLNK(box.path("/tmp/l").lstat().st_mode)


def test_iterdir_is_sorted_and_glob_matches_below(box):
    for name in ("b.py", "a.py", "sub/c.py", "sub/deep/d.py", "x.txt"):
        path = box.path("/tmp") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    box.path("/tmp/loop").symlink_to("/tmp")
    base = box.path("/tmp")
    assert [path.name for path in base.iterdir()] == ["a.py", "b.py", "loop", "sub", "x.txt"]
    assert [path.name for path in base.glob("*.py")] == ["a.py", "b.py"]
    assert [str(path) for path in base.glob("**/*.py")] == [
        "/tmp/a.py", "/tmp/b.py", "/tmp/sub/c.py", "/tmp/sub/deep/d.py",
    ]  # fmt: skip
    assert [str(path) for path in base.glob("sub/*")] == ["/tmp/sub/c.py", "/tmp/sub/deep"]
    with pytest.raises(ValueError, match="unacceptable pattern"):
        list(base.glob("/etc/*"))


def test_mkdir(box):
    path = box.path("/srv/a/b")
    with pytest.raises(FileNotFoundError):
        path.mkdir()
    path.mkdir(parents=True)
    with pytest.raises(FileExistsError):
        path.mkdir()
    path.mkdir(exist_ok=True)
    box.path("/srv/file").touch()
    with pytest.raises(FileExistsError):
        box.path("/srv/file").mkdir(exist_ok=True)


def test_removing(box):
    box.path("/srv/d/e").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        box.path("/srv/d").unlink()
    with pytest.raises(OSError):
        box.path("/srv/d").rmdir()
    box.path("/srv/d/e").rmdir()
    box.path("/srv/d/f").touch()
    with pytest.raises(NotADirectoryError):
        box.path("/srv/d/f").rmdir()
    box.path("/srv/d/f").unlink()
    with pytest.raises(FileNotFoundError):
        box.path("/srv/d/f").unlink()
    box.path("/srv/d/f").unlink(missing_ok=True)
    box.path("/srv/x/y/z").mkdir(parents=True)
    box.path("/srv/x").rmtree()
    assert not box.path("/srv/x").exists()


def test_unlinking_a_link_leaves_what_it_names(box):
    box.path("/tmp/l").symlink_to("/etc/passwd")
    box.path("/tmp/l").unlink()
    assert box.path("/etc/passwd").is_file()


def test_touch_and_rename(box):
    path = box.path("/tmp/a")
    path.touch()
    path.touch()
    with pytest.raises(FileExistsError):
        path.touch(exist_ok=False)
    assert path.rename("b") == box.path("/tmp/b")
    assert box.path("/tmp/b").rename("/opt/c").exists()
    assert not path.exists()


def test_links_stay_inside(box, tmp_path):
    (tmp_path / "secret").write_text("host")
    box.path("/tmp/l").symlink_to(str(tmp_path / "secret"))
    with pytest.raises(FileNotFoundError):
        box.path("/tmp/l").read_text()
    box.path("/tmp/up").symlink_to("../../../../etc/passwd")
    assert box.path("/tmp/up").read_text().startswith("root:")


def test_a_fifo_and_a_directory_are_refused(box):
    box.run(["mkfifo", "/tmp/fifo"])
    for path in ("/tmp/fifo", "/tmp", "/dev/zero"):
        with pytest.raises(OSError):
            box.path(path).read_bytes()


@pytest.mark.parametrize("name", ["a\nb", "\udcff", " ", "-rf", "é", "\x1b[31m"])
def test_odd_names(box, name):
    path = box.path("/tmp") / name
    path.write_text("x")
    assert list(box.path("/tmp").iterdir()) == [path]
    assert path.read_text() == "x"


@pytest.mark.parametrize(
    "use", [SandboxPath.exists, SandboxPath.read_bytes, SandboxPath.touch, SandboxPath.stat, SandboxPath.mkdir]
)
def test_stale_after_the_hand_back(box, backend, use):
    path = box.path("/etc/passwd")
    backend.stale = True
    with pytest.raises(StaleSandbox):
        use(path)


def test_a_search_through_a_deep_tree_meets_no_recursion_limit(box, backend, monkeypatch):
    """The fake's own paths are shorter than that; a listing is all that is asked for."""

    def listdir(path):
        return [FileStat(f"{path}/d", "dir")] if path.count("/d") < 1500 else []

    monkeypatch.setattr(backend, "listdir", listdir, raising=False)
    assert sum(1 for _ in box.path("/t").glob("**/d")) == 1500


def test_a_search_has_an_end(box, backend, monkeypatch):
    monkeypatch.setattr("pytest_airlock.sandbox.paths.GLOB_LIMIT", 10_000)
    monkeypatch.setattr(backend, "listdir", lambda path: [FileStat(f"{path}/d", "dir")], raising=False)
    with pytest.raises(OSError, match="more files than") as caught:
        list(box.path("/t").glob("**"))
    assert caught.value.errno == errno.EOVERFLOW
