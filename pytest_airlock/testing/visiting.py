"""Visits to the sandboxes of a FakeProvider, by any other in the same process, which stands for another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from pytest_airlock.errors import SandboxDied, UnsupportedFeature
from pytest_airlock.providers.attaching import Terminal, TerminalSize, Visit
from pytest_airlock.providers.base import Command, Handle, NetworkRule

if TYPE_CHECKING:
    from pytest_airlock.testing.handle import FakeProcess
    from pytest_airlock.testing.provider import FakeProvider

__all__ = ["FakeVisit", "announce", "door", "enter"]

_doors: WeakValueDictionary[int, FakeProvider] = WeakValueDictionary()


def announce(provider: FakeProvider) -> None:
    """From now on visitors find it by what door() says."""
    _doors[door(provider)] = provider


def door(provider: FakeProvider) -> int:
    """What a handle says of whose it is."""
    return id(provider)


def enter(handle: Handle) -> FakeVisit:
    """Raises SandboxDied."""
    host = _doors.get(handle.data["fake"])
    if host is None:
        raise SandboxDied(handle.name, "its run has ended")
    return FakeVisit(host, handle)


class FakeVisit:
    """providers.attaching.Visit. It has no terminals."""

    def __init__(self, host: FakeProvider, handle: Handle) -> None:
        self._host, self._handle = host, handle
        box = host.visitable(handle)
        self._generation = box.generation
        self._started: list[FakeProcess] = []
        self.environ: Mapping[str, str] = {**host.environ(handle), **dict(box.spec.env)}
        box.visits += 1

    def spawn(self, command: Command) -> FakeProcess:
        self._check()
        self._started.append(self._host.spawn(self._handle, command))
        return self._started[-1]

    def terminal(self, command: Command, size: TerminalSize) -> Terminal:
        raise UnsupportedFeature("terminal", self._host.name, "there are no terminals in a fake sandbox")

    def set_network(self, rule: NetworkRule) -> None:
        self._check()
        routes = () if rule.mode == "locked" else self._host.rule(self._handle.name).routes
        self._host.set_network(self._handle, replace(rule, routes=routes))

    def close(self) -> None:
        for process in self._started:
            process.kill_tree()
        self._started.clear()

    def _check(self) -> None:
        if self._host.visitable(self._handle).generation != self._generation:
            raise SandboxDied(self._handle.name, "its run reset it")


if TYPE_CHECKING:
    _is_visit: type[Visit] = FakeVisit
