"""Nothing a worker sends makes the host hang, grow or write anywhere: it becomes an error that names the call."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterator

import pytest
from files_workers import ThreadWorker, scripted, silent

from pytest_airlock.errors import ProviderError
from pytest_airlock.providers.base import TreeEntry
from pytest_airlock.providers.namespaces import replies
from pytest_airlock.providers.namespaces.engine.frames import (
    CHANGE,
    DATA,
    END,
    ENTRY,
    ERROR,
    MAX_PATH,
    FileRecord,
    FrameWriter,
    pack_error,
)
from pytest_airlock.providers.namespaces.files_client import FileClient

FILE, DIR, LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777

CALLS: dict[str, Callable[[FileClient], object]] = {
    "read": lambda client: client.read("/x", limit=100),
    "write": lambda client: client.write("/x", b"data"),
    "stat": lambda client: client.stat("/x"),
    "lstat": lambda client: client.stat("/x", follow_symlinks=False),
    "listdir": lambda client: client.listdir("/x"),
    "mkdir": lambda client: client.change("mkdir", "/x"),
    "export": lambda client: [b"".join(entry.chunks) for entry in client.export_tree("/x", limit=100)],
    "import": lambda client: client.import_tree("/x", [TreeEntry("", "file", chunks=[b"data"])]),
}


def stream(*items: tuple[int, bytes]) -> bytes:
    pieces: list[bytes] = []
    out = FrameWriter(pieces.append, bound=1 << 40)
    for kind, payload in items:
        out.put(kind, payload)
    out.flush()
    return b"".join(pieces)


def entry(mode: int = FILE, size: int = 0, depth: int = 0, name: bytes = b"", target: bytes = b"") -> tuple[int, bytes]:
    return ENTRY, FileRecord(mode, size, depth=depth, name=name, target=target).pack()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff" * 100, id="garbage"),
        pytest.param(b"\x01\xff\xff\xff\xff", id="4 GiB frame"),
        pytest.param(stream((CHANGE, b"x")), id="kind of another stream"),
        pytest.param(stream((ENTRY, b"short")), id="entry too short"),
        pytest.param(stream((ERROR, b"")), id="error without errno"),
        pytest.param(stream((ERROR, pack_error(4000, b""))), id="unknown errno"),
    ],
)
def test_nonsense_is_an_error_that_names_the_call(name: str, data: bytes) -> None:
    with pytest.raises(ProviderError, match=rf"failed to {name} '/x': its worker sent"):
        CALLS[name](FileClient(scripted(data)))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("data", [b"", stream((END, b""))[:-1], stream((ERROR, pack_error(2, b"")))[:3]])
def test_a_worker_that_ends_early_is_told_as_asked(name: str, data: bytes) -> None:
    with pytest.raises(ProviderError, match="ended before its work"):
        CALLS[name](FileClient(scripted(data)))


@pytest.mark.parametrize("name", CALLS)
def test_a_stopped_worker_is_waited_for_no_longer_than_the_deadline(name: str) -> None:
    workers: list[ThreadWorker] = []

    def start(request: bytes) -> ThreadWorker:
        workers.append(silent(request))
        return workers[-1]

    with pytest.raises(ProviderError, match=r"kept us waiting for more than 0.05 seconds"):
        CALLS[name](FileClient(start, deadline=0.05))
    assert [worker.killed for worker in workers] == [True]


def test_a_worker_without_progress_is_given_up_long_before_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "IDLE", 0.05)
    with pytest.raises(ProviderError, match=r"kept us waiting for more than 0.05 seconds"):
        FileClient(silent, deadline=600).stat("/x")


def test_a_worker_that_does_not_listen_is_not_written_to_for_ever() -> None:
    client = FileClient(silent, deadline=0.05)
    with pytest.raises(ProviderError, match="kept us waiting"):
        client.write("/x", bytes(10_000_000))

    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(100_000)

    with pytest.raises(ProviderError, match="kept us waiting"):
        client.import_tree("/x", [TreeEntry("", "file", chunks=endless())])


@pytest.mark.parametrize("name", CALLS)
def test_an_errno_is_the_outcome_of_the_call_and_ends_it_in_peace(name: str) -> None:
    workers: list[ThreadWorker] = []

    def start(request: bytes) -> ThreadWorker:
        workers.append(scripted(stream((ERROR, pack_error(errno.EACCES, b"/x"))))(request))
        return workers[-1]

    with pytest.raises(PermissionError) as caught:
        CALLS[name](FileClient(start))
    assert caught.value.filename == "/x"
    assert [(worker.finished, worker.killed) for worker in workers] == [(True, False)]


def test_more_content_than_the_limit_is_refused() -> None:
    client = FileClient(scripted(stream((DATA, bytes(60)), (DATA, bytes(60)), (END, b""))))
    with pytest.raises(ProviderError, match="limit of 100 bytes"):
        client.read("/x", limit=100)


@pytest.mark.parametrize("count", [0, 2])
def test_stat_is_one_entry(count: int) -> None:
    client = FileClient(scripted(stream(*[entry()] * count, (END, b""))))
    with pytest.raises(ProviderError, match=f"sent {count} entries"):
        client.stat("/x")


@pytest.mark.parametrize("mode", [0, 0o170000, 0o644, 0xFFFFFFFF])
def test_an_unknown_file_type_is_refused(mode: int) -> None:
    with pytest.raises(ProviderError, match="file type"):
        FileClient(scripted(stream(entry(mode), (END, b"")))).stat("/x")


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0", b"../../etc/passwd"])
def test_a_name_is_one_step_of_a_path(name: bytes) -> None:
    with pytest.raises(ProviderError, match="file name"):
        FileClient(scripted(stream(entry(name=name), (END, b"")))).listdir("/x")
    with pytest.raises(ProviderError, match=r"file name|out of order"):
        list(FileClient(scripted(stream(entry(DIR), entry(depth=1, name=name)))).export_tree("/x", limit=1))


@pytest.mark.parametrize("target", [b"a\0b", b"x" * 5000])
def test_a_link_text_is_one_a_link_can_have(target: bytes) -> None:
    with pytest.raises(ProviderError, match="link text"):
        FileClient(scripted(stream(entry(LINK, target=target), (END, b"")))).stat("/x", follow_symlinks=False)


def test_a_listing_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_airlock.providers.namespaces.files_client.MAX_LISTING", 3)
    entries = [entry(name=b"%d" % number) for number in range(4)]
    with pytest.raises(ProviderError, match="more than 3 entries"):
        FileClient(scripted(stream(*entries, (END, b"")))).listdir("/x")


@pytest.mark.parametrize(
    "items",
    [
        pytest.param([entry(depth=1, name=b"a")], id="no root"),
        pytest.param([entry(DIR), entry(DIR)], id="two roots"),
        pytest.param([entry(name=b"a")], id="a root with a name"),
        pytest.param([entry(), entry(depth=1, name=b"a")], id="below a file"),
        pytest.param([entry(DIR), entry(LINK, 0, 1, b"a", b"/etc"), entry(depth=2, name=b"b")], id="through a link"),
        pytest.param([entry(DIR), entry(DIR, depth=2, name=b"a")], id="a level left out"),
        pytest.param([entry(DIR), entry(DIR, depth=2**32 - 1, name=b"a")], id="endless depth"),
        pytest.param(
            [entry(DIR), entry(LINK, 0, 1, b"a", b"/etc"), entry(DIR, depth=1, name=b"a")], id="link, then directory"
        ),
        pytest.param([entry(DIR), entry(DIR, depth=1, name=b"b"), entry(depth=1, name=b"a")], id="out of order"),
    ],
)
def test_a_tree_that_could_lead_out_is_refused(items: list[tuple[int, bytes]]) -> None:
    client = FileClient(scripted(stream(*items, (END, b""))))
    with pytest.raises(ProviderError, match="out of order"):
        list(client.export_tree("/x", limit=1000))


@pytest.mark.parametrize(
    ("items", "why"),
    [
        ([entry(size=10), (DATA, bytes(5)), (END, b"")], "other content"),
        ([entry(size=10), (DATA, bytes(11)), (END, b"")], "other content"),
        ([entry(size=10), (DATA, b""), (DATA, bytes(10)), (END, b"")], "other content"),
        ([entry(size=10), entry(depth=1, name=b"a")], "other content"),
        ([entry(size=10), (DATA, bytes(10)), (DATA, b"x"), (END, b"")], "more of a file"),
        ([(DATA, b"x"), (END, b"")], "more of a file"),
        ([entry(size=101)], "limit of 100 bytes"),
        ([(END, b"")], "no entry"),
    ],
)
def test_a_size_is_a_promise(items: list[tuple[int, bytes]], why: str) -> None:
    with pytest.raises(ProviderError, match=why):
        CALLS["export"](FileClient(scripted(stream(*items))))


def test_an_endless_chain_of_directories_is_refused_at_the_longest_path() -> None:
    name = b"n" * 255
    depth = MAX_PATH // 256 + 2
    items = [entry(DIR), *(entry(DIR, depth=level, name=name) for level in range(1, depth))]
    seen = 0
    with pytest.raises(OSError) as caught:
        for found in FileClient(scripted(stream(*items, (END, b"")))).export_tree("/x", limit=1):
            seen += 1
            assert len(found.path) <= MAX_PATH
    assert (caught.value.errno, caught.value.filename, seen) == (errno.ENAMETOOLONG, "/x", MAX_PATH // 256 + 1)


def test_no_lie_makes_a_size_of_what_has_no_content() -> None:
    client = FileClient(scripted(stream(entry(DIR, size=2**63), entry(LINK, 2**63, 1, b"a", b"t"), (END, b""))))
    assert [(found.kind, found.size) for found in client.export_tree("/x", limit=10)] == [("dir", 0), ("symlink", 0)]
