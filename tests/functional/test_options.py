"""Options, environment, ini file and airlock.yaml/.toml: which of them counts, and what a bad one is told."""

from __future__ import annotations

import pytest

USER = "def test_user(airlock_sandbox): pass"
NOBODY = "def test_nobody(): pass"
SHOWS = "def test_shows(airlock_sandbox): print('profile is', airlock_sandbox.info.profile)"


def profile_of(project: pytest.Pytester, *arguments: str) -> str:
    project.makepyfile(SHOWS)
    result = project.runpytest("-rP", *arguments)
    result.assert_outcomes(passed=1)
    shown = [line for line in result.outlines if line.startswith("profile is ")]
    return shown[0].removeprefix("profile is ")


def test_the_header_has_the_configured_words(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(NOBODY)
    pytester.runpytest().stdout.fnmatch_lines(["airlock: profile cautious, provider auto"])
    result = pytester.runpytest(
        "--airlock-profile=strict", "--airlock-provider=namespaces", "--airlock-max-profile=dev"
    )
    result.stdout.fnmatch_lines(["airlock: profile strict, provider namespaces, max-profile dev"])


def test_an_unused_plugin_says_nothing_else(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(NOBODY)
    result = pytester.runpytest()
    result.assert_outcomes(passed=1)
    assert [
        line for line in result.outlines if "airlock" in line and not line.startswith(("plugins:", "rootdir:"))
    ] == ["airlock: profile cautious, provider auto"]


def test_each_layer_goes_before_the_next(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    assert profile_of(project) == "cautious"
    project.makefile(".yaml", airlock="profile: dev\nspec: {network: locked}\n")
    assert profile_of(project) == "dev"
    project.makeini("[pytest]\nairlock_provider = fake\nairlock_profile = strict\n")
    assert profile_of(project) == "strict"
    monkeypatch.setenv("AIRLOCK_PROFILE", "cautious")
    assert profile_of(project) == "cautious"
    assert profile_of(project, "--airlock-profile=trusted") == "trusted"


def test_a_toml_file_is_read_too(project: pytest.Pytester) -> None:
    project.makefile(".toml", airlock='profile = "strict"\n')
    assert profile_of(project) == "strict"


def test_the_file_has_defaults_of_every_sandbox(project: pytest.Pytester) -> None:
    project.makefile(".yaml", airlock="spec:\n  memory: 64M\n  env: {A: one}\n")
    project.makepyfile("""
        def test_defaults(asked):
            assert asked.memory == 64 * 1024**2
            assert ("A", "one") in asked.env
    """)
    project.runpytest().assert_outcomes(passed=1)


def test_a_chosen_profile_goes_before_what_lower_layers_say(project: pytest.Pytester) -> None:
    project.makefile(".yaml", airlock="profile: dev\nspec: {network: open, user: root}\n")
    project.makepyfile("""
        def test_strict(airlock_sandbox):
            assert airlock_sandbox.info.network.mode == "locked"
            assert airlock_sandbox.info.user == "airlock"
    """)
    project.runpytest("--airlock-profile=strict").assert_outcomes(passed=1)


def test_the_file_can_add_profiles(project: pytest.Pytester) -> None:
    project.makefile(".yaml", airlock="profile: mine\nprofiles:\n  mine: {extends: strict, memory: 32M}\n")
    project.makepyfile("""
        def test_mine(airlock_sandbox, asked):
            assert airlock_sandbox.info.profile == "mine"
            assert asked.memory == 32 * 1024**2
    """)
    project.runpytest().assert_outcomes(passed=1)


def test_state_dir_of_the_command_line_is_used(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import pathlib
        def test_recorded(airlock_sandbox):
            state = pathlib.Path("own-state")
            assert any(airlock_sandbox.name in path.name for path in state.rglob("*.json"))
    """)
    project.runpytest("--airlock-state-dir=own-state").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["--airlock-keep=fialed"], ["*command line: --airlock-keep: 'fialed' is none of*", "*did you mean 'failed'?"]),
        (["--airlock-profile="], ["*--airlock-profile: it is set, but empty", "*hint:*"]),
        (["-o", "airlock_wait=soon"], ["*airlock_wait: 'soon' is not a number of seconds", "*such as 60"]),
        (["-o", "airlock_wait=0"], ["*airlock_wait: '0' is not a number of seconds"]),
        (["-o", "airlock_wait=nan"], ["*airlock_wait: 'nan' is not a number of seconds"]),
        (["-o", "airlock_insufficient=clmp"], ["*airlock_insufficient: 'clmp' is none of*", "*'clamp'?"]),
        (["-o", "airlock_unavailable=ski"], ["*airlock_unavailable: 'ski' is none of*", "*'skip'?"]),
        (["--airlock-profile=strickt"], ["*--airlock-profile: there is no profile 'strickt'", "*'strict'?*trusted*"]),
        (["--airlock-max-profile=all"], ["*--airlock-max-profile: there is no profile 'all'", "*known: *strict*"]),
        (["--airlock-provider=namespace"], ["*--airlock-provider: there is no provider*", "*'namespaces'?*"]),
        (
            ["--airlock-profile=dev", "--airlock-max-profile=strict"],
            ["*profile 'dev' is less strict than 'strict'*--airlock-max-profile*", "*choose a stricter profile*"],
        ),
    ],
)
def test_a_bad_word_is_a_usage_error(pytester: pytest.Pytester, arguments: list[str], lines: list[str]) -> None:
    pytester.makepyfile(NOBODY)
    result = pytester.runpytest(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(lines)


def test_a_bad_word_under_xdist_is_told_once(project: pytest.Pytester) -> None:
    project.makepyfile(USER)
    project.makeini("[pytest]\nairlock_provider = fake\nairlock_profile = strickt\n")
    result = project.runpytest_subprocess("-n", "2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert (result.stderr.str() + result.stdout.str()).count("there is no profile 'strickt'") == 1


def test_an_unknown_profile_of_the_ini_file_costs_nothing_where_no_sandbox_is_used(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nairlock_profile = strickt\n")
    pytester.makepyfile(NOBODY)
    pytester.runpytest().assert_outcomes(passed=1)
    pytester.makepyfile(USER)
    result = pytester.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*tox.ini: airlock_profile: there is no profile 'strickt'"])


def test_a_misspelt_variable_is_told(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(NOBODY)
    monkeypatch.setenv("AIRLOCK_GATEWAY_URL", "of another program")
    pytester.runpytest().assert_outcomes(passed=1)
    monkeypatch.setenv("AIRLOCK_PROFLE", "strict")
    result = pytester.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*AIRLOCK_PROFLE: there is no such setting", "*did you mean AIRLOCK_PROFILE?"])


def test_an_empty_variable_is_set(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(NOBODY)
    monkeypatch.setenv("AIRLOCK_PROVIDER", "")
    result = pytester.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*environment: AIRLOCK_PROVIDER: it is set, but empty"])


def test_all_faults_of_the_settings_are_told_together(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(NOBODY)
    monkeypatch.setenv("AIRLOCK_KEEP", "sometimes")
    pytester.makefile(".yaml", airlock="profil: strict\nspec:\n  memory: 4 Gigs\n")
    result = pytester.runpytest("-o", "airlock_wait=x")
    result.stderr.fnmatch_lines_random(
        [
            "*AIRLOCK_KEEP: 'sometimes'*",
            "*airlock_wait: 'x'*",
            "*airlock.yaml:1: profil: there is no such key",
            "*airlock.yaml:3: spec.memory: a size is*'4 Gigs'*",
        ]
    )


def test_two_configuration_files_are_a_usage_error(pytester: pytest.Pytester) -> None:
    pytester.makefile(".yaml", airlock="")
    pytester.makefile(".toml", airlock="")
    result = pytester.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*airlock.yaml: airlock.toml stands beside it*", "*remove one"])


def test_a_profile_of_the_file_that_extends_nothing_known(project: pytest.Pytester) -> None:
    project.makefile(".yaml", airlock="profiles:\n  mine: {extends: cautios}\n")
    project.makepyfile(USER)
    result = project.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*airlock.yaml:2: profiles.mine: *no such profile*", "*'cautious'?*"])


def test_the_cap_is_the_default_where_it_is_stricter(project: pytest.Pytester) -> None:
    assert profile_of(project, "--airlock-max-profile=strict") == "strict"
    assert profile_of(project, "--airlock-max-profile=dev") == "cautious"


@pytest.mark.parametrize("option", ["--airlock-profile", "--airlock-provider", "--airlock-keep"])
def test_help_names_the_options(pytester: pytest.Pytester, option: str) -> None:
    pytester.runpytest("--help").stdout.fnmatch_lines([f"*{option}=*"])


def test_the_options_work_without_xdist(project: pytest.Pytester) -> None:
    project.makepyfile(USER)
    project.runpytest_subprocess("-p", "no:xdist", "--airlock-profile=cautious").assert_outcomes(passed=1)
