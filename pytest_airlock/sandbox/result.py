"""What run() returns: the standard library's CompletedProcess, with the facts it has no word for."""

from __future__ import annotations

import signal
import subprocess
from typing import Any

from pytest_airlock.errors import CommandFailed
from pytest_airlock.providers.base import Exit
from pytest_airlock.sandbox.tracebacks import told

__all__ = ["CompletedProcess", "Text"]

#: Bytes of one stream of which what is no text is shown as it is (`\\xff`).
ESCAPED = 16 * 1024 * 1024


class CompletedProcess(subprocess.CompletedProcess[Any]):
    """A finished command.

    stdout_bytes, stderr_bytes: exactly what was captured, whatever the text mode (b"" if nothing was).
    duration: seconds on the wall; user_time, system_time: seconds of processor; max_rss: bytes of memory at the peak.
    oom_killed: the kernel ended it for want of memory. signal: what ended it, or None.
    """

    def __init__(
        self,
        args: Any,
        returncode: int,
        stdout: Any = None,
        stderr: Any = None,
        *,
        stdout_bytes: bytes = b"",
        stderr_bytes: bytes = b"",
        duration: float = 0.0,
        end: Exit | None = None,
    ) -> None:
        super().__init__(args, returncode, stdout, stderr)
        self.stdout_bytes = stdout_bytes
        self.stderr_bytes = stderr_bytes
        self.duration = duration
        self.user_time = end.user_time if end else 0.0
        self.system_time = end.system_time if end else 0.0
        self.max_rss = end.max_rss if end else 0
        self.oom_killed = end.oom_killed if end else False

    @property
    def signal(self) -> int | None:
        if self.returncode >= 0:
            return None
        number = -self.returncode
        return signal.Signals(number) if number in signal.Signals.__members__.values() else number

    def check_returncode(self) -> None:
        """Raise CommandFailed, a CalledProcessError, if the status is not 0."""
        __tracebackhide__ = told
        if self.returncode:
            raise CommandFailed(self.returncode, self.args, self.stdout, self.stderr, self)


class Text:
    """How bytes become text: as subprocess does it, but utf-8 with backslashreplace whatever the locale.

    Of data beyond ESCAPED bytes what cannot be decoded becomes U+FFFD unless `errors` was given: as an escape sequence each
    such byte would cost 16 bytes of memory and, worse, 0.1 microseconds of a time-out that has passed.
    """

    __slots__ = ("_by_default", "encoding", "errors", "on", "strict")

    def __init__(self, text: bool | None, encoding: str | None, errors: str | None) -> None:
        self.on = bool(text or encoding or errors)
        self.encoding = encoding or "utf-8"
        self.errors = errors or "backslashreplace"
        self._by_default = not errors
        #: for what goes in: an input that cannot be encoded is an error of the test, not to be papered over
        self.strict = errors or "strict"

    def decode(self, data: bytes) -> str | bytes:
        if not self.on:
            return data
        text = data.decode(self.encoding, "replace" if self._by_default and len(data) > ESCAPED else self.errors)
        return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text

    def encode(self, data: Any) -> bytes | memoryview:
        """Input as bytes; text only in text mode."""
        if isinstance(data, str):
            if not self.on:
                raise TypeError("a bytes-like object is required as input with text=False, not 'str'")
            return data.encode(self.encoding, self.strict)
        return memoryview(data)
