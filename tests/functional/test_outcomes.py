"""What becomes of a sandbox that cannot be made, dies, or cannot be reset, and what the summary says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def test_a_machine_that_is_too_small(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import pytest

        @pytest.mark.airlock(cpu=60000)
        def test_x(airlock_sandbox): pass
    """)
    result = project.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *InsufficientResources: cpu: need 60000, have *"])
    skipped = project.runpytest("-o", "airlock_insufficient=skip", "-rs")
    skipped.assert_outcomes(skipped=1)
    skipped.stdout.fnmatch_lines(["SKIPPED *cpu: need 60000, have *"])
    project.runpytest("-o", "airlock_insufficient=clamp").assert_outcomes(passed=1)


UNAVAILABLE = """
import pytest
from pytest_airlock.testing import FakeProvider
from pytest_airlock.errors import ProviderUnavailable
from pytest_airlock.providers.base import FEATURES

class Broken(FakeProvider):
    def create(self, spec):
        raise ProviderUnavailable("broken", "the kernel says no", hint="ask it kindly")

def pytest_airlock_register_providers(providers):
    providers.register("broken", lambda: Broken("broken"))
    providers.register("weak", lambda: FakeProvider("weak", features=set(FEATURES) - {"memory"}))
"""


@pytest.mark.parametrize(
    ("marker", "line"),
    [
        ("provider='broken'", "*provider 'broken' does not work on this host: the kernel says no*"),
        ("provider='weak', memory='1M'", "*provider 'weak' cannot provide 'memory' on this host*"),
    ],
)
def test_a_provider_that_cannot(pytester: pytest.Pytester, marker: str, line: str) -> None:
    pytester.makeconftest(UNAVAILABLE)
    pytester.makepyfile(f"""
        import pytest

        @pytest.mark.airlock({marker})
        def test_x(airlock_sandbox): pass
    """)
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"E {line}"])
    skipped = pytester.runpytest("-o", "airlock_unavailable=skip", "-rs")
    skipped.assert_outcomes(skipped=1)
    skipped.stdout.fnmatch_lines([f"SKIPPED {line}"])


def test_a_command_that_fails_is_no_reason_to_skip(project: pytest.Pytester) -> None:
    project.makepyfile("""
        def test_x(airlock_sandbox):
            airlock_sandbox.run(["false"], check=True)
    """)
    result = project.runpytest("-o", "airlock_unavailable=skip", "-o", "airlock_insufficient=skip")
    result.assert_outcomes(failed=1)


def test_a_profile_that_forbids(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import pytest

        @pytest.mark.airlock(profile="strict", network="open")
        def test_x(airlock_sandbox): pass
    """)
    result = project.runpytest("-o", "airlock_unavailable=skip")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *ProfileForbids: profile 'strict' forbids network*"])


def test_a_sandbox_that_dies_fails_its_test_only(project: pytest.Pytester) -> None:
    project.makepyfile("""
        from conftest import provider

        def test_dies(airlock_sandbox):
            provider.die(airlock_sandbox.name)
            airlock_sandbox.run(["true"])

        def test_next(airlock_sandbox):
            assert airlock_sandbox.run(["true"]).returncode == 0
    """)
    result = project.runpytest()
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["E *SandboxDied: *"])


def test_a_death_that_nobody_sees_spoils_nothing(project: pytest.Pytester) -> None:
    project.makepyfile("""
        from conftest import provider

        def test_dies(airlock_sandbox):
            provider.die(airlock_sandbox.name)

        def test_next(airlock_sandbox):
            assert airlock_sandbox.run(["true"]).returncode == 0
    """)
    project.runpytest().assert_outcomes(passed=2)


def test_a_reset_that_fails_hands_out_nothing_dirty(project: pytest.Pytester) -> None:
    project.makepyfile("""
        from pytest_airlock.errors import ResetFailed
        from conftest import provider

        names = []

        def test_one(airlock_sandbox):
            names.append(airlock_sandbox.name)
            airlock_sandbox.run(["touch", "/tmp/left"])
            provider.faults.fail("reset", ResetFailed(airlock_sandbox.name, "a process does not die"))

        def test_two(airlock_sandbox):
            assert not airlock_sandbox.path("/tmp/left").exists()
            assert airlock_sandbox.name != names[0]
    """)
    result = project.runpytest()
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*could not be reset*a process does not die*"])


def test_notes_are_said_once(project: pytest.Pytester, workers: tuple[str, ...]) -> None:
    project.makepyfile("""
        import pytest

        @pytest.mark.parametrize("n", range(4))
        def test_x(airlock_sandbox, n): pass
    """)
    result = project.runpytest_subprocess("--airlock-profile=strict", *workers)
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*= airlock =*", "*profile 'strict' shows no project*"])
    assert result.stdout.str().count("shows no project") == 1


def test_what_cannot_be_ended_fails_the_run(project: pytest.Pytester, workers: tuple[str, ...]) -> None:
    project.makepyfile("""
        from conftest import provider
        from pytest_airlock.errors import ProviderError

        def test_x(airlock_sandbox):
            provider.faults.fail("delete", ProviderError("fake", "delete", "a disk error"), times=99)
    """)
    result = project.runpytest_subprocess(*workers)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*= airlock =*", "at the end of the run: *a disk error*"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_nothing_to_say_is_no_section(project: pytest.Pytester) -> None:
    project.makepyfile("def test_x(airlock_sandbox): pass")
    result = project.runpytest()
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*= airlock =*")


def test_records_of_a_dead_run_are_cleaned_and_said(
    project: pytest.Pytester, own_state: Path, workers: tuple[str, ...]
) -> None:
    project.makepyfile(
        test_killed="""
        import os, signal

        def test_x(airlock_factory):
            airlock_factory(name="left-behind")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        test_next="def test_x(airlock_sandbox): pass",
    )
    assert project.runpytest_subprocess("test_killed.py").ret != 0
    assert "left-behind" in names_in(own_state)
    result = project.runpytest_subprocess("test_next.py", *workers)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*= airlock =*", "*left-behind*"])
    assert names_in(own_state) == set()


