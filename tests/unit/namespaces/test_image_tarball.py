"""Unpacking tarballs: nothing leaves the directory, whatever the archive says, and it happens once."""

from __future__ import annotations

import fcntl
import io
import os
import stat
import tarfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_airlock.errors import InvalidSpec, StoreError
from pytest_airlock.providers.namespaces.images import tarball
from pytest_airlock.providers.namespaces.images.tarball import Limits, extract, unpack


def member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644, data: bytes = b""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, link, mode, len(data)
    return info, data


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def unpacked(tmp_path: Path, *members: tuple[tarfile.TarInfo, bytes], limits: Limits | None = None) -> Path:
    target = tmp_path / "target"
    target.mkdir()
    extract(str(archive(tmp_path / "x.tar", *members)), str(target), limits or Limits())
    return target


def snapshot(path: Path) -> set[str]:
    return {str(found.relative_to(path)) for found in path.rglob("*")}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_every_compression_is_read(tmp_path: Path, mode: str) -> None:
    file = archive(tmp_path / "x", member("a/b", data=b"text" * 100_000), mode=mode)
    (tmp_path / "out").mkdir()
    extract(str(file), str(tmp_path / "out"), Limits())
    assert (tmp_path / "out/a/b").read_bytes() == b"text" * 100_000


def test_files_directories_and_links_are_made(tmp_path: Path) -> None:
    top = unpacked(
        tmp_path,
        member("./", tarfile.DIRTYPE, mode=0o755),
        member("./usr/bin", tarfile.DIRTYPE, mode=0o555),
        member("./usr/bin/tool", data=b"#!", mode=0o755),
        member("./usr/bin/same", tarfile.LNKTYPE, "./usr/bin/tool"),
        member("bin", tarfile.SYMTYPE, "usr/bin"),
        member("abs", tarfile.SYMTYPE, "/etc/passwd"),
        member("tmp", tarfile.DIRTYPE, mode=0o1777),
    )
    assert (top / "usr/bin/tool").stat().st_ino == (top / "usr/bin/same").stat().st_ino
    assert os.readlink(top / "bin") == "usr/bin"
    assert os.readlink(top / "abs") == "/etc/passwd"
    assert stat.S_IMODE((top / "tmp").stat().st_mode) == 0o1777
    assert stat.S_IMODE((top / "usr/bin").stat().st_mode) == 0o755


def test_set_id_bits_are_stripped(tmp_path: Path) -> None:
    top = unpacked(tmp_path, member("su", mode=0o6755), member("d", tarfile.DIRTYPE, mode=0o2755))
    assert stat.S_IMODE((top / "su").stat().st_mode) == 0o755
    assert stat.S_IMODE((top / "d").stat().st_mode) == 0o755


def test_devices_and_fifos_are_left_out(tmp_path: Path) -> None:
    top = unpacked(
        tmp_path,
        member("dev/null", tarfile.CHRTYPE),
        member("dev/sda", tarfile.BLKTYPE),
        member("run/fifo", tarfile.FIFOTYPE),
        member("etc/.wh.removed"),
    )
    assert snapshot(top) == {"etc", "etc/.wh.removed"}


def test_a_later_member_wins(tmp_path: Path) -> None:
    top = unpacked(
        tmp_path,
        member("a", data=b"old"),
        member("a", data=b"new"),
        member("b", tarfile.SYMTYPE, "/outside"),
        member("b", data=b"file"),
        member("c", tarfile.SYMTYPE, "a"),
        member("c", tarfile.DIRTYPE),
    )
    assert (top / "a").read_bytes() == b"new"
    assert stat.S_ISREG((top / "b").lstat().st_mode)
    assert stat.S_ISDIR((top / "c").lstat().st_mode)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([member("/etc/passwd")], "absolute"),
        ([member("../x")], r"'\.\.'"),
        ([member("a/../../x")], r"'\.\."),
        ([member("out", tarfile.SYMTYPE, "OUTSIDE"), member("out/x", data=b"x")], "runs through 'out'"),
        ([member("out", tarfile.SYMTYPE, ".."), member("out/x", data=b"x")], "runs through 'out'"),
        ([member("out", tarfile.SYMTYPE, "OUTSIDE"), member("out/d", tarfile.DIRTYPE)], "runs through 'out'"),
        ([member("out", tarfile.SYMTYPE, "OUTSIDE"), member("h", tarfile.LNKTYPE, "out/secret")], "runs through 'out'"),
        ([member("h", tarfile.LNKTYPE, "../secret")], r"'\.\.'"),
        ([member("h", tarfile.LNKTYPE, "/OUTSIDE/secret")], "absolute"),
        ([member("h", tarfile.LNKTYPE, "missing")], "No such file"),
        ([member("d", tarfile.DIRTYPE), member("h", tarfile.LNKTYPE, "d")], "no file"),
        ([member("d/x"), member("d", data=b"file")], "directory"),
        ([member("a", data=b"file"), member("a/b")], "runs through 'a'"),
        ([member("x" * 300)], "too long"),
    ],
)
def test_an_unsafe_archive_is_refused_and_touches_nothing_outside(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], why: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    for info, _ in members:
        info.linkname = info.linkname.replace("OUTSIDE", str(outside))
    with pytest.raises(InvalidSpec, match=why):
        unpacked(tmp_path, *members)
    assert snapshot(outside) == {"secret"}
    assert snapshot(tmp_path) - {"x.tar", "target", "outside", "outside/secret"} == {
        f"target/{path}" for path in snapshot(tmp_path / "target")
    }


