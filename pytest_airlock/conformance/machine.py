"""One sandbox, driven by nothing but the calls of the contract."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from pytest_airlock.providers.base import Command, Exit, Handle, Process, Provider
from pytest_airlock.sandbox.pump import Reader, Writer, pump

__all__ = ["PATIENCE", "Done", "Machine", "all_dead", "ended", "line", "refused", "within"]

#: Seconds after which something that must happen has not happened. Not a measure: nothing here is timed.
PATIENCE = 60.0

Result = TypeVar("Result")


class Done(NamedTuple):
    """A finished command."""

    returncode: int
    out: bytes
    err: bytes


def within(call: Callable[[], Result], seconds: float = PATIENCE) -> Result:
    """The result of a call that must not hang."""
    made: list[Any] = []

    def work() -> None:
        try:
            made.append((call(), None))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread of the test
            made.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    assert made, f"the call did not come back within {seconds:g} seconds"
    result, error = made[0]
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


@contextmanager
def refused(*codes: int) -> Iterator[None]:
    """The block ends with an OSError, of one of these errno if any is given."""
    try:
        yield
    except OSError as error:
        if codes and error.errno not in codes:
            raise
        return
    raise AssertionError("it was not refused")


class Machine:
    """A sandbox and what a test does with it."""

    def __init__(self, provider: Provider, handle: Handle) -> None:
        self.provider = provider
        self.handle = handle

    @property
    def environ(self) -> tuple[tuple[str, str], ...]:
        return tuple(self.provider.environ(self.handle).items())

    def command(self, *argv: str, **options: Any) -> Command:
        return Command(argv, **{"env": self.environ, "cwd": "/", **options})

    @contextmanager
    def process(self, *argv: str, **options: Any) -> Iterator[Process]:
        """A running command, forgotten at the end."""
        process = self.provider.spawn(self.handle, self.command(*argv, **options))
        try:
            yield process
        finally:
            process.close()

    def run(self, *argv: str, data: bytes = b"", **options: Any) -> Done:
        """Run a command to its end."""
        if data:
            options["stdin"] = "pipe"
        with self.process(*argv, **options) as process:
            readers = [Reader(stream.fileno(), None) for stream in (process.stdout, process.stderr) if stream]
            writer = Writer(process.stdin, data) if process.stdin else None
            end = pump(process, readers, writer, time.monotonic() + PATIENCE)
            taken = [reader.captured() for reader in readers]
            out = taken.pop(0) if process.stdout else b""
            return Done(end.returncode, out, taken.pop(0) if taken else b"")

    def sh(self, script: str, **options: Any) -> Done:
        return self.run("sh", "-c", script, **options)

    def read(self, path: str, limit: int = 1 << 20) -> bytes:
        return within(lambda: self.provider.read(self.handle, path, limit=limit))

    def write(self, path: str, data: bytes = b"", mode: int = 0o644) -> None:
        self.provider.write(self.handle, path, data, mode=mode)

    def exists(self, path: str) -> bool:
        try:
            self.provider.stat(self.handle, path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def script(self, path: str, text: str) -> None:
        """An executable file."""
        self.write(path, f"#!/bin/sh\n{text}\n".encode(), mode=0o755)

    def restart(self) -> None:
        self.provider.stop(self.handle, grace=0.1)
        self.provider.start(self.handle)


def line(process: Process) -> bytes:
    """One line of its output."""
    assert process.stdout is not None
    made = b""
    while not made.endswith(b"\n"):
        _readable(process.stdout.fileno())
        data = os.read(process.stdout.fileno(), 1)
        assert data, f"the output ended after {made!r}"
        made += data
    return made


def all_dead(process: Process) -> bool:
    """Whether everything that holds the output of `process` is dead: only then it ends."""
    assert process.stdout is not None
    fd, end = process.stdout.fileno(), time.monotonic() + PATIENCE
    while time.monotonic() < end:
        _readable(fd)
        if not os.read(fd, 65_536):
            return True
    return False


def _readable(fd: int) -> None:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    assert poller.poll(PATIENCE * 1000), f"nothing came within {PATIENCE:g} seconds"


def ended(process: Process) -> Exit:
    return process.wait(PATIENCE)
