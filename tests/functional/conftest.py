"""A project that uses the plugin with FakeProvider, so that what is tested is the plugin and no engine."""

from __future__ import annotations

import os
from pathlib import Path

import cryptography.hazmat.primitives.serialization.pkcs12  # noqa: F401
import pytest
import trustme  # noqa: F401

# pytester forgets, after each inner run in this process, what that run imported. What is imported here stays, so
# that not every test pays for pydantic again; and cryptography works with the classes of its first import only.
import pytest_airlock.config
import pytest_airlock.orchestrator.session
import pytest_airlock.testing  # noqa: F401

CONFTEST = """
import pytest
from pytest_airlock.testing import FakeProvider

provider = FakeProvider("fake")

def pytest_airlock_register_providers(providers):
    providers.register("fake", lambda: provider)

@pytest.fixture
def asked(airlock_sandbox):
    return provider.spec(airlock_sandbox.name)
"""


@pytest.fixture(autouse=True)
def own_state(
    pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """No setting of the outer run reaches the inner one, and each test has a state directory of its own."""
    # Loads all of hypothesis into each inner run, for a summary without content.
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")
    for name in [name for name in os.environ if name.startswith("AIRLOCK_")]:
        monkeypatch.delenv(name)
    state = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("AIRLOCK_STATE_DIR", str(state))
    return state


@pytest.fixture
def project(pytester: pytest.Pytester, own_state: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A directory with a conftest.py that registers the provider `fake`, and an ini file that chooses it."""
    # pytester makes its directory the home, and a home is no project.
    monkeypatch.setenv("HOME", str(own_state))
    pytester.makeconftest(CONFTEST)
    pytester.makeini("[pytest]\nairlock_provider = fake\n")
    return pytester


@pytest.fixture(params=[(), ("-n", "2")], ids=["alone", "xdist"])
def workers(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Arguments that run a test in one process, and in two workers."""
    arguments: tuple[str, ...] = request.param
    return arguments
