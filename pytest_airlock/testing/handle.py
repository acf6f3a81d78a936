"""What the host holds of a fake process."""

from __future__ import annotations

import os
import select
from collections.abc import Mapping
from typing import IO

from pytest_airlock.errors import SandboxDied
from pytest_airlock.providers.base import Exit
from pytest_airlock.testing.process import Task

__all__ = ["FakeProcess"]


class FakeProcess:
    """A started task as the contract's Process."""

    def __init__(self, name: str, pipes: Mapping[str, int]) -> None:
        self.pid = 0
        self._name = name
        self.stdin: IO[bytes] | None = os.fdopen(pipes["stdin"], "wb", 0) if "stdin" in pipes else None
        self.stdout: IO[bytes] | None = os.fdopen(pipes["stdout"], "rb", 0) if "stdout" in pipes else None
        self.stderr: IO[bytes] | None = os.fdopen(pipes["stderr"], "rb", 0) if "stderr" in pipes else None
        self._ended, self._end = os.pipe()
        self._open = True

    def adopt(self, task: Task) -> None:
        """Called while the task is made, before it can end."""
        self._task = task
        self.pid = task.pid
        task.on_end = lambda: os.close(self._end)

    def fileno(self) -> int:
        return self._ended

    def poll(self) -> Exit | None:
        if self._task.lost:
            raise SandboxDied(self._name, self._task.world.why)
        return self._task.exit

    def wait(self, timeout: float | None = None) -> Exit:
        if self._task.exit is None:
            poller = select.poll()
            poller.register(self._ended, select.POLLIN)
            poller.poll(None if timeout is None else max(0.0, timeout) * 1000)
        result = self.poll()
        if result is None:
            raise TimeoutError(f"process {self.pid} of {self._name} has not ended after {timeout} seconds")
        return result

    def send_signal(self, signal: int) -> None:
        self._task.world.send(self._task, signal)

    def kill_tree(self) -> None:
        self._task.world.kill_tree(self._task)

    def close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._ended)
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