def names_in(state: Path) -> set[str]:
    """The sandboxes that are recorded."""
    return {json.loads(path.read_text())["name"] for path in state.rglob("*.json")}


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ((), {"asked"}),
        (("--airlock-keep=all",), {"asked", "failed", "passed"}),
        (("--airlock-keep=failed",), {"asked", "failed"}),
        (("--airlock-keep=none",), set()),
    ],
)
def test_what_is_kept(project: pytest.Pytester, own_state: Path, arguments: tuple[str, ...], kept: set[str]) -> None:
    project.makepyfile("""
        import pytest

        pytestmark = pytest.mark.airlock(profile="trusted")

        def test_asked(airlock_factory):
            airlock_factory(name="asked", keep=True)

        def test_passed(airlock_factory):
            airlock_factory(name="passed")

        def test_failed(airlock_factory):
            airlock_factory(name="failed")
            raise ValueError

        def test_cautious(airlock_factory):
            airlock_factory(name="cautious", profile="cautious")
            raise ValueError

        def test_not_of_a_factory(airlock_sandbox):
            raise ValueError
    """)
    result = project.runpytest_subprocess(*arguments)
    result.assert_outcomes(passed=2, failed=3)
    assert names_in(own_state) == kept
    for name in kept:
        result.stdout.fnmatch_lines([f"*{name}*kept*"])


def test_keep_is_forbidden_where_the_profile_ends_with_the_run(project: pytest.Pytester) -> None:
    project.makepyfile("""
        def test_x(airlock_factory):
            airlock_factory(name="mine", keep=True)
    """)
    result = project.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *ProfileForbids: profile 'cautious' forbids keep=True*"])


def test_a_forked_child_leaves_the_sandbox_alone(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import multiprocessing

        def test_x(airlock_sandbox):
            child = multiprocessing.get_context("fork").Process(target=lambda: None)
            child.start()
            child.join()
            assert child.exitcode == 0
            assert airlock_sandbox.run(["true"]).returncode == 0
    """)
    project.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("run(['false'], check=True)", "CommandFailed"),
        ("shell('exit 3', check=True)", "CommandFailed"),
        ("run(['sleep', '1000'], timeout=0.01)", "CommandTimeout"),
        ("run(['no-such-program'])", "FileNotFoundError"),
        ("popen(['no-such-program'])", "FileNotFoundError"),
    ],
)
def test_a_failing_command_is_shown_at_the_line_of_the_test(project: pytest.Pytester, call: str, error: str) -> None:
    project.makepyfile(f"""
        def test_x(airlock_sandbox):
            airlock_sandbox.{call}
    """)
    result = project.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f">*airlock_sandbox.{call.replace('[', '[[]')}", f"E *{error}*"])
    result.stdout.no_fnmatch_line("*pytest_airlock/sandbox/*")
