"""@pytest.mark.airlock(...): how markers meet, and that every bad one of a run is told at once."""

from __future__ import annotations

import pytest


def test_the_closest_marker_goes_first(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import pytest

        pytestmark = pytest.mark.airlock(memory="64M", env={"A": "module", "B": "module"}, provision=["echo module"])

        @pytest.mark.airlock(memory="128M", env={"A": "class"}, provision=["echo class"])
        class TestClass:
            @pytest.mark.airlock(env={"C": "test"}, cpu=1)
            def test_all(self, asked):
                assert asked.memory == 128 * 1024**2
                assert asked.cpu == 1
                assert dict(asked.env) == {"A": "class", "B": "module", "C": "test"}

            @pytest.mark.airlock(memory=None)
            def test_back_to_the_default(self, asked):
                assert asked.memory is None
    """)
    project.runpytest().assert_outcomes(passed=2)


def test_the_form_of_the_readme(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import pytest

        @pytest.mark.airlock(cpu=1)
        def test_x(airlock_sandbox):
            assert airlock_sandbox.run(["true"]).returncode == 0
    """)
    project.runpytest("--airlock-profile=cautious", "--strict-markers").assert_outcomes(passed=1)


def test_markers_lists_it(pytester: pytest.Pytester) -> None:
    pytester.runpytest("--markers").stdout.fnmatch_lines(["@pytest.mark.airlock(profile, cpu, memory, disk, image, *"])


def test_a_marker_goes_before_airlock_spec_and_settings(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import pytest

        @pytest.fixture(scope="session")
        def airlock_spec():
            return {"profile": "dev", "memory": "64M", "env": {"A": "fixture"}}

        def test_fixture(airlock_sandbox, asked):
            assert airlock_sandbox.info.profile == "dev"
            assert asked.memory == 64 * 1024**2

        @pytest.mark.airlock(profile="strict", memory="32M")
        def test_marker(airlock_sandbox, asked):
            assert airlock_sandbox.info.profile == "strict"
            assert asked.memory == 32 * 1024**2
            assert ("A", "fixture") in asked.env
    """)
    project.runpytest("--airlock-profile=cautious").assert_outcomes(passed=2)


BAD = """
    import pytest

    pytestmark = pytest.mark.airlock(profil="strict")

    @pytest.mark.airlock("strict")
    def test_positional(airlock_sandbox): pass

    @pytest.mark.airlock(cpu=1.5, memory="4 Gigs")
    def test_values(airlock_sandbox): pass

    @pytest.mark.airlock(profile="cautios", provider="fak")
    def test_words(airlock_sandbox): pass

    @pytest.mark.airlock(name="../up")
    def test_name(airlock_sandbox): pass
"""
TOLD = [
    "*marker of test_bad.py: *'profil'*no such setting*'profile'*",
    "*marker of test_bad.py::test_positional: airlock('strict') is not valid: it takes keywords only*",
    "*marker of test_bad.py::test_values: cpu=1.5 is not valid*whole number*",
    "*marker of test_bad.py::test_values: memory='4 Gigs' is not valid*'512M'*",
    "*marker of test_bad.py::test_words: profile='cautios' is not valid*'cautious'*",
    "*marker of test_bad.py::test_words: provider='fak' is not valid*'fake'*",
    "*marker of test_bad.py::test_name: name='../up' is not valid*",
]


def test_every_bad_marker_is_told_at_once(project: pytest.Pytester, workers: tuple[str, ...]) -> None:
    project.makepyfile(test_bad=BAD)
    result = project.runpytest_subprocess(*workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines_random(TOLD)
    text = result.stderr.str() + result.stdout.str()
    assert text.count("'profil'") == 1, "a marker of a module is told once, not for each test nor each worker"
    assert "passed" not in text


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "'4'", "True"])
def test_a_bad_number_of_processors(project: pytest.Pytester, value: str) -> None:
    project.makepyfile(f"""
        import pytest

        @pytest.mark.airlock(cpu={value})
        def test_x(airlock_sandbox): pass
    """)
    result = project.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*marker of *::test_x: cpu={value} is not valid*"])


@pytest.mark.parametrize("name", ["a/b", "..", "a\\0b", "\\u0430dmin", "x" * 300, ""])
def test_a_bad_name(project: pytest.Pytester, name: str) -> None:
    project.makepyfile(f"""
        import pytest

        @pytest.mark.airlock(name="{name}")
        def test_x(airlock_sandbox): pass
    """)
    result = project.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*marker of *::test_x: name=* is not valid*"])


def test_tests_that_are_not_selected_are_not_looked_at(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import pytest

        @pytest.mark.airlock(cpu=0)
        def test_bad(airlock_sandbox): pass

        def test_good(airlock_sandbox): pass
    """)
    project.runpytest("-k", "good").assert_outcomes(passed=1, deselected=1)


@pytest.mark.parametrize("fixtures", ["", "airlock_session_sandbox"])
def test_a_marker_that_nothing_reads_is_a_fault(project: pytest.Pytester, fixtures: str) -> None:
    project.makepyfile(f"""
        import pytest

        @pytest.mark.airlock(cpu=1)
        @pytest.mark.parametrize("n", range(5))
        def test_x(n, {fixtures}): pass
    """)
    result = project.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*marker of *::test_x: it changes nothing for *::test_x: no airlock_sandbox or *"])
    assert result.stderr.str().count("changes nothing") == 1


def test_a_marker_reaches_a_test_through_another_fixture(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import pytest

        @pytest.fixture
        def installed(airlock_sandbox):
            return airlock_sandbox

        @pytest.mark.airlock(profile="strict")
        def test_x(installed):
            assert installed.info.profile == "strict"
    """)
    project.runpytest().assert_outcomes(passed=1)


@pytest.mark.parametrize(("cap", "passed"), [("trusted", 1), ("dev", 1), ("cautious", 0)])
def test_the_cap_binds_markers(project: pytest.Pytester, cap: str, passed: int) -> None:
    project.makepyfile("""
        import pytest

        @pytest.mark.airlock(profile="dev")
        def test_x(airlock_sandbox): pass
    """)
    result = project.runpytest(f"--airlock-max-profile={cap}")
    result.assert_outcomes(passed=passed)
    if not passed:
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*marker of *::test_x: profile 'dev' is less strict than 'cautious'*"])


def test_a_profile_of_the_file_is_no_way_around_the_cap(project: pytest.Pytester) -> None:
    project.makefile(
        ".yaml",
        airlock="profiles:\n  harmless: {extends: strict, network: open, network_allowed: [locked, open]}\n",
    )
    project.makepyfile("""
        import pytest

        @pytest.mark.airlock(profile="harmless")
        def test_x(airlock_sandbox): pass
    """)
    result = project.runpytest("--airlock-max-profile=strict")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*profile 'harmless' is less strict than 'strict'*"])


def test_bad_markers_are_told_by_collect_only_too(project: pytest.Pytester) -> None:
    project.makepyfile(test_bad=BAD)
    result = project.runpytest("--collect-only")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(TOLD[:1])
