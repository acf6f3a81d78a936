"""File calls of the provider, the host's side: each is one worker inside, and no byte that it sends is trusted."""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Protocol

from pytest_airlock.providers.base import FileAction, FileStat, TreeEntry
from pytest_airlock.providers.namespaces.engine.frames import (
    CHUNK,
    DATA,
    END,
    ENTRY,
    MAX_LISTING,
    MAX_PATH,
    FileRecord,
    FrameError,
    FrameWriter,
    Request,
    is_plain,
)
from pytest_airlock.providers.namespaces.replies import DEADLINE, KINDS, Patience, Replies

__all__ = ["FileClient", "FileWorker"]

_PATH_MAX = 4096  # limits.h, with the final NUL
_TYPES = {kind: mode for mode, kind in KINDS.items()}


class FileWorker(Protocol):
    """A process inside that carries out one call (engine/files.py), seen through two pipes."""

    @property
    def stdin(self) -> IO[bytes] | None: ...
    @property
    def stdout(self) -> IO[bytes]: ...
    def finish(self) -> None:
        """Let go of a worker that has sent its last frame. Must not wait for it longer than for a hostile process."""
        ...

    def kill(self) -> None:
        """End it and let go; nothing if it, or the sandbox, is gone."""
        ...

    def death(self) -> Exception:
        """The error for a worker whose stream ended before its last frame."""
        ...


class FileClient:
    """read, write, stat, listdir, change, export_tree and import_tree of one sandbox, as `Provider` has them.

    `open_worker` starts a worker for a packed request; `deadline` is the seconds a call waits for its worker in all. Raises
    OSError with `filename` as the sandbox's kernel has it, ProviderError for a worker that hangs, lies or is killed,
    SandboxDied if the sandbox ends meanwhile, ValueError for a path that is not absolute.
    """

    def __init__(self, open_worker: Callable[[bytes], FileWorker], *, deadline: float = DEADLINE) -> None:
        self._open_worker, self._deadline = open_worker, deadline

    def read(self, path: str, *, limit: int) -> bytes:
        data = bytearray()
        with self._call(Request("read", _absolute(path), limit=limit), path) as call:
            for _, payload in call.replies.frames(DATA):
                data += payload
                if len(data) > limit:
                    raise call.replies.refuse(f"sent more than the limit of {limit} bytes")
        return bytes(data)

    def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """The file has `mode` afterwards, also if it was there before; a link is written through."""

        def content(out: FrameWriter) -> None:
            _put_data(out, data)

        with self._call(Request("write", _absolute(path), mode=stat.S_IMODE(mode)), path) as call:
            call.send(content)

    def stat(self, path: str, *, follow_symlinks: bool = True) -> FileStat:
        request = Request("stat" if follow_symlinks else "lstat", _absolute(path))
        with self._call(request, path) as call:
            found = [call.record(payload) for _, payload in call.replies.frames(ENTRY)]
            if len(found) != 1:
                raise call.replies.refuse(f"sent {len(found)} entries instead of one")
            return call.file_stat(path, found[0])

    def listdir(self, path: str) -> Sequence[FileStat]:
        found: list[FileStat] = []
        base = path.rstrip("/") + "/"
        with self._call(Request("listdir", _absolute(path)), path) as call:
            for _, payload in call.replies.frames(ENTRY):
                if len(found) == MAX_LISTING:
                    raise call.replies.refuse(f"sent more than {MAX_LISTING} entries")
                record = call.record(payload)
                found.append(call.file_stat(base + call.name(record), record))
        return sorted(found, key=lambda info: info.path)

    def change(
        self,
        action: FileAction,
        path: str,
        *,
        to: str | None = None,
        mode: int = 0o777,
    ) -> None:
        if (to is None) == (action in ("rename", "symlink")):
            raise ValueError(f"{action} {'needs' if to is None else 'takes no'} `to`")
        second = b""
        if to is not None:
            second = _absolute(to) if action == "rename" else _text(to)
        request = Request(action, _absolute(path), second, stat.S_IMODE(mode))
        # What happens in a tree is told with its own path.
        with self._call(request, None if action == "rmtree" else path) as call:
            try:
                call.finish()
            except OSError as error:
                if action == "rename":
                    error.filename2 = to
                raise

    def export_tree(self, path: str, *, limit: int) -> Iterator[TreeEntry]:
        """Lazy: the worker starts with the first entry and is killed if the iterator is closed before the last."""
        with self._call(Request("export", _absolute(path), limit=limit)) as call:
            order = _Preorder(path, call)
            frames = call.replies.frames(ENTRY, DATA)
            left = limit
            for kind, payload in frames:
                if kind != ENTRY:
                    raise call.replies.refuse("sent more of a file than it has")
                record = call.record(payload)
                size = record.size if stat.S_ISREG(record.mode) else 0
                left -= size
                if left < 0:
                    raise call.replies.refuse(f"announced more than the limit of {limit} bytes")
                chunks = call.chunks(frames, size)
                yield call.tree_entry(order.path(record), record, chunks)
                for _ in chunks:
                    pass  # what the caller left
            if not order.started:
                raise call.replies.refuse("sent no entry")

    def import_tree(self, path: str, entries: Iterable[TreeEntry]) -> None:
        """Files and links are replaced, never written through; of what is new, mode and (unless 0) mtime are kept.

        Directories merge, also behind a link, and keep their own. Devices are OSError(EPERM).
        """

        def content(out: FrameWriter) -> None:
            for entry in entries:
                out.put(ENTRY, _import_record(entry).pack())
                if entry.kind == "file":
                    for chunk in entry.chunks:
                        _put_data(out, chunk)

        with self._call(Request("import", _absolute(path))) as call:
            call.send(content)

    @contextmanager
    def _call(self, request: Request, path: str | None = None) -> Iterator[_Call]:
        """`path` is the filename of errors, None = the one the worker tells."""
        worker = self._open_worker(request.pack())
        patience = Patience(self._deadline)
        operation = f"{request.operation} {os.fsdecode(request.path)!r}"
        try:
            replies = Replies(
                worker.stdout, operation, bound=request.bound, patience=patience, path=path, died=worker.death
            )
            yield _Call(worker, replies, patience)
        except BaseException:
            # After its last frame there is nothing to end: an OSError is an outcome like another.
            if replies.ended:
                worker.finish()
            else:
                worker.kill()
            raise
        worker.finish()


