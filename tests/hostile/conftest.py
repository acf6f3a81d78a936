"""Sandboxes of the real engine for the rules of the threat model, and what an attack needs to be run."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attacker import CANARY, Box

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
def mode(provider: NamespacesProvider) -> str:
    """How the engine has its ids here: "root" (a leased range each), "range" (of subuid(5)) or "single" (one id)."""
    engine = provider._engine
    assert engine is not None
    if engine.found["privileged"]:
        return "root"
    return "range" if engine.found["ids"] > 1 else "single"


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
