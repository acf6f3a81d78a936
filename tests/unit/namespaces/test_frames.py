"""The wire of file and diff workers: what goes in comes out, and nothing a hostile peer sends is taken on its word."""

from __future__ import annotations

import contextlib
import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_airlock.providers.namespaces.engine import frames
from pytest_airlock.providers.namespaces.engine.frames import (
    ChangeRecord,
    FileRecord,
    FrameError,
    FrameReader,
    FrameWriter,
    Request,
)

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


def reader(data: bytes, *, bound: int = 1 << 30) -> FrameReader:
    return FrameReader(io.BytesIO(data).read, bound=bound)


def written(*items: tuple[int, bytes]) -> bytes:
    pieces: list[bytes] = []
    out = FrameWriter(pieces.append, bound=1 << 30)
    for kind, payload in items:
        out.put(kind, payload)
    out.flush()
    return b"".join(pieces)


@given(st.lists(st.tuples(st.sampled_from([frames.DATA, frames.ENTRY, frames.END]), st.binary(max_size=2000))))
def test_frames_come_out_as_they_went_in_then_the_end(items: list[tuple[int, bytes]]) -> None:
    incoming = reader(written(*items))
    assert [incoming.next() for _ in items] == items
    with pytest.raises(EOFError):
        incoming.next()


@given(
    st.sampled_from(frames.OPERATIONS), st.binary(max_size=300), st.binary(max_size=300), U32, st.integers(0, 2**63 - 1)
)
def test_requests_survive_packing(operation: str, path: bytes, to: bytes, mode: int, limit: int) -> None:
    request = Request(operation, path, to, mode, limit)
    assert Request.unpack(request.pack()) == request


@given(st.builds(FileRecord, U32, U64, U32, U32, st.integers(1 - 2**63, 2**63 - 1), U32, st.binary(), st.binary()))
def test_file_records_survive_packing(record: FileRecord) -> None:
    assert FileRecord.unpack(record.pack()) == record


@given(st.builds(ChangeRecord, st.integers(1, 3), U32, U64, st.booleans(), st.binary(min_size=1)))
def test_change_records_survive_packing(record: ChangeRecord) -> None:
    assert ChangeRecord.unpack(record.pack()) == record


def test_a_time_that_no_64_bits_hold_is_clamped() -> None:
    assert FileRecord.unpack(FileRecord(0, mtime_ns=10**25).pack()).mtime_ns == 2**63 - 1
    assert FileRecord.unpack(FileRecord(0, mtime_ns=-(10**25)).pack()).mtime_ns == 1 - 2**63


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x00\x00\x00\x00\x00", id="kind below the known"),
        pytest.param(b"\x06\x00\x00\x00\x00", id="kind above the known"),
        pytest.param(b"\x01\xff\xff\xff\xff", id="length of 4 GiB"),
        pytest.param(b"\x01" + (frames.MAX_PAYLOAD + 1).to_bytes(4, "big"), id="one byte too long"),
    ],
)
def test_a_bad_header_is_refused_before_its_payload_is_read(data: bytes) -> None:
    asked = []

    def source(size: int) -> bytes:
        asked.append(size)
        return data if len(asked) == 1 else bytes(size)

    with pytest.raises(FrameError):
        FrameReader(source, bound=1 << 40).next()
    assert len(asked) == 1


@pytest.mark.parametrize("cut", [1, 4, 5, 9])
def test_a_truncated_frame_is_the_end_of_the_stream(cut: int) -> None:
    data = written((frames.DATA, b"12345"))
    with pytest.raises(EOFError):
        reader(data[:cut]).next()


def test_more_bytes_than_the_bound_are_refused() -> None:
    data = written(*[(frames.DATA, bytes(1000))] * 10)
    incoming = reader(data, bound=len(data) - 1)
    with pytest.raises(FrameError, match="endless"):
        [incoming.next() for _ in range(10)]


def test_a_writer_stops_at_its_bound_and_can_still_tell() -> None:
    pieces: list[bytes] = []
    out = FrameWriter(pieces.append, bound=2000)
    out.put(frames.DATA, bytes(1500))
    with pytest.raises(OSError, match="too large"):
        out.put(frames.DATA, bytes(1500))
    out.finish(frames.ERROR, frames.pack_error(75, b"/x"))
    incoming = reader(b"".join(pieces))
    assert incoming.next() == (frames.DATA, bytes(1500))
    kind, payload = incoming.next()
    assert (kind, frames.unpack_error(payload)) == (frames.ERROR, (75, b"/x"))


@pytest.mark.parametrize("parse", [Request.unpack, FileRecord.unpack, ChangeRecord.unpack, frames.unpack_error])
@given(data=st.binary(max_size=60))
def test_no_payload_makes_a_parser_fail_in_another_way(parse, data: bytes) -> None:  # type: ignore[no-untyped-def]
    with contextlib.suppress(FrameError):
        assert parse(data) is not None


def test_lengths_inside_a_record_must_add_up() -> None:
    packed = FileRecord(0o100644, name=b"name", target=b"to").pack()
    for lie in (packed + b"x", packed[:-1]):
        with pytest.raises(FrameError):
            FileRecord.unpack(lie)
    with pytest.raises(FrameError):
        Request.unpack(Request("read", b"/a").pack() + b"x")


def test_writing_to_a_closed_pipe_is_no_outcome_of_a_call() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        with pytest.raises(frames.SinkClosed):
            frames.write_to(write)(b"x")
    finally:
        os.close(write)


def test_a_writer_passes_on_what_it_has_as_soon_as_a_piece_is_full() -> None:
    pieces: list[bytes] = []
    writer = FrameWriter(pieces.append, bound=1 << 20, piece=100)
    writer.put(frames.CHANGE, b"a" * 60)
    assert not pieces
    writer.put(frames.CHANGE, b"b" * 60)
    assert len(pieces) == 1
    writer.finish(frames.END)
    assert len(pieces) == 2
