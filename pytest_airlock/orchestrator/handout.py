"""One hand-out of one sandbox: what a Sandbox calls (sandbox/backend.py). Over means over, for good."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pytest_airlock.errors import StaleSandbox, UnsupportedFeature
from pytest_airlock.models import SandboxInfo
from pytest_airlock.providers.base import (
    Attempt,
    Attempts,
    Change,
    Command,
    Diffs,
    FileAction,
    FileStat,
    Forwards,
    Networks,
    Process,
    ResetProof,
    Route,
    TreeEntry,
)

if TYPE_CHECKING:
    from pytest_airlock.orchestrator.live import LiveSandbox
    from pytest_airlock.orchestrator.manager import SandboxManager
    from pytest_airlock.sandbox.backend import Backend

__all__ = ["Handout"]


class Handout:
    """sandbox.backend.Backend over a manager. Commands and files go straight to the provider, under no lock."""

    def __init__(self, manager: SandboxManager, live: LiveSandbox) -> None:
        self.name = live.name
        self.timeout = live.plan.timeout
        self._manager = manager
        self._live = live
        self._provider = live.provider
        self._handle = live.handle
        self._environ: Mapping[str, str] | None = None
        self._over = False
        self._earlier: list[Attempt] = []
        self._lost = 0
        self._at_end: list[Callable[[], None]] = []

    def end(self) -> None:
        """From now on every call raises StaleSandbox; what was left to at_end() is done."""
        self._over = True
        while self._at_end:
            self._at_end.pop()()

    def at_end(self, call: Callable[[], None]) -> None:
        self.check()
        self._at_end.append(call)

    def check(self) -> None:
        if self._over:
            raise StaleSandbox(self.name)

    def spawn(self, command: Command) -> Process:
        if self._over:
            raise StaleSandbox(self.name)
        return self._provider.spawn(self._handle, command)

    def environ(self) -> Mapping[str, str]:
        if self._over:
            raise StaleSandbox(self.name)
        if self._environ is None:
            own = dict(self._live.plan.provider_spec.env)
            self._environ = {**self._provider.environ(self._handle), **own}
        return self._environ

    def read(self, path: str, *, limit: int) -> bytes:
        self.check()
        return self._provider.read(self._handle, path, limit=limit)

    def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        self.check()
        self._provider.write(self._handle, path, data, mode=mode)

    def stat(self, path: str, *, follow_symlinks: bool = True) -> FileStat:
        self.check()
        return self._provider.stat(self._handle, path, follow_symlinks=follow_symlinks)

    def listdir(self, path: str) -> Sequence[FileStat]:
        self.check()
        return self._provider.listdir(self._handle, path)

    def change(
        self,
        action: FileAction,
        path: str,
        *,
        to: str | None = None,
        mode: int = 0o777,
    ) -> None:
        self.check()
        self._provider.change(self._handle, action, path, to=to, mode=mode)

    def export_tree(self, path: str, *, limit: int) -> Iterator[TreeEntry]:
        self.check()
        return self._provider.export_tree(self._handle, path, limit=limit)

    def import_tree(self, path: str, entries: Iterable[TreeEntry]) -> None:
        self.check()
        self._provider.import_tree(self._handle, path, entries)

    def diff(self, since: str | None = None) -> Iterator[Change]:
        self.check()
        snapshot = self._manager.snapshot_id(self.name, since)
        if not isinstance(self._provider, Diffs):
            raise UnsupportedFeature("diff", self._provider.name, "it cannot tell what changed")
        return self._provider.diff(self._handle, snapshot)

    def snapshot(self, *, stop: bool = False) -> str:
        self.check()
        if stop:
            self._remember()
        return self._manager.snapshot(self.name, stop=stop)

    def restore(self, snapshot: str) -> None:
        self.check()
        self._remember()
        self._manager.restore(self.name, snapshot)

    def reset(self) -> ResetProof | None:
        self.check()
        self._remember()
        return self._manager.reset(self.name)

    def lock_network(self) -> None:
        self.check()
        self._manager.lock(self.name)

    def unlock_network(self) -> None:
        self.check()
        self._manager.unlock(self.name)

    def allow_network(self, entries: Sequence[str]) -> None:
        self.check()
        self._manager.allow(self.name, *entries)

    def set_routes(self, routes: tuple[Route, ...]) -> None:
        self.check()
        self._manager.set_routes(self.name, routes)

    def attempts(self) -> Attempts:
        self.check()
        if not isinstance(self._provider, Networks):
            raise UnsupportedFeature(
                "network_attempts", self._provider.name, "it is locked always and records no tries to use the network"
            )
        return self._provider.attempts(self._handle)

    def all_attempts(self) -> Attempts:
        """Of the lives before, too, where the spec says that tries are no matter of indifference."""
        found = self.attempts()
        return Attempts((*self._earlier, *found), lost=self._lost + found.lost)

    def _remember(self) -> None:
        """A life ends, and what is known of it: what must not happen must not be forgotten."""
        if self._live.plan.spec.network_attempts in ("warn", "forbid"):
            found = self.attempts()
            self._earlier += found
            self._lost += found.lost

    def ports(self) -> tuple[int, ...]:
        return self._live.plan.spec.ports

    def connect(self, address: tuple[str, int], kind: Literal["tcp", "udp"], timeout: float | None) -> socket.socket:
        return self._forwards().connect(self._handle, address, kind, timeout=timeout)

    def connect_path(
        self, path: str, kind: Literal["stream", "datagram", "packet"], timeout: float | None
    ) -> socket.socket:
        return self._forwards().connect_path(self._handle, path, kind, timeout=timeout)

    def forward(self, address: tuple[str, int]) -> int:
        return self._forwards().forward(self._handle, address)

    def end_forward(self, port: int) -> None:
        # After the hand-back, too: it has ended then.
        if not self._over:
            self._forwards().end_forward(self._handle, port)

    def listening(self, port: int) -> bool:
        return self._forwards().listening(self._handle, port)

    def _forwards(self) -> Forwards:
        self.check()
        if not isinstance(self._provider, Forwards):
            raise UnsupportedFeature("ports", self._provider.name, "it has no way to what listens in its sandboxes")
        return self._provider

    def info(self) -> SandboxInfo:
        self.check()
        return self._manager.status(self.name)


if TYPE_CHECKING:
    _is_backend: type[Backend] = Handout
