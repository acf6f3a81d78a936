"""The wire of file and diff workers: one request in, a stream of frames out. PYTEST_DONT_REWRITE.

    frame  = kind (1 byte), length of the payload (4 bytes), payload; numbers big-endian
    read   DATA*                          write, import   host: (ENTRY? DATA*)* END, worker: END
    stat   ENTRY                          listdir         ENTRY*
    export (ENTRY DATA*)*                 diff            CHANGE*

A worker's stream ends with END or ERROR. Whoever reads trusts no length, no kind and no order: a peer that does not
keep to this raises FrameError, never more than one frame of memory is taken on its word.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["ChangeRecord", "FileRecord", "FrameError", "FrameReader", "FrameWriter", "Request", "SinkClosed"]

DATA, ENTRY, CHANGE, ERROR, END = range(1, 6)
ADDED, MODIFIED, DELETED = range(1, 4)

CHUNK = 64 * 1024  # what a pipe holds, pipe(7)
MAX_PATH = 64 * 1024  # bytes of a path in a tree; the kernel's PATH_MAX bounds one call, not the depth of a tree
MAX_PAYLOAD = 2 * MAX_PATH
#: Bytes of a stream besides file content. A tree that is handed on entry by entry: ten million short names. What is kept
#: until it is whole: a million changes; a full listing. As text of four bytes a character that can be four times as much.
OVERHEAD = 512 * 1024 * 1024
CHANGES = 192 * 1024 * 1024
LISTING = 64 * 1024 * 1024
MAX_LISTING = 100_000

#: The place of a word is its code on the wire.
OPERATIONS = (
    "read", "write", "stat", "lstat", "listdir", "mkdir", "remove", "rmtree", "rename", "symlink", "chmod", "export",
    "import",
)  # fmt: skip

_HEADER = struct.Struct("!BI")
_REQUEST = struct.Struct("!BIQII")
_FILE = struct.Struct("!IIQIIqII")
_CHANGE = struct.Struct("!BIQ?")
_ERROR = struct.Struct("!I")
_TIME_LIMIT = 2**63 - 1


class FrameError(ValueError):
    """The peer sent what the protocol does not know; the text says what."""


class SinkClosed(Exception):
    """Nobody reads the stream any more. Not an OSError: it is no outcome of a file call."""


class Request(NamedTuple):
    """One file call. `path` and, for rename, `to` are absolute; `to` is also the text of a symlink."""

    operation: str
    path: bytes
    to: bytes = b""
    mode: int = 0
    limit: int = 0

    @property
    def bound(self) -> int:
        """The most bytes of a worker's stream."""
        return self.limit + (OVERHEAD if self.operation == "export" else LISTING)

    def pack(self) -> bytes:
        code = OPERATIONS.index(self.operation)
        limit = min(self.limit, _TIME_LIMIT)
        return _REQUEST.pack(code, self.mode, limit, len(self.path), len(self.to)) + self.path + self.to

    @classmethod
    def unpack(cls, data: bytes) -> Request:
        code, mode, limit, path, to = _unpack(_REQUEST, data)
        at = _REQUEST.size + path
        if code >= len(OPERATIONS) or len(data) != at + to:
            raise FrameError("not a file request")
        return cls(OPERATIONS[code], data[_REQUEST.size : at], data[at:], mode, limit)


class FileRecord(NamedTuple):
    """One object of a file system: `mode` with its type bits; `depth` of `name` below the root of an export, which is
    itself at depth 0 without a name; in an import `name` is the path below the root.
    """

    mode: int
    size: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    depth: int = 0
    name: bytes = b""
    target: bytes = b""

    @classmethod
    def of(cls, info: os.stat_result, *, depth: int = 0, name: bytes = b"", target: bytes = b"") -> FileRecord:
        return cls(info.st_mode, info.st_size, info.st_uid, info.st_gid, info.st_mtime_ns, depth, name, target)

    def pack(self) -> bytes:
        # tmpfs takes any time_t: in nanoseconds it need not fit.
        time = max(-_TIME_LIMIT, min(self.mtime_ns, _TIME_LIMIT))
        name, target = self.name, self.target
        head = _FILE.pack(self.depth, self.mode, self.size, self.uid, self.gid, time, len(name), len(target))
        return head + name + target

    @classmethod
    def unpack(cls, data: bytes) -> FileRecord:
        depth, mode, size, uid, gid, time, name, target = _unpack(_FILE, data)
        at = _FILE.size + name
        if name > MAX_PATH or target > MAX_PATH or len(data) != at + target:
            raise FrameError("an entry whose lengths do not add up")
        return cls(mode, size, uid, gid, time, depth, data[_FILE.size : at], data[at:])


