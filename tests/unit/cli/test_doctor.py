"""`airlock doctor`: its screen, its JSON and its exit status, for any provider."""

from __future__ import annotations

import json
import textwrap

import pytest

from pytest_airlock import cli
from pytest_airlock.errors import ProviderUnavailable
from pytest_airlock.orchestrator import providers as providers_module
from pytest_airlock.providers.base import FEATURES, Absence, Features, Finding
from pytest_airlock.testing import FakeProvider


class Found(FakeProvider):
    """Finds what it is told to."""

    found = (Finding("identity", "one id", False, "no range", "add a range"), Finding("caveat", "it is a fake"))

    def examine(self):
        return self.found


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Install providers by name, as entry points do, in a state directory of the test's own."""
    monkeypatch.setenv("AIRLOCK_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("AIRLOCK_PROVIDER", raising=False)

    def install(**providers):
        class Point:
            def __init__(self, name, provider):
                self.name, self.value, self.load = name, f"{name}:It", lambda: lambda: provider

        points = [Point(name, provider) for name, provider in providers.items()]
        monkeypatch.setattr(providers_module, "entry_points", lambda group: points)

    return install


def broken(name="broken", why="no kernel", hint="buy one"):
    provider = FakeProvider(name, without=("Examines",))
    provider.faults.fail("probe", ProviderUnavailable(name, why, hint=hint), times=9)
    return provider


def doctor(*argv):
    return cli.main(["doctor", *argv])


def test_what_works_is_told_and_the_status_is_0(installed, capsys):
    provider = Found("fake")
    installed(fake=provider)
    assert doctor() == 0
    shown = capsys.readouterr().out
    assert "yes fake" in shown
    assert "the provider, the default, works: a sandbox was made, ran a command and was destroyed in" in shown.replace(
        "\n" + " " * 23, " "
    )
    assert "NO  identity" in shown
    assert "why: no range" in shown
    assert "fix: add a range" in shown
    name = next(name for operation, name in provider.calls if operation == "create")
    assert [
        call for call in provider.calls if call[1] == name and call[0] in ("create", "start", "spawn", "delete")
    ] == [
        ("create", name),
        ("start", name),
        ("spawn", name),
        ("delete", name),
    ]


def test_what_does_not_work_is_told_with_cause_and_fix_and_the_status_is_1(installed, capsys):
    installed(broken=broken())
    assert doctor() == 1
    shown = capsys.readouterr().out
    assert "NO  broken" in shown
    assert "why: no kernel" in shown
    assert "fix: buy one" in shown


@pytest.mark.parametrize("operation", ["create", "start", "spawn", "delete"])
def test_a_provider_that_fails_at_any_step_does_not_work(installed, capsys, operation):
    provider = FakeProvider("fake")
    provider.faults.fail(operation, RuntimeError("no \x1b[31msuch thing"))
    installed(fake=provider)
    assert doctor() == 1
    assert "why: RuntimeError: no \\x1b[31msuch thing" in capsys.readouterr().out


def test_a_sandbox_is_removed_even_if_its_command_fails(installed, capsys):
    provider = FakeProvider("fake", programs={"true": lambda context: 3})
    installed(fake=provider)
    assert doctor() == 1
    assert "it returned 3" in capsys.readouterr().out
    assert "delete" in [operation for operation, _ in provider.calls]


def test_the_default_is_the_first_that_works_unless_one_is_asked_for(installed, capsys, monkeypatch):
    installed(a_broken=broken(), works=FakeProvider("works"))
    assert doctor("--json") == 0
    assert json.loads(capsys.readouterr().out)["default"] == "works"
    assert doctor("--json", "--provider", "a_broken") == 1
    assert json.loads(capsys.readouterr().out)["default"] == "a_broken"
    monkeypatch.setenv("AIRLOCK_PROVIDER", "a_broken")
    assert doctor("--json") == 1


def test_an_unknown_provider_is_an_error_with_its_text(installed, capsys):
    installed(works=FakeProvider("works"))
    assert doctor("--provider", "work") == 1
    assert "works" in capsys.readouterr().err


def test_without_any_provider_the_status_is_1(installed, capsys):
    installed()
    assert doctor() == 1
    assert "none is installed" in capsys.readouterr().out


def test_the_keys_of_the_json_are_those_documented(installed, capsys):
    features = Features(frozenset(FEATURES) - {"memory"}, {"memory": Absence("no cgroup", "mount one")}, ("a note",))
    installed(fake=Found("fake", features=features), broken=broken())
    assert doctor("--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(found) == ["default", "directories", "providers", "python", "system", "version", "works"]
    assert sorted(found["system"]) == ["machine", "name", "release"]
    assert sorted(found["providers"]) == ["broken", "fake"]
    fake = found["providers"]["fake"]
    assert sorted(fake) == ["features", "findings", "fix", "seconds", "why", "works"]
    assert fake["works"] is True
    assert fake["seconds"] > 0
    assert list(fake["features"]) == list(FEATURES)
    assert fake["features"]["memory"] == {"present": False, "why": "no cgroup", "fix": "mount one"}
    assert fake["features"]["disk"] == {"present": True, "why": "", "fix": ""}
    assert fake["findings"][0] == {
        "subject": "identity",
        "what": "one id",
        "ok": False,
        "why": "no range",
        "fix": "add a range",
    }
    assert found["providers"]["broken"] == {
        "works": False,
        "seconds": None,
        "why": "no kernel",
        "fix": "buy one",
        "features": {},
        "findings": [],
    }
    assert list(found["directories"]) == ["state", "cache"]
    assert sorted(found["directories"]["state"]) == ["bytes", "complete", "entries", "path"]


def test_the_sizes_of_state_and_cache_are_measured(installed, capsys, tmp_path):
    installed(fake=FakeProvider("fake"))
    (tmp_path / "state/kept").mkdir(parents=True)
    (tmp_path / "state/kept/file").write_bytes(b"x" * 10_000)
    (tmp_path / "state/away").symlink_to("/usr")
    doctor("--json")
    state = json.loads(capsys.readouterr().out)["directories"]["state"]
    assert state["path"] == str(tmp_path / "state")
    assert state["entries"] == 3
    assert state["bytes"] >= 10_000
    assert state["complete"]
    doctor()
    assert "(empty)" in capsys.readouterr().out


def test_a_reason_that_was_told_is_not_told_again(installed, capsys):
    features = Features(frozenset(FEATURES) - {"many_users"}, {"many_users": Absence("no range", "add a range")})
    installed(fake=Found("fake", features=features))
    doctor()
    shown = capsys.readouterr().out
    assert "many_users: see identity" in shown
    assert shown.count("no range") == 1


def test_it_fits_a_screen_of_50_lines_and_100_columns_at_its_worst(installed, capsys):
    long = "the kernel of this host refuses it and says " + "so " * 15
    absent = {word: Absence(long) for word in ("network_open", "ports", "memory", "many_users", "outlives", "cpu")}
    provider = Found("fake", features=Features(frozenset(FEATURES) - set(absent), absent))
    provider.found = tuple(
        Finding(f"subject {n}", textwrap.shorten(long, 60), n % 2 == 0, long, long) for n in range(6)
    )
    installed(fake=provider, broken=broken(why=long, hint=long))
    doctor()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 50
    assert max(len(line) for line in lines if " directory " not in line) <= 100  # paths are not broken


def test_an_examination_that_fails_spoils_only_its_own_part(installed, capsys):
    provider = FakeProvider("fake")
    provider.faults.fail("examine", OSError("no proc"))
    installed(fake=provider)
    assert doctor() == 0
    assert "why: OSError: no proc" in capsys.readouterr().out
