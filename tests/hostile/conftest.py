"""Sandboxes of the real engine for the rules of the threat model, and what an attack needs to be run."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attacks
import pytest
import table
import weakened
from attacker import CANARY, Box, id_mode

from pytest_airlock.providers.namespaces import NamespacesProvider


@pytest.fixture(scope="session")
def provider() -> Iterator[NamespacesProvider]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRLOCK_HOSTILE_CANARY", CANARY)
        provider = NamespacesProvider()
        provider.probe()
        yield provider
        provider.close()


@pytest.fixture(scope="session")
def weak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., NamespacesProvider]]:
    """Providers without the protections that are named; one for all tests that name the same ones."""
    booted: dict[tuple[str, ...], NamespacesProvider] = {}

    def without(*names: str) -> NamespacesProvider:
        if names not in booted:
            directory: Path = tmp_path_factory.mktemp("weakened")
            booted[names] = weakened.boot(directory, names)
        return booted[names]

    yield without
    for provider in booted.values():
        provider.close()


@pytest.fixture(scope="session")
def mode(provider: NamespacesProvider) -> str:
    return id_mode(provider)


_serial = itertools.count(1)


@pytest.fixture
def make_box(provider: NamespacesProvider) -> Iterator[Callable[..., Box]]:
    """Further sandboxes, with words of ProviderSpec."""
    made: list[Box] = []

    def make(**words: Any) -> Box:
        made.append(Box(provider, f"hostile-{next(_serial)}", **words))
        return made[-1]

    yield make
    for box in made:
        box.delete()


@pytest.fixture
def make_weak_box(weak: Callable[..., NamespacesProvider]) -> Iterator[Callable[..., Box]]:
    """Sandboxes of an engine without the protections that are named, with words of ProviderSpec."""
    made: list[Box] = []
    with contextlib.ExitStack() as stack:

        def make(*names: str, **words: Any) -> Box:
            stack.enter_context(weakened.on_host(names))
            made.append(Box(weak(*names), f"weak-{next(_serial)}", **words))
            return made[-1]

        yield make
        for box in made:
            box.delete()


@pytest.fixture
def row(request: pytest.FixtureRequest, mode: str) -> Callable[..., None]:
    """Put a row into the table: row(attack, stops=…, expected=…, seen=…, without=…)."""

    def put(attack: str, **cells: Any) -> None:
        texts = {name: attacks.short(value) for name, value in cells.items()}
        request.node.user_properties.append((table.PROPERTY, {"attack": attack, "mode": mode, **texts}))

    return put


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--hostile-table", metavar="FILE", help="write what the attacks came to, as JSON for table.py")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--hostile-table") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(table.Recorder(Path(config.getoption("--hostile-table"))), "hostile-table")


@pytest.fixture
def box(make_box: Callable[..., Box]) -> Box:
    return make_box()


@pytest.fixture
def users(mode: str) -> tuple[str, ...]:
    """Who can be: with a single id the one the sandbox was made for."""
    return ("root",) if mode == "single" else ("root", "airlock")


@pytest.fixture
def killed() -> Iterator[list[int]]:
    """Pids of processes to be killed in the end."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
