"""The hooks: what conftest files and other plugins can add, change and hear."""

from __future__ import annotations

import pytest

from pytest_airlock.plugin import hooks


def with_hooks(project: pytest.Pytester, text: str) -> None:
    conftest = project.path / "conftest.py"
    conftest.write_text(f"{conftest.read_text()}\n\n{text}")


def test_every_hook_has_the_prefix_and_a_docstring() -> None:
    names = [name for name in vars(hooks) if name.startswith("pytest_")]
    assert len(names) == 8
    for name in names:
        assert name.startswith("pytest_airlock_")
        assert getattr(hooks, name).__doc__


def test_a_hook_of_another_name_is_refused(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("def pytest_airlock_sandbox_raedy(sandbox): pass")
    result = pytester.runpytest()
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*unknown hook 'pytest_airlock_sandbox_raedy'*"])


def test_profiles_can_be_registered(project: pytest.Pytester) -> None:
    with_hooks(
        project,
        """
def pytest_airlock_register_profiles(profiles):
    profiles.extend("small", "strict", memory="32M")
""",
    )
    project.makepyfile("""
        import pytest

        @pytest.mark.airlock(profile="small")
        def test_x(airlock_sandbox, asked):
            assert airlock_sandbox.info.profile == "small"
            assert asked.memory == 32 * 1024**2
    """)
    project.runpytest().assert_outcomes(passed=1)


def test_detectors(project: pytest.Pytester) -> None:
    with_hooks(
        project,
        """
from pytest_airlock.models import RuntimeGuess
from pytest_airlock.orchestrator.policy.detection import SmallDetector

def pytest_airlock_register_detectors(detectors):
    guess = RuntimeGuess(runtime="basic", confidence=1.0, run=("basic",))
    detectors.register(SmallDetector("basic", lambda tree: guess if tree.has("main.bas") else None))
""",
    )
    project.makefile(".bas", main="10 END")
    project.makepyfile("""
        def test_x(airlock_sandbox):
            assert airlock_sandbox.info.runtime.runtime == "basic"
    """)
    project.runpytest().assert_outcomes(passed=1)


def test_a_spec_is_changed_above_markers_but_not_beyond_the_profile(project: pytest.Pytester) -> None:
    with_hooks(
        project,
        """
def pytest_airlock_modify_spec(spec, item):
    if item is not None and "small" in item.name:
        assert spec["memory"] == "64M"
        return {"memory": "32M"}
    if item is not None and "open" in item.name:
        return {"network": "open"}
""",
    )
    project.makepyfile("""
        import pytest

        pytestmark = pytest.mark.airlock(profile="strict", memory="64M")

        def test_small(asked):
            assert asked.memory == 32 * 1024**2

        def test_same(asked):
            assert asked.memory == 64 * 1024**2

        def test_open(airlock_sandbox): pass
    """)
    result = project.runpytest()
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["E *ProfileForbids: profile 'strict' forbids network*"])


def test_a_hook_is_no_way_around_the_cap(project: pytest.Pytester) -> None:
    with_hooks(project, "def pytest_airlock_modify_spec(): return {'profile': 'trusted'}\n")
    project.makepyfile("def test_x(airlock_sandbox): pass")
    result = project.runpytest("--airlock-max-profile=cautious")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *profile 'trusted' is less strict than 'cautious'*"])


def test_a_hook_that_returns_nonsense(project: pytest.Pytester) -> None:
    with_hooks(project, "def pytest_airlock_modify_spec(): return {'memroy': 1}\n")
    project.makepyfile("def test_x(airlock_sandbox): pass")
    result = project.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *pytest_airlock_modify_spec hook: *'memroy'*"])


def test_the_nearer_conftest_goes_first(project: pytest.Pytester) -> None:
    with_hooks(project, "def pytest_airlock_modify_spec(): return {'memory': '64M', 'env': {'A': 'top'}}\n")
    sub = project.mkpydir("sub")
    (sub / "conftest.py").write_text("def pytest_airlock_modify_spec(): return {'memory': '32M'}\n")
    (sub / "test_sub.py").write_text(
        "def test_x(asked): assert asked.memory == 32 * 1024**2 and dict(asked.env) == {'A': 'top'}\n"
    )
    (project.path / "test_top.py").write_text("def test_x(asked): assert asked.memory == 64 * 1024**2\n")
    project.runpytest().assert_outcomes(passed=2)


EVENTS = """
events = []

def pytest_airlock_sandbox_ready(sandbox, item):
    events.append(("ready", item and item.name))

def pytest_airlock_sandbox_reset(name, item):
    events.append(("reset", item and item.name))

def pytest_airlock_sandbox_failed(name, error, item):
    events.append(("failed", type(error).__name__, item and item.name))

def pytest_airlock_sandbox_destroyed(name, item):
    events.append(("destroyed", item and item.name))
"""


def test_what_happens_is_told(project: pytest.Pytester) -> None:
    with_hooks(project, EVENTS)
    project.makepyfile("""
        import pytest
        from conftest import events, provider
        from pytest_airlock.errors import ResetFailed

        def test_pooled(airlock_sandbox): pass

        def test_after_pooled():
            assert events == [("ready", "test_pooled")]
            events.clear()

        def test_made(airlock_factory): airlock_factory()

        def test_after_made():
            assert events == [("ready", "test_made"), ("destroyed", "test_made")]
            events.clear()

        def test_dirty(airlock_sandbox):
            assert events == [("reset", "test_pooled"), ("ready", "test_dirty")]
            events.clear()
            provider.faults.fail("reset", ResetFailed(airlock_sandbox.name, "for a test"))

        def test_after_dirty(airlock_sandbox):
            assert events == [
                ("failed", "ResetFailed", "test_dirty"),
                ("destroyed", "test_dirty"),
                ("ready", "test_after_dirty"),
            ]
            events.clear()

        def test_shared(airlock_session_sandbox):
            assert events == [("reset", "test_after_dirty"), ("ready", None)]
    """)
    project.runpytest().assert_outcomes(passed=7)


def test_a_sandbox_that_cannot_be_made_is_told(project: pytest.Pytester) -> None:
    with_hooks(project, EVENTS)
    project.makepyfile("""
        import pytest
        from conftest import events, provider
        from pytest_airlock.errors import ProviderError

        provider.faults.fail("create", ProviderError("fake", "create", "for a test"))

        def test_not_made(airlock_sandbox): pass

        def test_after():
            assert events == [("failed", "ProviderError", "test_not_made")]
    """)
    project.runpytest().assert_outcomes(errors=1, passed=1)
