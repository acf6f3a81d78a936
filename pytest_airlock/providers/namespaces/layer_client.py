"""Layers of a snapshot to a file and back, by way of the fork server's children (engine/transfer.py).

file = MAGIC, number of layers (2 bytes), then of each, the lowest first: (length, bytes)*, length 0; big-endian, 4 bytes
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from pytest_airlock.errors import ProviderError
from pytest_airlock.providers.namespaces.replies import DEADLINE, Patience

__all__ = ["MAGIC", "export_layers", "import_layers"]

MAGIC = b"airlock layers 1\n"
MAX_LAYERS = 200
_CHUNK = 1 << 20  # pipe-max-size of pipe(7), its default
_LENGTH = struct.Struct("!I")
_COUNT = struct.Struct("!H")

Call = Callable[..., tuple[Any, list[int]]]


def export_layers(call: Call, number: int, layers: Sequence[int], file: IO[bytes], *, limit: int) -> None:
    """Raises OSError: EFBIG for more than `limit` bytes of content, and what `file` raises."""
    file.write(MAGIC + _COUNT.pack(len(layers)))
    for layer in layers:
        read, write = _pipe()
        try:
            pid, _ = call("export", (write,), id=number, layer=layer, limit=limit)
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        try:
            _drain(read, file)
        finally:
            os.close(read)
            call("join", pid=pid)
        file.write(_LENGTH.pack(0))


def _drain(pipe: int, file: IO[bytes]) -> None:
    patience, poll = Patience(DEADLINE), select.poll()
    poll.register(pipe, select.POLLIN)
    while True:
        if not patience.wait(poll):
            raise ProviderError("namespaces", "export a snapshot", "its worker made no progress")
        chunk = os.read(pipe, _CHUNK)
        if not chunk:
            return
        file.write(_LENGTH.pack(len(chunk)) + chunk)


def import_layers(call: Call, words: Mapping[str, Any], file: IO[bytes], *, limit: int) -> tuple[int, ...]:
    """The numbers of the new layers of a box that never ran; `words` are what the fork server is told of it.

    Raises ProviderError for a file that is none or not whole; then the box has no layers, as before.
    """
    head = file.read(len(MAGIC) + _COUNT.size)
    count = _COUNT.unpack(head[len(MAGIC) :])[0] if len(head) == len(MAGIC) + _COUNT.size else -1
    if head[: len(MAGIC)] != MAGIC or not 0 <= count <= MAX_LAYERS:
        raise _damaged("the file is none")
    layers: Sequence[int] = ()
    try:
        for _ in range(count):
            layers = _import_layer(call, words, file, limit)
    except BaseException:
        call("layers", **words, layers=[])
        call("retain", id=words["id"], layers=[])
        raise
    return tuple(layers)


def _import_layer(call: Call, words: Mapping[str, Any], file: IO[bytes], limit: int) -> Sequence[int]:
    read, write = _pipe()
    try:
        (pid, layer), _ = call("import", (read,), **words, limit=limit)
    except BaseException:
        os.close(write)
        raise
    finally:
        os.close(read)
    try:
        with os.fdopen(write, "wb", buffering=0) as pipe, contextlib.suppress(BrokenPipeError):
            _feed(file, pipe)  # a worker that does not want it all says why when it is joined
    except BaseException:
        with contextlib.suppress(OSError):  # it did not get all, so it fails, too
            call("place", **words, pid=pid, layer=layer)
        raise
    try:
        layers: Sequence[int] = call("place", **words, pid=pid, layer=layer)[0]
    except OSError as error:
        why = "the file makes no sense" if error.errno == errno.EBADMSG else error.strerror
        raise _damaged(why or "it failed") from error
    return layers


def _feed(file: IO[bytes], pipe: IO[bytes]) -> None:
    while True:
        head = file.read(_LENGTH.size)
        length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else -1
        if not 0 <= length <= _CHUNK:
            raise _damaged("the file is cut off, or was changed")
        if not length:
            return
        chunk = memoryview(file.read(length))
        while chunk:
            chunk = chunk[pipe.write(chunk) or 0 :]


def _damaged(why: str) -> ProviderError:
    return ProviderError("namespaces", "import a snapshot", why)


def _pipe() -> tuple[int, int]:
    read, write = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(PermissionError):  # the user's share of pipe buffers is used up: slower, no more
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _CHUNK)
    return read, write