def test_a_hard_link_to_a_symbolic_link_links_the_link(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    top = unpacked(tmp_path, member("s", tarfile.SYMTYPE, f"{tmp_path}/secret"), member("h", tarfile.LNKTYPE, "s"))
    assert (top / "h").is_symlink()
    assert (tmp_path / "secret").stat().st_nlink == 1


@pytest.mark.parametrize(
    ("limits", "why"), [(Limits(entries=2), "more than 2 members"), (Limits(size=5), "more than 5 bytes")]
)
def test_sizes_and_counts_are_bounded(tmp_path: Path, limits: Limits, why: str) -> None:
    with pytest.raises(InvalidSpec, match=why):
        unpacked(tmp_path, member("a", data=b"123"), member("b", data=b"123"), member("c"), limits=limits)


@pytest.mark.parametrize("cut", [600, 1024, 1536, 2000])
def test_a_cut_off_archive_is_refused(tmp_path: Path, cut: int) -> None:
    file = archive(tmp_path / "x.tar", member("a", data=b"x" * 300), member("b", data=b"y" * 300))
    file.write_bytes(file.read_bytes()[:cut])
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidSpec, match=r"cut off|damaged"):
        extract(str(file), str(tmp_path / "out"), Limits())


def test_a_damaged_header_in_the_middle_is_refused(tmp_path: Path) -> None:
    file = archive(tmp_path / "x.tar", member("a"), member("b"))
    data = bytearray(file.read_bytes())
    data[512 : 512 + 100] = b"\xff" * 100
    file.write_bytes(data)
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidSpec, match=r"cut off|damaged"):
        extract(str(file), str(tmp_path / "out"), Limits())


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + b"\0" * 600, b"\x1f\x8b\x08\0garbage"])
def test_what_is_no_tarball_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidSpec, match="no tarball"):
        extract(str(tmp_path / "x.tar"), str(tmp_path / "out"), Limits())


NAMES = st.lists(
    st.sampled_from(["..", ".", "", "a", "b", "out", "é", "\udcff", "x y", "-rf", "~", "a\nb"]), max_size=4
).map("/".join)


@given(
    st.lists(
        st.tuples(NAMES, st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]), NAMES),
        max_size=6,
    )
)
def test_no_archive_changes_anything_outside(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, bytes, str]]
) -> None:
    top = tmp_path_factory.mktemp("run")
    (top / "secret").write_text("secret")
    try:
        unpacked(top, member("out", tarfile.SYMTYPE, ".."), *(member(name, kind, link) for name, kind, link in members))
    except InvalidSpec:
        pass
    assert {path.name for path in top.iterdir()} == {"secret", "target", "x.tar"}
    assert (top / "secret").read_text() == "secret"
    assert (top / "secret").stat().st_nlink == 1


def accept(_: str) -> None:
    """A check that has nothing against it."""


@pytest.fixture(autouse=True)
def _no_locks_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarball, "_held", {})


def release() -> None:
    """What the end of the process does: the locks of trees in use are gone."""
    for lock in tarball._held.values():
        os.close(lock)
    tarball._held.clear()


def test_a_tarball_is_unpacked_once(tmp_path: Path) -> None:
    file = archive(tmp_path / "x.tar", member("bin/sh"))
    first = unpack(str(file), tmp_path / "cache", check=accept)
    (Path(first) / "mark").touch()
    release()
    assert unpack(str(file), tmp_path / "cache", check=accept) == first
    assert (Path(first) / "mark").exists()
    release()


def test_the_cache_is_private(tmp_path: Path) -> None:
    unpack(str(archive(tmp_path / "x.tar", member("a"))), tmp_path / "deep/cache", check=accept)
    assert stat.S_IMODE((tmp_path / "deep/cache").stat().st_mode) == 0o700
    release()


