"""subprocess.Popen's interface over a process in a sandbox."""

from __future__ import annotations

import io
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any, cast

from pytest_airlock.errors import OutputLimitExceeded
from pytest_airlock.providers.base import Exit, Process
from pytest_airlock.sandbox.pump import Late, Overflow, Reader, Writer, pump
from pytest_airlock.sandbox.result import Text
from pytest_airlock.sandbox.tracebacks import told

__all__ = ["Popen"]


class Popen:
    """A started command, as subprocess.Popen; made by Sandbox.popen.

    Differences: stdout and stderr are pipes and text unless told otherwise, stdin is empty unless PIPE and sends each line
    at once (bufsize=1); leaving a `with` block by an error kills the command instead of waiting for it; communicate()
    does not wait for daemons that keep a stream open; kill_tree() ends descendants and orphans too. Raises StaleSandbox
    after the sandbox was handed back, SandboxDied if it ended first.
    """

    def __init__(
        self,
        process: Process,
        args: Any,
        text: Text,
        check: Callable[[], None],
        ended: Callable[[Popen], None],
        *,
        limit: int | None = None,
    ) -> None:
        self.args = args
        self.pid = process.pid
        self.returncode: int | None = None
        self._process = process
        self._text = text
        self._check = check
        self._ended = ended
        self._limit = limit
        self._started = time.monotonic()
        self._duration = 0.0
        self._lock = threading.Lock()
        self._pumped: tuple[list[Reader], Writer | None] | None = None
        self.stdin: IO[Any] | None = self._wrap(process.stdin, write=True)
        self.stdout: IO[Any] | None = self._wrap(process.stdout)
        self.stderr: IO[Any] | None = self._wrap(process.stderr)

    def _wrap(self, raw: IO[bytes] | None, *, write: bool = False) -> IO[Any] | None:
        if raw is None:
            return None
        made = io.BufferedWriter(cast("Any", raw)) if write else io.BufferedReader(cast("Any", raw))
        if not self._text.on:
            return cast("IO[bytes]", made)
        errors = self._text.strict if write else self._text.errors
        return io.TextIOWrapper(cast("Any", made), self._text.encoding, errors, line_buffering=write)

    # -- the end of the process ------------------------------------------------------------------------------------

    def poll(self) -> int | None:
        """The return code if it is known; negative for a signal."""
        self._check()
        if self.returncode is None and (end := self._process.poll()) is not None:
            self._over(end)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The return code; subprocess.TimeoutExpired after `timeout` seconds, the command goes on."""
        __tracebackhide__ = told
        self._check()
        if self.returncode is None:
            try:
                end = self._process.wait(timeout)
            except TimeoutError:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None
            finally:
                self._check()
            self._over(end)
        return cast("int", self.returncode)

    def _over(self, end: Exit) -> None:
        with self._lock:
            if self.returncode is not None:
                return
            self.returncode = end.returncode
            self._duration = time.monotonic() - self._started
        self._ended(self)

    @property
    def duration(self) -> float:
        """Seconds from start to end, or until now."""
        return self._duration or time.monotonic() - self._started

    def send_signal(self, sig: int) -> None:
        """To the direct child; nothing if it has ended."""
        if self.poll() is None:
            self._process.send_signal(sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def kill_tree(self) -> None:
        """End the command, its descendants, and every orphan born in the sandbox since its start."""
        self._check()
        self._process.kill_tree()

    # -- its streams -----------------------------------------------------------------------------------------------

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:  # noqa: A002
        """Send `input`, read until the command has ended; after TimeoutExpired it can be called again, nothing is lost.

        Beyond max_output the command and all that came of it are killed: OutputLimitExceeded.
        """
        self._check()
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._pumped is None:
            self._pumped = self._channels(input)
        elif input is not None:
            raise ValueError("Cannot send input after starting communication")
        readers, writer = self._pumped
        try:
            end = pump(self._process, readers, writer, deadline)
        except Late:
            taken = [reader.captured() for reader in readers]
            late = subprocess.TimeoutExpired(self.args, timeout or 0.0)
            late.stdout, late.stderr = self._pick(taken)
            raise late from None
        except Overflow:
            self._process.kill_tree()
            if (last := self._process.poll()) is not None:
                self._over(last)
            error = OutputLimitExceeded(self.args, self._limit or 0, *self._pick([r.captured() for r in readers]))
            self.close()
            raise error from None
        finally:
            self._check()
        self._over(end)
        out = self._pick([reader.captured() for reader in readers])
        self.close()
        return out

    def _channels(self, data: Any) -> tuple[list[Reader], Writer | None]:
        __tracebackhide__ = told
        if data is not None and self.stdin is None:
            raise ValueError("input needs stdin=PIPE")
        writer = None
        if self.stdin is not None and not self.stdin.closed:
            self.stdin.flush()
            writer = Writer(self._process.stdin, b"" if data is None else self._text.encode(data))
        streams = [stream for stream in (self._process.stdout, self._process.stderr) if stream and not stream.closed]
        return [Reader(stream.fileno(), self._limit) for stream in streams], writer

    def _pick(self, taken: list[bytes]) -> tuple[Any, Any]:
        made = iter(taken)
        streams = (self._process.stdout, self._process.stderr)
        out, err = (self._text.decode(next(made)) if stream and not stream.closed else None for stream in streams)
        return out, err

    def close(self) -> None:
        """Close the streams and forget the process, which is not killed. Twice is fine."""
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None and not stream.closed:
                try:
                    stream.close()
                except (BrokenPipeError, ValueError):
                    # What was still buffered for a reader that is gone, or communicate() closed the pipe below.
                    continue
        self._process.close()

    def __enter__(self) -> Popen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close stdin, wait for the end (as subprocess does), close the rest; after an error it is killed first."""
        try:
            if self.stdin is not None and not self.stdin.closed:
                self.stdin.close()
        except BrokenPipeError:
            if error is None:
                raise
        finally:
            try:
                if error is not None:
                    self.kill()
                self.wait()
            finally:
                self.close()

    def __del__(self) -> None:
        if hasattr(self, "stderr"):
            self.close()

    def __repr__(self) -> str:
        return f"<Popen: returncode: {self.returncode} args: {self.args!r}>"
