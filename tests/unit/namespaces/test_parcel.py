"""Layers as streams: what is packed comes out the same, and no stream does more than make entries below its layer."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_airlock.providers.namespaces.engine import parcel
from pytest_airlock.providers.namespaces.engine.frames import DATA, END, ENTRY, FrameError, FrameWriter
from pytest_airlock.providers.namespaces.engine.parcel import (
    ATTRIBUTE,
    DIRECTORY,
    FIFO,
    FILE,
    LINK,
    SAME,
    TOP,
    Record,
    pack_layer,
    unpack_layer,
)
from pytest_airlock.providers.namespaces.engine.trees import remove_tree

LIMIT = 1 << 20
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture(autouse=True)
def mask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    (tmp_path / "layer/u0").mkdir(parents=True)
    (tmp_path / "layer/u1").mkdir()
    return tmp_path / "layer"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def through_a_file(write: Callable[[int], None], read: Callable[[int], None]) -> None:
    fd = os.memfd_create("stream")
    try:
        write(fd)
        os.lseek(fd, 0, os.SEEK_SET)
        read(fd)
    finally:
        os.close(fd)


def unpack(fd: int, target: Path, *, owner: int = 0, limit: int = LIMIT) -> None:
    unpack_layer(fd, str(target), 2, owner=owner, ids=65_536 if os.geteuid() == 0 else 1, limit=limit)


def carry(layer: Path, target: Path, *, owner: int = 0) -> None:
    through_a_file(
        lambda fd: pack_layer(str(layer), [0, 1], fd, owner=owner, limit=LIMIT),
        lambda fd: unpack(fd, target, owner=owner),
    )


def feed(target: Path, *frames: Record | bytes | int) -> None:
    """Unpack a stream of records, contents, and other frames."""

    def write(fd: int) -> None:
        out = FrameWriter(lambda data: os.write(fd, data) and None, bound=1 << 30)
        for frame in frames:
            if isinstance(frame, Record):
                out.put(ENTRY, frame.pack())
            elif isinstance(frame, bytes):
                out.put(DATA, frame)
            else:
                out.put(frame)
        out.flush()

    through_a_file(write, lambda fd: unpack(fd, target))


def shown(top: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in [top, *top.rglob("*")]:
        info = path.lstat()
        content: object = None
        if stat.S_ISREG(info.st_mode):
            content = path.read_bytes(), info.st_nlink
        elif stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        names = os.listxattr(path, follow_symlinks=False)
        attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
        found[str(path.relative_to(top))] = (info.st_mode, info.st_uid, info.st_mtime_ns, content, attributes)
    return found


def fill(top: Path) -> None:
    (top / "d/e").mkdir(parents=True)
    (top / "d/f").write_bytes(b"x" * 200_000)
    os.link(top / "d/f", top / "d/e/same")
    os.link(top / "d/f", top / "again")
    (top / "empty").touch(0o600)
    (top / "d/link").symlink_to("/nowhere/\udcff")
    (top / "up").symlink_to("..")
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "socket", stat.S_IFSOCK | 0o600)
    os.mknod(top / "gone", stat.S_IFCHR, 0)
    os.setxattr(top / "d", "user.overlay.opaque", b"y")
    os.setxattr(top / "d/f", "user.mine", b"\0\xff")
    os.setxattr(top / "d/e", "user.mine", b"")
    (top / "d/\udcff name\n").write_text("odd")
    (top / "d/e").chmod(0o1777)
    (top / "d").chmod(0o500)
    top.chmod(0o711)
    for path in (top / "d/e", top / "d", top / "d/f", top):
        os.utime(path, ns=(1, 1_000_000_000_123_456_789))


def test_all_that_a_layer_can_hold_comes_out_the_same(layer: Path, target: Path) -> None:
    fill(layer / "u0")
    (layer / "u1/other").write_text("1")
    carry(layer, target)
    for view in ("u0", "u1"):
        assert shown(target / view) == shown(layer / view)
    assert sorted(path.name for path in target.iterdir()) == ["u0", "u1"]


@root_only
def test_owners_are_told_as_they_are_inside(layer: Path, target: Path) -> None:
    for name, uid in (("root", 500_000), ("user", 501_000), ("stranger", 7), ("beyond", 700_000)):
        (layer / "u0" / name).touch()
        os.chown(layer / "u0" / name, uid, uid)
    through_a_file(
        lambda fd: pack_layer(str(layer), [0], fd, owner=500_000, limit=LIMIT),
        lambda fd: unpack(fd, target, owner=900_000),
    )
    found = {path.name: path.stat().st_uid - 900_000 for path in (target / "u0").iterdir()}
    assert found == {"root": 0, "user": 1000, "stranger": 0, "beyond": 0}


def test_what_overlayfs_keeps_for_itself_is_not_carried(layer: Path, target: Path) -> None:
    (layer / "u0/d").mkdir()
    for name in ("impure", "redirect", "origin"):
        os.setxattr(layer / "u0/d", f"user.overlay.{name}", b"y")
    carry(layer, target)
    assert os.listxattr(target / "u0/d") == []


def test_set_id_bits_are_dropped(layer: Path, target: Path) -> None:
    (layer / "u0/f").touch()
    (layer / "u0/f").chmod(0o6755)
    carry(layer, target)
    assert (target / "u0/f").stat().st_mode & 0o7777 == 0o755


def test_a_deep_tree_needs_no_deep_stack_and_has_an_end(
    layer: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = os.open(layer / "u0", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=fd)
        fd, old = os.open("d", os.O_RDONLY, dir_fd=fd), fd
        os.close(old)
    os.close(fd)
    carry(layer, target)
    monkeypatch.setattr(parcel, "MAX_DEPTH", 1000)
    with pytest.raises(OSError, match="long"):
        pack_layer(str(layer), [0], os.open(os.devnull, os.O_WRONLY), owner=0, limit=LIMIT)
    for top in (layer, target):
        remove_tree(os.fsencode(top))  # too deep for the clean-up of pytest


def test_what_is_too_large_is_not_packed_however_little_of_it_is_there(layer: Path) -> None:
    os.truncate(os.open(layer / "u0/sparse", os.O_CREAT | os.O_WRONLY), 1 << 40)
    with pytest.raises(OSError) as caught:
        pack_layer(str(layer), [0], os.open(os.devnull, os.O_WRONLY), owner=0, limit=LIMIT)
    assert caught.value.errno == errno.EFBIG


@root_only
def test_a_device_is_not_packed(layer: Path) -> None:
    os.mknod(layer / "u0/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with pytest.raises(PermissionError):
        pack_layer(str(layer), [0], os.open(os.devnull, os.O_WRONLY), owner=0, limit=LIMIT)


BEGIN = Record(TOP, number=0, mode=0o755)


def entry(kind: int, name: bytes, depth: int = 1, **fields: object) -> Record:
    return Record(kind, depth, name=name, **{"mode": 0o644, **fields})  # type: ignore[arg-type]


HOSTILE: dict[str, list[Record | bytes | int]] = {
    "a name that climbs": [BEGIN, entry(FILE, b"..")],
    "a name with a slash": [BEGIN, entry(FILE, b"../outside")],
    "an absolute name": [BEGIN, entry(FILE, b"/outside")],
    "a name with a NUL": [BEGIN, entry(FILE, b"a\0b")],
    "no name": [BEGIN, entry(FILE, b"")],
    "the directory itself": [BEGIN, entry(DIRECTORY, b".")],
    "a name that is too long": [BEGIN, entry(FILE, b"a" * 256)],
    "below a link": [BEGIN, entry(LINK, b"l", target=b"../.."), entry(FILE, b"outside", 2)],
    "through a link": [BEGIN, entry(LINK, b"l", target=b"../../outside"), entry(FILE, b"l"), b"theirs"],
    "a directory through a link": [BEGIN, entry(LINK, b"l", target=b"../.."), entry(DIRECTORY, b"l"), entry(FILE, b"outside", 2)],
    "the same name twice": [BEGIN, entry(FILE, b"f"), b"1", entry(FILE, b"f"), b"2"],
    "before any view": [entry(FILE, b"f")],
    "a view that is not there": [Record(TOP, number=2, mode=0o755)],
    "a view far away": [Record(TOP, number=2**63, mode=0o755)],
    "a step too deep": [BEGIN, entry(FILE, b"f", 2)],
    "deeper than there is": [BEGIN, entry(DIRECTORY, b"d"), entry(FILE, b"f", 4000)],
    "content of nothing": [BEGIN, b"x"],
    "content of a directory": [BEGIN, entry(DIRECTORY, b"d"), b"x"],
    "content of a FIFO": [BEGIN, entry(FIFO, b"p"), b"x"],
    "a device": [BEGIN, entry(11, b"null")],
    "an attribute of the system": [BEGIN, entry(FILE, b"f"), entry(ATTRIBUTE, b"security.capability", target=b"1")],
    "an attribute of overlayfs": [BEGIN, entry(DIRECTORY, b"d"), entry(ATTRIBUTE, b"user.overlay.redirect", target=b"/etc")],
    "an attribute of a link": [BEGIN, entry(LINK, b"l", target=b"/"), entry(ATTRIBUTE, b"user.x", target=b"1")],
    "an attribute of nothing": [entry(ATTRIBUTE, b"user.x", target=b"1")],
    "set-id bits": [BEGIN, entry(FILE, b"f", mode=0o4755)],
    "an owner beyond": [BEGIN, entry(FILE, b"f", uid=65_536)],
    "a name of no file": [BEGIN, entry(SAME, b"f", number=1)],
    "a number used twice": [BEGIN, entry(FILE, b"f", number=1), entry(FILE, b"g", number=1)],
    "a frame of another kind": [BEGIN, 3],
    "no end": [BEGIN, entry(FILE, b"f"), b"x"],
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_stream_is_refused_and_reaches_nothing_outside(target: Path, case: str) -> None:
    frames = HOSTILE[case] if case == "no end" else [*HOSTILE[case], END]
    with pytest.raises((FrameError, OSError, EOFError)):
        feed(target, *frames)
    assert (target.parent / "outside").read_text() == "mine"
    assert sorted(path.name for path in target.parent.iterdir()) == ["outside", "target"]


def test_an_endless_stream_is_refused(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel, "OVERHEAD", 1000)
    with pytest.raises(FrameError, match="endless"):
        feed(target, BEGIN, entry(FILE, b"f"), *[b"x" * 60_000] * 20, END)


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_record_of_noise_is_refused_or_sane(data: bytes) -> None:
    try:
        record = Record.unpack(data)
    except FrameError:
        return
    assert record.pack() == data
    assert b"/" not in record.name or record.kind == ATTRIBUTE
    assert record.name not in (b".", b"..")
    assert record.mode <= 0o1777