def test_new_content_is_unpacked_anew_and_the_old_tree_goes_when_unused(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    file = archive(tmp_path / "x.tar", member("a", data=b"1"))
    old = unpack(str(file), cache, check=accept)
    archive(file, member("a", data=b"22"), member("b"))
    new = unpack(str(file), cache, check=accept)
    assert new != old
    assert Path(old).is_dir(), "it is still in use"
    release()
    archive(file, member("a", data=b"333"), member("b"), member("c"))
    newest = unpack(str(file), cache, check=accept)
    assert snapshot(Path(newest)) == {"a", "b", "c"}
    assert not any(Path(tree).exists() for tree in (old, new))
    release()


def test_another_archive_is_never_pruned(tmp_path: Path) -> None:
    one = unpack(str(archive(tmp_path / "1.tar", member("a"))), tmp_path / "cache", check=accept)
    release()
    unpack(str(archive(tmp_path / "2.tar", member("a"))), tmp_path / "cache", check=accept)
    assert Path(one).is_dir()
    release()


def test_a_half_written_tree_of_a_dead_builder_is_discarded(tmp_path: Path) -> None:
    file = archive(tmp_path / "x.tar", member("a"))
    cache = tmp_path / "cache"
    cache.mkdir()
    partial = cache / f"{tarball._key(str(file))}.partial"
    partial.mkdir()
    (partial / "leftover").touch()
    assert snapshot(Path(unpack(str(file), cache, check=accept))) == {"a"}
    assert not partial.exists()
    release()


def test_a_refused_tree_leaves_nothing(tmp_path: Path) -> None:
    def refuse(directory: str) -> None:
        raise InvalidSpec("image", directory, "no")

    file = archive(tmp_path / "x.tar", member("a"))
    with pytest.raises(InvalidSpec):
        unpack(str(file), tmp_path / "cache", check=refuse)
    assert all(path.suffix == ".lock" for path in (tmp_path / "cache").iterdir())
    assert tarball._held == {}


def test_concurrent_callers_wait_for_the_one_that_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = archive(tmp_path / "x.tar", *(member(f"d{number}/f", data=b"x") for number in range(50)))
    built: list[str] = []
    really = tarball.extract

    def counted(source: str, target: str, limits: Limits) -> None:
        built.append(target)
        really(source, target, limits)

    monkeypatch.setattr(tarball, "extract", counted)
    found: list[str] = []
    workers = [
        threading.Thread(target=lambda: found.append(unpack(str(file), tmp_path / "cache", check=accept)))
        for _ in range(6)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [found[0]] * 6
    assert len(built) == 1
    release()


def test_who_came_too_late_to_build_does_not_wait_for_those_who_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second caller looks before the first has built, and comes to its turn while the first uses the tree."""
    file = archive(tmp_path / "x.tar", member("a"))
    started, go = threading.Event(), threading.Event()
    really = tarball.extract

    def slow(source: str, target: str, limits: Limits) -> None:
        started.set()
        go.wait()
        really(source, target, limits)

    monkeypatch.setattr(tarball, "extract", slow)
    found: list[str] = []
    callers = [
        threading.Thread(target=lambda: found.append(unpack(str(file), tmp_path / "cache", check=accept)), daemon=True)
        for _ in range(2)
    ]
    callers[0].start()
    started.wait()
    callers[1].start()
    go.set()
    for caller in callers:
        caller.join(60)
    assert len(found) == 2
    assert found[0] == found[1]
    release()


def test_a_tree_in_use_is_locked_against_others(tmp_path: Path) -> None:
    tree = unpack(str(archive(tmp_path / "x.tar", member("a"))), tmp_path / "cache", check=accept)
    with open(f"{tree}.lock") as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        release()
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_missing_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="No such file"):
        unpack(str(tmp_path / "none.tar"), tmp_path / "cache", check=accept)


def test_a_special_file_is_no_archive(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.tar")
    with pytest.raises(InvalidSpec, match="neither a directory nor a file"):
        unpack(str(tmp_path / "x.tar"), tmp_path / "cache", check=accept)


def test_a_cache_that_cannot_be_made_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StoreError, match="cannot be used"):
        unpack(str(archive(tmp_path / "x.tar", member("a"))), tmp_path / "cache", check=accept)


def test_a_full_disk_is_an_error_of_the_store_not_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarball.shutil, "copyfileobj", full)
    with pytest.raises(StoreError, match="No space left"):
        unpack(str(archive(tmp_path / "x.tar", member("a", data=b"x"))), tmp_path / "cache", check=accept)
    assert all(path.suffix == ".lock" for path in (tmp_path / "cache").iterdir())
