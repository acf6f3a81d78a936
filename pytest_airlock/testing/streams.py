"""The open files of fake processes: real pipes, nothing, and files of the fake file system."""

from __future__ import annotations

import os
import select
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pytest_airlock.providers.base import Command
from pytest_airlock.testing.files import FakeFiles

if TYPE_CHECKING:
    from pytest_airlock.testing.process import Task

__all__ = ["Nothing", "Pipe", "Redirected", "Stream", "open_streams"]


class Stream(Protocol):
    """An open file of a fake process."""

    def read(self, task: Task, size: int) -> bytes: ...
    def write(self, task: Task, data: bytes) -> None: ...
    def dup(self) -> Stream: ...
    def close(self) -> None: ...


class Pipe:
    """One end of a real pipe."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd

    def read(self, task: Task, size: int) -> bytes:
        while True:
            task.until(self._fd, select.POLLIN)
            try:
                return os.read(self._fd, size)
            except BlockingIOError:
                continue

    def write(self, task: Task, data: bytes) -> None:
        view = memoryview(data)
        while view:
            task.until(self._fd, select.POLLOUT)
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                task.world.send(task, signal.SIGPIPE)
                task.check()
                raise

    def dup(self) -> Pipe:
        return Pipe(os.dup(self._fd))

    def close(self) -> None:
        os.close(self._fd)


class Nothing:
    """/dev/null."""

    def read(self, task: Task, size: int) -> bytes:
        task.check()
        return b""

    def write(self, task: Task, data: bytes) -> None:
        task.check()

    def dup(self) -> Nothing:
        return self

    def close(self) -> None:
        pass


@dataclass
class Redirected:
    """A regular file of the fake file system; output is appended, input read from the start."""

    files: FakeFiles
    path: str
    position: int = 0

    def read(self, task: Task, size: int) -> bytes:
        task.check()
        data = self.files.read(self.path, limit=1 << 40)[self.position : self.position + size]
        self.position += len(data)
        return data

    def write(self, task: Task, data: bytes) -> None:
        task.check()
        self.files.write(self.path, data, append=True)

    def dup(self) -> Redirected:
        return self

    def close(self) -> None:
        pass


def open_streams(command: Command) -> tuple[tuple[Stream, Stream, Stream], dict[str, int]]:
    """The child's three streams and the host's ends of the pipes among them."""
    ours: dict[str, int] = {}

    def stream(name: str, wanted: str) -> Stream:
        if wanted != "pipe":
            return Nothing()
        read, write = os.pipe()
        ours[name], inner = (write, read) if name == "stdin" else (read, write)
        return Pipe(inner)

    stdin, stdout = stream("stdin", command.stdin), stream("stdout", command.stdout)
    stderr = stdout.dup() if command.stderr == "stdout" else stream("stderr", command.stderr)
    return (stdin, stdout, stderr), ours
