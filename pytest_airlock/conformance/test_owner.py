"""Contract 15 and 17: the owner of a sandbox is killed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_airlock.conformance.machine import PATIENCE
from pytest_airlock.orchestrator.providers import ProviderRegistry
from pytest_airlock.providers.base import Handle, Provider


def _sleepers(seconds: str) -> int:
    """How many processes that this host can see sleep for exactly so long."""
    return sum(_words(process)[-2:] == [b"sleep", seconds.encode()] for process in Path("/proc").glob("[0-9]*"))


def _words(process: Path) -> list[bytes]:
    try:
        return (process / "cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:  # it has ended meanwhile
        return []


def _until(wanted: bool, seconds: str, patience: float) -> bool:
    end = time.monotonic() + patience
    while bool(_sleepers(seconds)) != wanted:
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


@pytest.fixture
def seconds() -> str:
    return str(random.randint(10**8, 10**9))


@pytest.fixture
def owner(provider: Provider, seconds: str) -> Iterator[subprocess.Popen[str]]:
    if provider.name not in ProviderRegistry().names():
        pytest.skip(f"provider {provider.name!r} is no entry point, so no other process can make it")
    argv = [sys.executable, "-m", "pytest_airlock.conformance.owner", provider.name, seconds]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_c17_nothing_outlives_an_owner_that_is_killed(
    owner: subprocess.Popen[str], seconds: str, provider: Provider
) -> None:
    assert owner.stdout is not None
    handle = Handle.from_json(json.loads(owner.stdout.readline()))
    if not _until(True, seconds, 5):
        pytest.skip(f"processes of provider {provider.name!r} cannot be seen from here")
    owner.kill()
    owner.wait()
    assert _until(False, seconds, PATIENCE), f"{_sleepers(seconds)} processes live on"
    provider.delete(handle)  # contract 15: also from another process once the owner is dead
    provider.delete(handle)
