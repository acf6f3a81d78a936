"""Optional protocol `Attaches`: entering a live sandbox from another process of the same user. Contract 33-36, 41 of base.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Protocol, runtime_checkable

from pytest_airlock.providers.base import Command, Handle, NetworkRule, Process

__all__ = ["Attaches", "Terminal", "TerminalSize", "Visit"]

TerminalSize = tuple[int, int]
"""Rows and columns."""


@runtime_checkable
class Terminal(Process, Protocol):
    """A command on a terminal of the sandbox: what is typed goes to `stdin`, what is shown comes from `stdout`."""

    stdin: IO[bytes]
    stdout: IO[bytes]

    def resize(self, size: TerminalSize) -> None:
        """The window has changed. Never waits; nothing if the command has ended."""
        ...


@runtime_checkable
class Visit(Protocol):
    """One visit to one life of a sandbox."""

    environ: Mapping[str, str]
    """The whole base environment of a command there."""

    def spawn(self, command: Command) -> Process: ...
    def terminal(self, command: Command, size: TerminalSize) -> Terminal: ...
    def set_network(self, rule: NetworkRule) -> None:
        """Contract 41. It stays when the visit ends."""
        ...

    def close(self) -> None:
        """End the visit, and with it what it started. Twice is fine."""
        ...


@runtime_checkable
class Attaches(Protocol):
    """Optional: contract 33-36, 41."""

    def attach(self, handle: Handle) -> Visit: ...
    def visited(self, handle: Handle) -> bool: ...