class _Answered(Exception):
    """The worker spoke before it had heard all: it has an error to tell, or it is gone."""


class _Call:
    """One call under way."""

    def __init__(self, worker: FileWorker, replies: Replies, patience: Patience) -> None:
        self.worker, self.replies, self.patience = worker, replies, patience

    def finish(self) -> None:
        """Expect END and nothing else."""
        for _ in self.replies.frames():
            pass

    def send(self, content: Callable[[FrameWriter], None]) -> None:
        """Send frames, then END, and wait for the worker's own."""
        stdin = self.worker.stdin
        if stdin is None:
            raise self.replies.refuse("takes no content")
        try:
            out = FrameWriter(self._sink(stdin.fileno()), bound=1 << 62)
            content(out)
            out.finish(END)
        except _Answered:
            pass  # the reply tells why
        self.finish()

    def _sink(self, fd: int) -> Callable[[bytes], None]:
        """Writes all, but not into the void: a stopped worker reads nothing, a failed one has answered."""
        os.set_blocking(fd, False)
        answer = self.worker.stdout.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        poll.register(answer, select.POLLIN)

        def write(data: bytes) -> None:
            view = memoryview(data)
            while view:
                events = dict(self.patience.wait(poll))
                if not events:
                    raise self.replies.stuck()
                if answer in events or events[fd] & select.POLLERR:
                    raise _Answered
                view = view[_write_some(fd, view) :]

        return write

    def record(self, payload: bytes) -> FileRecord:
        try:
            return FileRecord.unpack(payload)
        except FrameError as error:
            raise self.replies.refuse(f"sent {error}") from error

    def name(self, record: FileRecord) -> str:
        """The name of an entry, one step of a path."""
        name = record.name
        if b"/" in name or not is_plain(name):
            raise self.replies.refuse(f"sent the file name {name[:100]!r}")
        return os.fsdecode(name)

    def target(self, record: FileRecord) -> str | None:
        if not stat.S_ISLNK(record.mode):
            return None
        if b"\0" in record.target or len(record.target) >= _PATH_MAX:
            raise self.replies.refuse("sent a link text that no link can have")
        return os.fsdecode(record.target)

    def file_stat(self, path: str, record: FileRecord) -> FileStat:
        return FileStat(
            path,
            self.replies.kind(record.mode),
            stat.S_IMODE(record.mode),
            record.size,
            record.uid,
            record.gid,
            record.mtime_ns,
            self.target(record),
        )

    def tree_entry(self, path: str, record: FileRecord, chunks: Iterable[bytes]) -> TreeEntry:
        kind = self.replies.kind(record.mode)
        size = record.size if kind == "file" else 0
        return TreeEntry(
            path, kind, stat.S_IMODE(record.mode), size, record.mtime_ns, self.target(record), chunks if size else ()
        )

    def chunks(self, frames: Iterator[tuple[int, bytes]], left: int) -> Iterator[bytes]:
        """Exactly `left` bytes of content."""
        while left:
            kind, payload = next(frames, (END, b""))
            if kind != DATA or not 0 < len(payload) <= left:
                raise self.replies.refuse("sent other content than it announced")
            left -= len(payload)
            yield payload


