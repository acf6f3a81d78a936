"""Fixtures of the conformance suite."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_airlock.conformance.machine import Machine
from pytest_airlock.orchestrator.providers import ProviderRegistry
from pytest_airlock.providers.attaching import Attaches
from pytest_airlock.providers.base import (
    Adopts,
    Diffs,
    Examines,
    Features,
    Forwards,
    Networks,
    Provider,
    ProviderSpec,
    Resets,
    Retires,
    Snapshots,
    Stores,
)

_serial = itertools.count(1)


@pytest.fixture(scope="session")
def provider_name(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("airlock_provider", None) or "auto"


@pytest.fixture(scope="session")
def new_provider(request: pytest.FixtureRequest, provider_name: str) -> Iterator[Callable[[], Provider]]:
    """Makes instances of the provider that know nothing of each other; all are closed at the end."""
    registries: list[ProviderRegistry] = []

    def make() -> Provider:
        registries.append(ProviderRegistry())
        request.config.hook.pytest_airlock_register_providers(providers=registries[-1])
        return registries[-1].get(provider_name)

    yield make
    for registry in registries:
        registry.close()


@pytest.fixture(scope="session")
def provider(new_provider: Callable[[], Provider]) -> Provider:
    return new_provider()


@pytest.fixture(scope="session")
def features(provider: Provider) -> Features:
    return provider.probe()


@pytest.fixture
def names() -> Iterator[str]:
    """Sandbox names that nobody has."""
    return (f"conformance-{number}" for number in _serial)


@pytest.fixture
def make(provider: Provider, names: Iterator[str]) -> Iterator[Callable[..., Machine]]:
    """Makes started sandboxes, and removes them."""
    made: list[Machine] = []

    def make(**words: Any) -> Machine:
        handle = provider.create(ProviderSpec(next(names), **words))
        made.append(Machine(provider, handle))
        provider.start(handle)
        return made[-1]

    yield make
    for machine in made:
        provider.delete(machine.handle)


@pytest.fixture
def box(make: Callable[..., Machine]) -> Machine:
    return make()


def _optional(protocol: type) -> Any:
    @pytest.fixture(name=protocol.__name__.lower())
    def fixture(provider: Provider) -> Any:
        if not isinstance(provider, protocol):
            pytest.skip(f"provider {provider.name!r} does not have the optional protocol {protocol.__name__}")
        return provider

    return fixture


snapshots, resets, retires, diffs, networks, adopts, stores, attaches, examines, forwards = map(
    _optional, (Snapshots, Resets, Retires, Diffs, Networks, Adopts, Stores, Attaches, Examines, Forwards)
)
