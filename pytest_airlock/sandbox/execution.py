"""One run() from its start to its outcome: result, time-out, too much output, or the end of the sandbox."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from typing import Any, NamedTuple

from pytest_airlock.errors import CommandError, CommandTimeout, OutputLimitExceeded, SandboxDied
from pytest_airlock.providers.base import Command, Exit, Process, Redirect
from pytest_airlock.sandbox.pump import Late, Overflow, Reader, Target, Writer, drain, pump
from pytest_airlock.sandbox.result import CompletedProcess, Text
from pytest_airlock.sandbox.tracebacks import told
from pytest_airlock.sandbox.transcript import Excerpt, Transcript, TranscriptEntry

__all__ = ["Execution", "Input", "incoming", "outgoing"]

_CONSTANTS = (None, subprocess.PIPE, subprocess.DEVNULL, subprocess.STDOUT)


class Input(NamedTuple):
    """What goes in: nothing, bytes, or what a host descriptor gives."""

    word: Redirect = "null"
    data: bytes | memoryview = b""
    source: int | None = None


_NOTHING = Input()


def incoming(given: Any, stdin: Any, text: Text) -> Input:
    """`input` and `stdin` of run(). No host descriptor enters the sandbox: files are read here."""
    if given is not None:
        if stdin is not None:
            raise ValueError("stdin and input arguments may not both be used.")
        data = text.encode(given)
        return Input("pipe", data) if data else _NOTHING
    if stdin in _CONSTANTS:
        return _NOTHING
    if isinstance(stdin, int):
        return Input("pipe", source=stdin)
    try:
        return Input("pipe", source=stdin.fileno())
    except (AttributeError, io.UnsupportedOperation):
        content = stdin.read()
        return Input("pipe", content.encode(text.encoding) if isinstance(content, str) else content)


def outgoing(name: str, given: Any, text: Text, *, capture: bool) -> Target | None:
    """Where `stdout` or `stderr` goes on the host; None is into the result, or nowhere."""
    if given is None and not capture:
        given = getattr(sys, name)
    return None if given in _CONSTANTS else Target(given, text.encoding, text.errors)


class Execution:
    """A started command and the channels to it."""

    def __init__(
        self,
        process: Process,
        args: Any,
        command: Command,
        text: Text,
        *,
        feed: Input,
        targets: tuple[Target | None, Target | None],
        limit: int | None,
        began: float,
    ) -> None:
        self._process = process
        self._args = args
        self._command = command
        self._text = text
        self._limit = limit
        out, err = process.stdout, process.stderr
        self._out = None if out is None else Reader(out.fileno(), limit, targets[0])
        self._err = None if err is None else Reader(err.fileno(), limit, targets[1])
        self._readers = [reader for reader in (self._out, self._err) if reader is not None]
        self._writer = None if process.stdin is None else Writer(process.stdin, feed.data, feed.source)
        self._started = began
        self._outcome = "interrupted"

    def finish(self, timeout: float | None, transcript: Transcript) -> CompletedProcess:
        """Wait for the end; whatever happens, the command has ended and one entry is in the transcript."""
        __tracebackhide__ = told
        out = err = b""
        try:
            deadline = None if timeout is None else self._started + timeout
            try:
                end = pump(self._process, self._readers, self._writer, deadline)
                self._outcome = _words(end)
            except Late:
                self._outcome = f"killed: timed out after {timeout:g} s"
                raise self._killed(CommandTimeout(self._args, timeout or 0.0, None, None)) from None
            except Overflow:
                self._outcome = f"killed: wrote more than {self._limit} bytes"
                raise self._killed(OutputLimitExceeded(self._args, self._limit or 0, None, None)) from None
            except SandboxDied as error:
                self._outcome = f"the sandbox died: {error.why}" if error.why else "the sandbox died"
                raise
            except BaseException:
                self._process.kill_tree()
                raise
            result, out, err = self._result(end)
            return result
        finally:
            self._process.close()
            transcript.add(
                TranscriptEntry(
                    self._command.argv,
                    self._outcome,
                    time.monotonic() - self._started,
                    self._command.cwd,
                    self._command.user,
                    self._out.excerpt(out or self._out.captured()) if self._out else Excerpt(),
                    self._err.excerpt(err or self._err.captured()) if self._err else Excerpt(),
                )
            )

    def _result(self, end: Exit) -> tuple[CompletedProcess, bytes, bytes]:
        out = self._out.captured() if self._out else b""
        err = self._err.captured() if self._err else b""
        result = CompletedProcess(
            self._args,
            end.returncode,
            self._text.decode(out) if self._out and self._out.target is None else None,
            self._text.decode(err) if self._err and self._err.target is None else None,
            stdout_bytes=out,
            stderr_bytes=err,
            duration=time.monotonic() - self._started,
            end=end,
        )
        return result, out, err

    def _killed(self, error: CommandTimeout | OutputLimitExceeded) -> CommandError:
        """End the command and all that came of it; `error` then carries what was captured."""
        end = Exit(-9)
        try:
            self._process.kill_tree()
            end = self._process.poll() or end
        except SandboxDied as died:
            error.add_note(f"the whole sandbox had to be ended to be sure that nothing of the command lives: {died}")
        for reader in self._readers:
            try:
                drain([reader], time.monotonic())
            except (Late, Overflow):
                continue  # a host file that takes no more, or a limit already reported
        result, _, _ = self._result(end)
        error.result = result
        error.output, error.stderr = result.stdout, result.stderr
        return error


def _words(end: Exit) -> str:
    if end.oom_killed:
        return "killed: out of memory"
    return f"exit status {end.returncode}" if end.returncode >= 0 else f"killed by signal {-end.returncode}"
