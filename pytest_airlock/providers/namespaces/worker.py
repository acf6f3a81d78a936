"""The short-lived process inside that carries out one file call, as its client sees it."""

from __future__ import annotations

import errno
import os

from pytest_airlock.errors import ProviderError, SandboxDied
from pytest_airlock.providers.namespaces.engine import protocol
from pytest_airlock.providers.namespaces.engine.protocol import Request
from pytest_airlock.providers.namespaces.process import Life

__all__ = ["Worker"]


class Worker:
    """files_client.FileWorker: content goes in at `stdin`, the reply stream comes out of `stdout`."""

    def __init__(self, life: Life, request: bytes) -> None:
        self._life = life
        source, stdin = os.pipe2(os.O_CLOEXEC)
        stdout, sink = os.pipe2(os.O_CLOEXEC)
        self.stdin = os.fdopen(stdin, "wb", buffering=0)
        self.stdout = os.fdopen(stdout, "rb", buffering=0)
        try:
            self._channel = life.ask(Request(protocol.FILES, payload=request), (source, sink))
        except BaseException:
            self.stdin.close()
            self.stdout.close()
            raise
        finally:
            os.close(source)
            os.close(sink)
        try:
            reply = life.receive(self._channel)
            if reply.kind != protocol.STARTED:
                hint = "every process that it may have runs" if reply.value == errno.EAGAIN else ""
                raise ProviderError("namespaces", "start a file call", os.strerror(reply.value), hint=hint)
        except BaseException:
            self.finish()
            raise
        self._pid = reply.value

    def finish(self) -> None:
        """Close our ends; the worker sees the end of its streams and exits, PID 1 reaps it."""
        for end in (self.stdin, self.stdout, self._channel):
            end.close()

    def death(self) -> Exception:
        """Why its stream ended early. PID 1 tells of its end if it lives itself; nothing is told by the dead."""
        try:
            reply = self._life.receive(self._channel)
        except SandboxDied as died:
            return died
        return ProviderError(
            "namespaces",
            "carry out a file call",
            f"its worker was ended inside (wait status {reply.value & 0xFFFF:#x})",
            hint="the sandbox lives; what runs as its root user can kill what it may signal",
        )

    def kill(self) -> None:
        """End it now, and let go; nothing if it, or the sandbox, is gone."""
        try:
            self._life.call(Request(protocol.SIGNAL, value=9, target=self._pid))
        except SandboxDied:
            return  # and it with it
        finally:
            self.finish()
