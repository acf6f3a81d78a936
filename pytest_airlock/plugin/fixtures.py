"""The fixtures. What they do is in lending.py; what they hand out is pytest_airlock.sandbox.Sandbox."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_airlock.plugin.factory import SandboxFactory
    from pytest_airlock.sandbox import Sandbox

__all__ = [
    "airlock_factory",
    "airlock_sandbox",
    "airlock_session_factory",
    "airlock_session_sandbox",
    "airlock_spec",
]


@pytest.fixture(scope="session")
def airlock_spec() -> Mapping[str, Any]:
    """What every sandbox shall be, below what markers say. Override it; the words are those of the airlock marker."""
    return {}


@pytest.fixture
def airlock_sandbox(request: pytest.FixtureRequest, airlock_spec: Mapping[str, Any]) -> Iterator[Sandbox]:
    """A pristine sandbox for this test, as its airlock markers and airlock_spec say.

    Its methods block and are thread-safe: an async test calls them by `await asyncio.to_thread(...)`.
    """
    from pytest_airlock.plugin.lending import lend

    with lend(request.config, request.node, airlock_spec) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def airlock_session_sandbox(request: pytest.FixtureRequest, airlock_spec: Mapping[str, Any]) -> Iterator[Sandbox]:
    """One sandbox for all tests of this process that ask for it, as airlock_spec says; never reset between them."""
    from pytest_airlock.plugin.lending import lend

    with lend(request.config, None, airlock_spec) as sandbox:
        yield sandbox


@pytest.fixture
def airlock_factory(request: pytest.FixtureRequest, airlock_spec: Mapping[str, Any]) -> Iterator[SandboxFactory]:
    """`airlock_factory(name="db", memory="1G") -> Sandbox`, as often as needed; all of it goes with the test."""
    from pytest_airlock.plugin.lending import factory

    with factory(request.config, request.node, airlock_spec) as made:
        yield made


@pytest.fixture(scope="session")
def airlock_session_factory(
    request: pytest.FixtureRequest, airlock_spec: Mapping[str, Any]
) -> Iterator[SandboxFactory]:
    """As airlock_factory, but what it makes goes at the end of the session."""
    from pytest_airlock.plugin.lending import factory

    with factory(request.config, None, airlock_spec) as made:
        yield made