class ChangeRecord(NamedTuple):
    """One difference: `kind` is ADDED, MODIFIED or DELETED; the rest describes the object, the old one if deleted."""

    kind: int
    mode: int
    size: int
    mtime_only: bool
    path: bytes

    def pack(self) -> bytes:
        return _CHANGE.pack(self.kind, self.mode, self.size, self.mtime_only) + self.path

    @classmethod
    def unpack(cls, data: bytes) -> ChangeRecord:
        kind, mode, size, mtime_only = _unpack(_CHANGE, data)
        path = data[_CHANGE.size :]
        if kind not in (ADDED, MODIFIED, DELETED) or not 0 < len(path) <= MAX_PATH:
            raise FrameError("a change of no known kind")
        return cls(kind, mode, size, bool(mtime_only), path)


def is_plain(path: bytes) -> bool:
    """A relative path of plain names: nothing empty, `.` or `..`, no NUL. (Splitting a deep one would be dear.)"""
    steps = b"/%b/" % path
    return not any(bad in steps for bad in (b"//", b"/./", b"/../", b"\0"))


def pack_error(code: int, path: bytes) -> bytes:
    return _ERROR.pack(code) + path[:MAX_PATH]


def unpack_error(data: bytes) -> tuple[int, bytes]:
    """(errno, path or b"")."""
    (code,) = _unpack(_ERROR, data)
    return code, data[_ERROR.size :]


def _unpack(layout: struct.Struct, data: bytes) -> tuple[int, ...]:
    if len(data) < layout.size:
        raise FrameError(f"{len(data)} bytes where {layout.size} belong")
    return layout.unpack_from(data)


def read_from(fd: int) -> Callable[[int], bytes]:
    """The source of a FrameReader that simply reads a descriptor."""
    return lambda size: os.read(fd, size)


def write_to(fd: int) -> Callable[[bytes], None]:
    """The sink of a FrameWriter that writes all to a descriptor."""

    def write(data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(fd, view) :]
        except BrokenPipeError as error:
            raise SinkClosed from error

    return write


class FrameWriter:
    """Frames into `sink`, in pieces of about `piece` bytes; more than `bound` bytes in all is OSError(EOVERFLOW)."""

    def __init__(self, sink: Callable[[bytes], None], *, bound: int, piece: int = CHUNK) -> None:
        self._sink, self._left, self._piece = sink, bound, piece
        self._buffer = bytearray()

    def put(self, kind: int, payload: bytes = b"") -> None:
        self._left -= _HEADER.size + len(payload)
        if self._left < 0:
            raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW))
        self._buffer += _HEADER.pack(kind, len(payload))
        self._buffer += payload
        if len(self._buffer) >= self._piece:
            self.flush()

    def finish(self, kind: int, payload: bytes = b"") -> None:
        """The last frame; it fits always."""
        self._left = max(self._left, _HEADER.size + len(payload))
        self.put(kind, payload)
        self.flush()

    def flush(self) -> None:
        if self._buffer:
            data, self._buffer = bytes(self._buffer), bytearray()
            self._sink(data)


class FrameReader:
    """Frames out of `source`, a call that returns at most so many bytes and b"" at the end.

    More than `bound` bytes in all is a FrameError.
    """

    def __init__(self, source: Callable[[int], bytes], *, bound: int) -> None:
        self._source, self._left = source, bound
        self._buffer = b""
        self._at = 0

    def next(self) -> tuple[int, bytes]:
        """(kind, payload). Raises EOFError when the stream ends, FrameError for what no honest peer sends."""
        kind, length = _HEADER.unpack(self._take(_HEADER.size))
        if not DATA <= kind <= END or length > MAX_PAYLOAD:
            raise FrameError(f"a frame of kind {kind} with {length} bytes")
        return kind, self._take(length)

    def at_end(self) -> bool:
        """Wait for the end of the stream; False if something came instead."""
        return self._at == len(self._buffer) and not self._source(1)

    def _take(self, size: int) -> bytes:
        end = self._at + size
        while end > len(self._buffer):
            piece = self._source(4 * CHUNK)
            if not piece:
                raise EOFError("the stream ended before its last frame")
            self._left -= len(piece)
            if self._left < 0:
                raise FrameError("an endless stream")
            self._buffer = self._buffer[self._at :] + piece
            self._at, end = 0, size
        data = self._buffer[self._at : end]
        self._at = end
        return data
