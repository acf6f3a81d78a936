"""What a Sandbox needs from whoever made it: one small contract, so that this package stays a leaf."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, Protocol

from pytest_airlock.models import SandboxInfo
from pytest_airlock.providers.base import (
    Attempts,
    Change,
    Command,
    FileAction,
    FileStat,
    Process,
    ResetProof,
    Route,
    TreeEntry,
)

__all__ = ["Backend"]


class Backend(Protocol):
    """One hand-out of one sandbox. Every call raises StaleSandbox once it was handed back."""

    name: str
    timeout: float | None
    """Default time-out in seconds of each command (the spec's), None = no limit."""

    def environ(self) -> Mapping[str, str]:
        """Base environment of a command, the spec's `env` included."""
        ...

    def spawn(self, command: Command) -> Process: ...
    def read(self, path: str, *, limit: int) -> bytes: ...
    def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None: ...
    def stat(self, path: str, *, follow_symlinks: bool = True) -> FileStat: ...
    def listdir(self, path: str) -> Sequence[FileStat]: ...
    def change(
        self,
        action: FileAction,
        path: str,
        *,
        to: str | None = None,
        mode: int = 0o777,
    ) -> None: ...
    def export_tree(self, path: str, *, limit: int) -> Iterator[TreeEntry]: ...
    def import_tree(self, path: str, entries: Iterable[TreeEntry]) -> None: ...
    def diff(self, since: str | None = None) -> Iterator[Change]:
        """`since` is the id that snapshot() returned, None the clean snapshot."""
        ...

    def snapshot(self, *, stop: bool = False) -> str: ...
    def restore(self, snapshot: str) -> None: ...
    def reset(self) -> ResetProof | None: ...
    def lock_network(self) -> None:
        """These three: within the profile's limits (ProfileForbids) and the provider's means (UnsupportedFeature)."""
        ...

    def unlock_network(self) -> None: ...
    def allow_network(self, entries: Sequence[str]) -> None:
        """Raises InvalidSpec for what is no entry."""
        ...

    def set_routes(self, routes: tuple[Route, ...]) -> None:
        """All routes of the present life, the first that fits counts; until the next call or reset. UnsupportedFeature."""
        ...

    def attempts(self) -> Attempts: ...
    def all_attempts(self) -> Attempts:
        """Those before a reset of this hand-out, too, if `network_attempts` says that they are no matter of indifference."""
        ...

    def ports(self) -> tuple[int, ...]:
        """Those that the spec names."""
        ...

    def connect(
        self, address: tuple[str, int], kind: Literal["tcp", "udp"], timeout: float | None
    ) -> socket.socket: ...
    def connect_path(
        self, path: str, kind: Literal["stream", "datagram", "packet"], timeout: float | None
    ) -> socket.socket: ...
    def forward(self, address: tuple[str, int]) -> int:
        """The port of 127.0.0.1 of this host that leads there from now on."""
        ...

    def end_forward(self, port: int) -> None: ...
    def listening(self, port: int) -> bool:
        """Whether a program inside accepts TCP connections at this port."""
        ...

    def info(self) -> SandboxInfo: ...
    def at_end(self, call: Callable[[], None]) -> None:
        """Have it called, once, when this hand-out is over; it must not raise, nor use the backend."""
        ...

    def check(self) -> None:
        """Raise StaleSandbox if this hand-out is over."""
        ...
