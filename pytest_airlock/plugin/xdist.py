"""What differs under pytest-xdist; imported only when its workers run. Only texts and truth values cross."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_airlock.plugin.run import Run

__all__ = ["Controller", "send"]

_FAULTS = "airlock_faults"
_MESSAGES = "airlock_messages"
_FAILED = "airlock_failed"


def send(config: pytest.Config, run: Run) -> None:
    """From a worker: leave what the controller gets when the worker finishes."""
    output: dict[str, Any] = config.workeroutput  # type: ignore[attr-defined]
    output.update({_FAULTS: run.faults, _MESSAGES: run.messages, _FAILED: run.failed})


class Controller:
    """Gathers what the workers say, and fails the run once for all of them."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._faults: dict[str, None] = {}

    def pytest_testnodedown(self, node: Any) -> None:
        output = getattr(node, "workeroutput", None) or {}  # a worker that crashed leaves none
        self._faults.update(dict.fromkeys(output.get(_FAULTS, ())))
        self._run.say(*output.get(_MESSAGES, ()))
        self._run.failed |= output.get(_FAILED, False)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        result = yield
        if self._faults:
            raise pytest.UsageError("\n".join(self._faults))
        return result