class _Preorder:
    """Paths of an export from (depth, name): a directory before its entries, these in strict order.

    The order is what keeps a lying worker from naming one path twice, first as a link and then as a directory with
    entries, which whoever unpacks it could follow out of the tree.
    """

    def __init__(self, top: str, call: _Call) -> None:
        self.top, self.call = top, call
        self.started = False
        self.dirs: list[tuple[str, int]] = []  # path and length in bytes of each open directory, the root first
        self.last: list[bytes] = []  # the latest name in each

    def path(self, record: FileRecord) -> str:
        depth = record.depth
        if depth == 0 and not self.started and not record.name:
            path, length = "", 0
        elif not 0 < depth <= len(self.dirs) or record.name <= self.last[depth - 1]:
            raise self.call.replies.refuse("sent the entries of a tree out of order")
        else:
            name = self.call.name(record)
            del self.dirs[depth:], self.last[depth:]
            self.last[-1] = record.name
            above, length = self.dirs[-1]
            path, length = f"{above}/{name}" if above else name, length + 1 + len(record.name)
        if length > MAX_PATH:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), self.top)
        self.started = True
        if stat.S_ISDIR(record.mode):
            self.dirs.append((path, length))
            self.last.append(b"")
        return path


def _write_some(fd: int, view: memoryview) -> int:
    try:
        return os.write(fd, view)
    except BlockingIOError:
        return 0
    except BrokenPipeError as error:
        raise _Answered from error


def _put_data(out: FrameWriter, data: bytes) -> None:
    for at in range(0, len(data), CHUNK):
        out.put(DATA, data[at : at + CHUNK])


def _text(text: str) -> bytes:
    """Bytes of a path or link text."""
    encoded = os.fsencode(text)
    if b"\0" in encoded:
        raise ValueError("embedded null byte")
    if len(encoded) >= _PATH_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), text)
    return encoded


def _absolute(path: str) -> bytes:
    if not path.startswith("/"):
        raise ValueError(f"{path!r} is not an absolute path")
    return _text(path)


def _import_record(entry: TreeEntry) -> FileRecord:
    name = os.fsencode(entry.path)
    if name and not is_plain(name):
        raise ValueError(f"{entry.path!r} is not a path below the root of a tree")
    if len(name) > MAX_PATH:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), entry.path)
    if entry.kind == "symlink" and not entry.target:
        raise ValueError(f"the link {entry.path!r} has no target")
    mode = _TYPES[entry.kind] | stat.S_IMODE(entry.mode)
    return FileRecord(mode, mtime_ns=entry.mtime_ns, name=name, target=_text(entry.target or ""))
