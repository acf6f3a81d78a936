"""Hooks of pytest-airlock, for conftest.py files and other plugins. Declarations only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_airlock.errors import AirlockError
    from pytest_airlock.orchestrator.policy.detection import RuntimeDetector
    from pytest_airlock.orchestrator.policy.profiles import ProfileRegistry
    from pytest_airlock.orchestrator.providers import ProviderRegistry
    from pytest_airlock.sandbox import Sandbox


def pytest_airlock_register_providers(providers: ProviderRegistry) -> None:
    """Add what makes sandboxes: `providers.register("name", factory)`.

    Called once in each process that uses a sandbox, before the first is made; `factory` is called at first use.
    """


def pytest_airlock_register_profiles(profiles: ProfileRegistry) -> None:
    """Add named security policies: `profiles.extend("mine", "strict", memory="1G")`, or `profiles.register(profile)`.

    Called once in each process, when the names of profiles are first needed.
    """


def pytest_airlock_register_detectors(detectors: RuntimeDetector) -> None:
    """Add what guesses how a project is built and run: `detectors.register(SmallDetector(...))`.

    Called once in each process, when the names of runtimes are first needed.
    """


def pytest_airlock_modify_spec(spec: Mapping[str, object], item: pytest.Item | None) -> Mapping[str, object] | None:
    """Change what is asked for: return the words to set, or None.

    `spec` is what markers, fixtures and settings ask for together; `item` is the test, None for what serves a whole
    session. What is returned goes before everything else, but not beyond the limits of the profile.
    """


def pytest_airlock_sandbox_ready(sandbox: Sandbox, item: pytest.Item | None) -> None:
    """A sandbox is about to be handed to a test (or, with item None, to a session)."""


def pytest_airlock_sandbox_reset(name: str, item: pytest.Item | None) -> None:
    """The sandbox that `item` used was reset and proved clean; if its provider can begin that ahead, when the next asks."""


def pytest_airlock_sandbox_failed(name: str, error: AirlockError, item: pytest.Item | None) -> None:
    """A sandbox could not be made, or not be proved clean after `item`: the sandbox failed, not a command in it."""


def pytest_airlock_sandbox_destroyed(name: str, item: pytest.Item | None) -> None:
    """A sandbox is gone: what a factory made for `item`, or what could not be reset after it."""
