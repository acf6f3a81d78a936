"""What was run, in bounds: for people who read a failed test's report."""

from __future__ import annotations

import shlex
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

__all__ = ["HALF", "Excerpt", "Transcript", "TranscriptEntry", "escape"]

HALF = 32 * 1024
MAX_ENTRIES = 1000
MAX_TOTAL = 16 * 1024 * 1024


def escape(text: str) -> str:
    r"""Control characters, terminal sequences and direction marks made visible (`\x1b`); newline and tab stay."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else _code(char) for char in text)


def _code(char: str) -> str:
    number = ord(char)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Head and tail of a stream, 32 KiB each; `size` bytes came in all."""

    head: bytes = b""
    tail: bytes = b""
    size: int = 0

    @classmethod
    def of(cls, data: bytes) -> Excerpt:
        if len(data) <= 2 * HALF:
            return cls(data, b"", len(data))
        return cls(data[:HALF], data[-HALF:], len(data))

    def __str__(self) -> str:
        """The text, escaped; a gap says how much is left out."""
        text = self.head.decode("utf-8", "backslashreplace")
        left_out = self.size - len(self.head) - len(self.tail)
        if left_out:
            text += f"\n[… {left_out:,} bytes …]\n"
        return escape((text + self.tail.decode("utf-8", "backslashreplace")).replace("\r\n", "\n"))


@dataclass(frozen=True, slots=True)
class TranscriptEntry:
    """One command: how it ended in words, its seconds, head and tail of what it wrote. No input, no environment."""

    argv: tuple[str, ...]
    outcome: str
    duration: float = 0.0
    cwd: str | None = None
    user: str | None = None
    stdout: Excerpt = Excerpt()
    stderr: Excerpt = Excerpt()

    def __str__(self) -> str:
        place = "".join(f" {word}={value}" for word, value in (("cwd", self.cwd), ("user", self.user)) if value)
        lines = [f"$ {escape(shlex.join(self.argv))}{escape(place)}"]
        for mark, excerpt in (("  ", self.stdout), ("! ", self.stderr)):
            lines += [mark + line for line in str(excerpt).splitlines()]
        return "\n".join([*lines, f"→ {escape(self.outcome)} after {self.duration:.3g} s"])


class Transcript(Sequence[TranscriptEntry]):
    """The last 1,000 commands of a sandbox, in the order in which they ended, 16 MiB of output at most. Thread-safe."""

    def __init__(self) -> None:
        self._entries: deque[TranscriptEntry] = deque()
        self._lock = threading.Lock()
        self._size = 0
        self.dropped = 0

    def add(self, entry: TranscriptEntry) -> None:
        with self._lock:
            self._entries.append(entry)
            self._size += _size(entry)
            while len(self._entries) > MAX_ENTRIES or (self._size > MAX_TOTAL and len(self._entries) > 1):
                self._size -= _size(self._entries.popleft())
                self.dropped += 1

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> TranscriptEntry: ...
    @overload
    def __getitem__(self, index: slice) -> list[TranscriptEntry]: ...
    def __getitem__(self, index: int | slice) -> TranscriptEntry | list[TranscriptEntry]:
        with self._lock:
            return list(self._entries)[index] if isinstance(index, slice) else self._entries[index]

    def __iter__(self) -> Iterator[TranscriptEntry]:
        return iter(self[:])

    def __str__(self) -> str:
        lines = [f"[… {self.dropped:,} earlier commands …]"] if self.dropped else []
        return "\n".join([*lines, *map(str, self)])


def _size(entry: TranscriptEntry) -> int:
    parts = (entry.stdout.head, entry.stdout.tail, entry.stderr.head, entry.stderr.tail)
    return sum(map(len, parts)) + sum(map(len, entry.argv))
