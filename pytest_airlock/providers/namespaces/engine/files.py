"""File calls inside a sandbox: `serve` runs in a short-lived fork of PID 1. PYTEST_DONT_REWRITE.

The process is the sandbox's root user, behind its filter, with the sandbox's `/`: links lead nowhere else by
construction. The exception is its own /proc/self/exe, the host's interpreter, which may be the user's: nothing is changed
through such links. What comes in on `source` is the test process' own word. Everything is imported when the engine starts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable

from .access import OPEN_FILE, describe, failure, open_regular, require_regular, write_all
from .dirstack import OPEN_DIRECTORY
from .frames import (
    CHUNK,
    DATA,
    END,
    ENTRY,
    ERROR,
    MAX_LISTING,
    FileRecord,
    FrameError,
    FrameReader,
    FrameWriter,
    Request,
    SinkClosed,
    pack_error,
    read_from,
    write_to,
)
from .syscalls import open_plain
from .trees import Exporter, Importer, remove_tree

__all__ = ["serve"]


def serve(request: bytes, source: int, sink: int) -> None:
    """Carry out one packed Request: content comes from `source`, frames go to `sink`; both stay open.

    An OSError of the call is told as an ERROR frame. If the peer is gone or talks nonsense, there is nobody to tell.
    """
    try:
        call = Request.unpack(request)
        out = FrameWriter(write_to(sink), bound=call.bound)
        content = FrameReader(read_from(source), bound=1 << 62)
        try:
            if not call.path.startswith(b"/"):
                raise failure(errno.EINVAL, call.path)
            _CALLS[call.operation](call, content, out)
        except OSError as error:
            path = error.filename if isinstance(error.filename, (bytes, str)) else call.path
            out.finish(ERROR, pack_error(error.errno or errno.EIO, os.fsencode(path)))
        else:
            out.finish(END)
    except (SinkClosed, FrameError, EOFError):
        return


def _read(call: Request, _: FrameReader, out: FrameWriter) -> None:
    fd = open_regular(call.path)
    try:
        if os.fstat(fd).st_size > call.limit:
            raise failure(errno.EFBIG, call.path)
        left = call.limit  # the size may lie: it is 0 in /proc
        while chunk := os.read(fd, CHUNK):
            left -= len(chunk)
            if left < 0:
                raise failure(errno.EFBIG, call.path)
            out.put(DATA, chunk)
    finally:
        os.close(fd)


def _write(call: Request, content: FrameReader, _: FrameWriter) -> None:
    with contextlib.suppress(FileNotFoundError):
        require_regular(os.stat(call.path), call.path)
    fd = open_plain(call.path, os.O_WRONLY | os.O_CREAT | OPEN_FILE, call.mode)
    try:
        require_regular(os.fstat(fd), call.path)
        os.ftruncate(fd, 0)
        while (frame := content.next())[0] == DATA:
            write_all(fd, frame[1])
        os.fchmod(fd, call.mode)
    finally:
        os.close(fd)


def _stat(call: Request, _: FrameReader, out: FrameWriter) -> None:
    out.put(ENTRY, FileRecord.of(os.stat(call.path)).pack())


def _lstat(call: Request, _: FrameReader, out: FrameWriter) -> None:
    info = os.lstat(call.path)
    target = os.readlink(call.path) if stat.S_ISLNK(info.st_mode) else b""
    out.put(ENTRY, FileRecord.of(info, target=target).pack())


def _listdir(call: Request, _: FrameReader, out: FrameWriter) -> None:
    fd = os.open(call.path, OPEN_DIRECTORY)
    try:
        with os.scandir(fd) as entries:
            for count, entry in enumerate(entries):
                if count == MAX_LISTING:
                    raise failure(errno.EOVERFLOW, call.path)
                try:
                    record = describe(os.fsencode(entry.name), fd, 1)
                except FileNotFoundError:
                    continue  # removed while we looked
                out.put(ENTRY, record.pack())
    finally:
        os.close(fd)


def _mkdir(call: Request, _: FrameReader, __: FrameWriter) -> None:
    os.mkdir(call.path, call.mode)


def _remove(call: Request, _: FrameReader, __: FrameWriter) -> None:
    if stat.S_ISDIR(os.lstat(call.path).st_mode):
        os.rmdir(call.path)
    else:
        os.unlink(call.path)


def _rename(call: Request, _: FrameReader, __: FrameWriter) -> None:
    os.rename(call.path, call.to)


def _symlink(call: Request, _: FrameReader, __: FrameWriter) -> None:
    os.symlink(call.to, call.path)


def _chmod(call: Request, _: FrameReader, __: FrameWriter) -> None:
    fd = open_plain(call.path, os.O_PATH | os.O_CLOEXEC)
    try:
        os.chmod(f"/proc/self/fd/{fd}", call.mode)  # fchmod(2) takes no O_PATH descriptor
    finally:
        os.close(fd)


def _rmtree(call: Request, _: FrameReader, __: FrameWriter) -> None:
    remove_tree(call.path)


def _export(call: Request, _: FrameReader, out: FrameWriter) -> None:
    Exporter(out, call.limit).tree(call.path)


def _import(call: Request, content: FrameReader, _: FrameWriter) -> None:
    with contextlib.closing(Importer(call.path)) as importer:
        importer.run(content)


_CALLS: dict[str, Callable[[Request, FrameReader, FrameWriter], None]] = {
    "read": _read,
    "write": _write,
    "stat": _stat,
    "lstat": _lstat,
    "listdir": _listdir,
    "mkdir": _mkdir,
    "remove": _remove,
    "rmtree": _rmtree,
    "rename": _rename,
    "symlink": _symlink,
    "chmod": _chmod,
    "export": _export,
    "import": _import,
}
