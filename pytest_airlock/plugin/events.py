"""What the session reports about sandboxes, told to the hooks with the test that was concerned."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pluggy import HookRelay

    from pytest_airlock.sandbox import Sandbox

__all__ = ["Events", "Outcomes"]

_FAILED = pytest.StashKey[bool]()


class Events:
    """A session.Listener. Calls of the session are made inside `concerning(item)`; it reports in the same thread.

    A sandbox is reset when the next test asks for it: what is told then is about the test that had it before.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._local = threading.local()
        self._users: dict[str, pytest.Item | None] = {}

    @contextmanager
    def concerning(self, item: pytest.Item | None) -> Iterator[None]:
        before = self._item
        self._local.item = item
        try:
            yield
        finally:
            self._local.item = before

    def hooks(self, item: pytest.Item | None) -> HookRelay:
        """The hooks a test sees: those of conftest files of other directories are not among them."""
        return self._config.hook if item is None else item.ihook

    def ready(self, sandbox: Sandbox) -> None:
        item = self._users[sandbox.name] = self._item
        self.hooks(item).pytest_airlock_sandbox_ready(sandbox=sandbox, item=item)

    def reset(self, name: str) -> None:
        item = self._users.get(name, self._item)
        self.hooks(item).pytest_airlock_sandbox_reset(name=name, item=item)

    def failed(self, name: str, error: Exception) -> None:
        item = self._users.get(name, self._item)
        self.hooks(item).pytest_airlock_sandbox_failed(name=name, error=error, item=item)

    def destroyed(self, name: str) -> None:
        item = self._users.pop(name, self._item)
        self.hooks(item).pytest_airlock_sandbox_destroyed(name=name, item=item)

    @property
    def _item(self) -> pytest.Item | None:
        item: pytest.Item | None = getattr(self._local, "item", None)
        return item


class Outcomes:
    """Remembers which tests failed; registered for --airlock-keep=failed only."""

    def __init__(self) -> None:
        self._any = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed:
            item.stash[_FAILED] = self._any = True
        return report

    def failed(self, item: pytest.Item | None) -> bool:
        """Did this test fail so far? Without an item: did any?"""
        return self._any if item is None else item.stash.get(_FAILED, False)
