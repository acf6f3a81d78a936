"""What a test tried over the network, in its report and as a failure of its own."""

from __future__ import annotations

import pytest

TRIES = """
import pytest

def test_quiet(airlock_sandbox):
    airlock_sandbox.run(["true"])

def test_loud(airlock_sandbox):
    airlock_sandbox.run(["getent", "hosts", "telemetry.example.org"])
"""


@pytest.fixture(params=["fake", "namespaces"])
def tests(request: pytest.FixtureRequest, project: pytest.Pytester) -> pytest.Pytester:
    """A project with the provider of the tests, or with that of this machine."""
    if request.param == "namespaces":
        project.makeconftest("")
        project.makeini("[pytest]\nairlock_provider = namespaces\n")
    project.makepyfile(TRIES)
    return project


def test_by_default_it_is_nobodys_fault(tests: pytest.Pytester) -> None:
    result = tests.runpytest()
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*telemetry*")


def test_forbidden_it_fails_the_test_and_says_what_was_tried(tests: pytest.Pytester) -> None:
    result = tests.runpytest("-o", "airlock_network_attempts=forbid")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*tried to use the network*'forbid'*", "*dns*A telemetry.example.org refused*"])


@pytest.mark.parametrize(
    "later", ["box.reset()", "box.restore(box.snapshot())", "box.snapshot(stop=True)"], ids=["reset", "restore", "stop"]
)
def test_what_was_tried_before_a_new_life_counts(tests: pytest.Pytester, later: str) -> None:
    tests.makepyfile(f"""
        def test_x(airlock_sandbox):
            box = airlock_sandbox
            box.run(["getent", "hosts", "telemetry.example.org"])
            {later}
    """)
    tests.runpytest("-o", "airlock_network_attempts=forbid").assert_outcomes(failed=1)


def test_warned_of_it_passes(tests: pytest.Pytester) -> None:
    result = tests.runpytest("-o", "airlock_network_attempts=warn", "-W", "always")
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(["*NetworkAttempted*"])


def test_the_marker_goes_before_the_ini_value(tests: pytest.Pytester) -> None:
    tests.makepyfile(f"import pytest\npytestmark = pytest.mark.airlock(network_attempts='ignore')\n{TRIES}")
    tests.runpytest("-o", "airlock_network_attempts=forbid").assert_outcomes(passed=2)


def test_a_failed_test_shows_what_was_tried_and_keeps_its_own_reason(tests: pytest.Pytester) -> None:
    tests.makepyfile("""
        def test_x(airlock_factory):
            box = airlock_factory()
            box.run(["getent", "hosts", "index.example.org"])
            assert not box.network.attempts
    """)
    result = tests.runpytest("-o", "airlock_network_attempts=forbid")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*assert not <* tries: dns * index.example.org refused*", "*airlock: network attempts of *", "*dns * refused"]
    )


def test_a_session_sandbox_is_looked_at_in_the_end(tests: pytest.Pytester) -> None:
    tests.makepyfile("""
        def test_x(airlock_session_sandbox):
            airlock_session_sandbox.run(["getent", "hosts", "index.example.org"])
    """)
    result = tests.runpytest("-o", "airlock_network_attempts=forbid")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*tried to use the network*"])


@pytest.mark.parametrize("word", ["forbidden", ""])
def test_a_wrong_word_is_told(tests: pytest.Pytester, word: str) -> None:
    result = tests.runpytest("-o", f"airlock_network_attempts={word}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*airlock_network_attempts*"])


def test_a_provider_that_records_nothing_is_refused(project: pytest.Pytester) -> None:
    project.makeconftest("""
        from pytest_airlock.providers.base import FEATURES
        from pytest_airlock.testing import FakeProvider
        def pytest_airlock_register_providers(providers):
            features = tuple(FEATURES.keys() - {"network_attempts"})
            providers.register("fake", lambda: FakeProvider("fake", features=features))
    """)
    project.makepyfile(TRIES)
    project.runpytest().assert_outcomes(passed=2)
    result = project.runpytest("-o", "airlock_network_attempts=forbid")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*UnsupportedFeature*'network_attempts'*"])
