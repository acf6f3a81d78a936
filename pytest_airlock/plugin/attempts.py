"""What a test tried over the network: in the report of one that failed, and a failure by itself where that is forbidden."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_airlock.sandbox import NetworkAttempts, Sandbox

__all__ = ["NetworkAttempted", "Watcher", "lent"]

_LENT = pytest.StashKey["list[tuple[Sandbox, str]]"]()


class NetworkAttempted(UserWarning):
    """A test tried to use the network (airlock_network_attempts = warn)."""


def lent(item: pytest.Item | None, sandbox: Sandbox, policy: str) -> None:
    """This test has this sandbox; `policy` is "ignore", "warn" or "forbid"."""
    if item is not None:
        item.stash.setdefault(_LENT, []).append((sandbox, policy))


def enforce(sandbox: Sandbox, policy: str) -> None:
    """Say so, or fail, if anything was refused. What a policy allows is no fault."""
    __tracebackhide__ = True
    if policy == "ignore":
        return
    found = sandbox.network.refused_in_all()
    if not found:
        return
    text = f"sandbox {sandbox.name!r} tried to use the network, and network_attempts is {policy!r}\n{found}"
    if policy == "forbid":
        pytest.fail(text, pytrace=False)
    warnings.warn(NetworkAttempted(text), stacklevel=1)


class Watcher:
    """Hooks; registered when the first test has a sandbox, so that others do not pay for them."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """After the test has passed: one that failed has its own reason."""
        __tracebackhide__ = True
        result = yield
        for sandbox, policy in item.stash.get(_LENT, ()):
            enforce(sandbox, policy)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        # At teardown the sandboxes are others' already.
        if report.failed and call.when in ("setup", "call"):
            for sandbox, _ in item.stash.get(_LENT, ()):
                if text := _section(sandbox):
                    report.sections.append((f"airlock: network attempts of {sandbox.name}", text))
        return report


def _section(sandbox: Sandbox) -> str:
    from pytest_airlock.errors import AirlockError, UnsupportedFeature

    try:
        found: NetworkAttempts = sandbox.network.attempts
    except UnsupportedFeature:
        return ""
    except AirlockError as error:
        return f"not known: {error}"
    return str(found) if found else ""
