"""A state directory, the only provider, and owners in other processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from cli_helpers import owner_in_another_process

from pytest_airlock.models import Owner
from pytest_airlock.orchestrator import providers as providers_module
from pytest_airlock.orchestrator.storage.store import FileStore
from pytest_airlock.testing import FakeProvider


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> FakeProvider:
    """The only provider there is, found by the command as it finds any."""
    fake = FakeProvider(**getattr(request, "param", {}))

    class Point:
        name, value = "fake", "fake:Fake"

        def load(self):
            return lambda: fake

    monkeypatch.setattr(providers_module, "entry_points", lambda group: [Point()])
    return fake


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileStore:
    monkeypatch.setenv("AIRLOCK_STATE_DIR", str(tmp_path / "state"))
    return FileStore(tmp_path / "state")


@pytest.fixture
def dead() -> Owner:
    return owner_in_another_process(alive=False)[0]


@pytest.fixture
def alive():
    owner, pid = owner_in_another_process(alive=True)
    yield owner
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
