"""Contract 32, over the real engine: what is imported may have been written by an enemy."""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from attacker import Box

from pytest_airlock.errors import ProviderError
from pytest_airlock.providers.base import ProviderSpec
from pytest_airlock.providers.namespaces import NamespacesProvider
from pytest_airlock.providers.namespaces.engine.frames import DATA, END, ENTRY, FrameWriter
from pytest_airlock.providers.namespaces.engine.parcel import DIRECTORY, FILE, LINK, TOP, WHITEOUT, Record
from pytest_airlock.providers.namespaces.layer_client import MAGIC

BEGIN = Record(TOP, mode=0o755)
LIMIT = 8 << 20


def snapshot_file(*frames: Record | bytes) -> io.BytesIO:
    """What export_snapshot would have written, had the layer been of these entries."""
    stream: list[bytes] = []
    out = FrameWriter(stream.append, bound=1 << 30)
    for frame in frames:
        if isinstance(frame, Record):
            out.put(ENTRY, frame.pack())
        else:
            out.put(DATA, frame)
    out.finish(END)
    data = b"".join(stream)
    pieces = [data[at : at + (1 << 20)] for at in range(0, len(data), 1 << 20)]
    return io.BytesIO(
        MAGIC + struct.pack("!H", 1) + b"".join(struct.pack("!I", len(piece)) + piece for piece in [*pieces, b""])
    )


@pytest.fixture
def born(provider: NamespacesProvider, make_box: Callable[..., Box]) -> Callable[[io.BytesIO], Box]:
    """A sandbox that starts from a file."""

    def make(file: io.BytesIO) -> Box:
        spec = ProviderSpec(name=f"imported-{os.urandom(4).hex()}")
        handle = provider.create(spec)
        try:
            provider.import_snapshot(handle, file, limit=LIMIT)
        finally:
            provider.delete(handle)
        raise AssertionError("it was taken")

    return make


def test_c32_a_layer_cannot_climb_or_reach_the_host(
    born: Callable[[io.BytesIO], Box], tmp_path: Path, box: Box
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    attacks: list[list[Record | bytes]] = [
        [BEGIN, Record(FILE, 1, 0o644, name=b"../../escaped")],
        [BEGIN, Record(LINK, 1, name=b"l", target=os.fsencode(tmp_path)), Record(FILE, 2, 0o644, name=b"secret"), b"x"],
        [BEGIN, Record(LINK, 1, name=b"l", target=os.fsencode(secret)), Record(FILE, 1, 0o644, name=b"l"), b"x"],
        [BEGIN, Record(LINK, 1, name=b"l", target=b"/host"), Record(DIRECTORY, 1, 0o755, name=b"l")],
        [Record(TOP, mode=0o755, number=1 << 60)],
    ]
    for attack in attacks:
        with pytest.raises(ProviderError):
            born(snapshot_file(*attack))
    assert secret.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret"]
    assert box.run("true").returncode == 0, "the fork server is as it was"


def test_c32_a_layer_is_bounded_in_bytes_and_files(born: Callable[[io.BytesIO], Box], box: Box) -> None:
    big = [Record(FILE, 1, 0o644, name=b"f"), *[b"x" * 60_000] * ((80 << 20) // 60_000)]
    with pytest.raises(ProviderError, match="space"):
        born(snapshot_file(BEGIN, *big))
    assert box.run("true").returncode == 0


@pytest.mark.parametrize("place", ["proc", "dev", "usr", "root"])
def test_c32_no_mount_is_led_elsewhere(provider: NamespacesProvider, box: Box, place: str) -> None:
    """Nobody inside can put a link where something is mounted, but who writes the file can. Below /root nothing need be."""
    points = [line.split()[1] for line in box.run("cat /proc/self/mounts").out.splitlines()]
    mounted = any(f"{point}/".startswith(f"/{place}/") for point in points)
    assert mounted or place == "root"
    link = Record(LINK, 1, name=os.fsencode(place), target=b"/host/etc")
    handle = provider.create(ProviderSpec(name=f"imported-{os.urandom(4).hex()}"))
    try:
        provider.import_snapshot(handle, snapshot_file(BEGIN, link), limit=LIMIT)
        with pytest.raises(ProviderError, match="mount point") if mounted else contextlib.nullcontext():
            provider.start(handle)
    finally:
        provider.delete(handle)
    assert box.run("test -f /etc/passwd -a -f /proc/self/status -a -c /dev/null").returncode == 0


def test_c32_what_is_taken_has_no_power(provider: NamespacesProvider, make_box: Callable[..., Box]) -> None:
    """Links that lead out of the layer, whiteouts and odd names are what a sandbox could have made itself."""
    file = snapshot_file(
        BEGIN,
        Record(LINK, 1, name=b"out", target=b"../../../../etc/passwd"),
        Record(WHITEOUT, 1, name=b"srv"),
        Record(FILE, 1, 0o777, name=b"\xff\n"),
        b"1",
    )
    handle = provider.create(ProviderSpec(name=f"imported-{os.urandom(4).hex()}"))
    try:
        provider.import_snapshot(handle, file, limit=LIMIT)
        provider.start(handle)
        assert b"airlock" in provider.read(handle, "/out", limit=10_000)
        names = [entry.path for entry in provider.listdir(handle, "/")]
        assert "/srv" not in names
        assert "/\udcff\n" in names
    finally:
        provider.delete(handle)
