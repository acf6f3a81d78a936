"""Bytes from inside steer neither a terminal nor a reader: output, file names and process names in what a failed test reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

#: Clear the screen, set the window's title, answer back, 8-bit CSI, right-to-left override, a bell, a carriage return over the line.
CODES = ("\x1b[2J", "\x1b]0;owned\x07", "\x1b[6n", "\x9b2J", "\u202e", "\rPASSED")
FORBIDDEN = {"\x1b", "\x9b", "\x07", "\u202e"}

TESTS = """
import pytest
TEXT = {text!r}
SAY = "import sys; sys.stdout.write(sys.argv[1]); sys.stderr.write(sys.argv[1]); sys.stdout.flush(); "

def say(box, then, **words):
    box.run(["python3", "-c", SAY + then, TEXT], env={"PYTHONIOENCODING": "utf-8:surrogateescape"}, **words)

def test_output_of_a_failed_command(airlock_sandbox):
    say(airlock_sandbox, "sys.exit(3)", check=True)

def test_output_of_a_command_that_hangs(airlock_sandbox):
    say(airlock_sandbox, "import time; time.sleep(1000)", timeout=1)

def test_too_much_output(airlock_sandbox):
    say(airlock_sandbox, "sys.stdout.write(sys.argv[1] * 9999)", max_output=1000)

def test_names_of_changed_files(airlock_sandbox):
    airlock_sandbox.run(["touch", "/root/" + TEXT], check=True)
    pytest.fail(str(airlock_sandbox.diff()))

def test_name_of_a_file_that_is_not_there(airlock_sandbox):
    airlock_sandbox.path("/root/" + TEXT).read_text()

def test_names_of_processes(airlock_sandbox):
    script = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'\\\\x1b[2J\\\\x9b2J'); print(1, flush=True); time.sleep(1000)"
    process = airlock_sandbox.popen(["python3", "-c", script], stdout=-1)
    process.stdout.readline()
    airlock_sandbox.snapshot()

def test_name_of_a_command(airlock_sandbox):
    airlock_sandbox.run([TEXT])
"""

#: The same without what makes them visible.
PLAIN = """
import pytest_airlock.errors, pytest_airlock.sandbox.transcript, pytest_airlock.sandbox.diff
def plain(text):
    return text.decode() if isinstance(text, bytes) else str(text or "")
pytest_airlock.sandbox.transcript.escape = pytest_airlock.sandbox.diff.escape = plain
pytest_airlock.errors._visible = plain
"""


@pytest.fixture
def project(
    pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    state = str(tmp_path_factory.mktemp("state"))
    monkeypatch.setenv("AIRLOCK_STATE_DIR", state)
    monkeypatch.setenv("HOME", state)
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    text = "".join(CODES)
    pytester.makepyfile(TESTS.replace("{text!r}", ascii(text)))
    pytester.makeini("[pytest]\nairlock_provider = namespaces\n")
    return pytester


def steering(text: str) -> list[str]:
    """Characters that a terminal or a reader would obey."""
    found = {char for char in text if char in FORBIDDEN}
    return sorted(found | {"\r"} if "\rPASSED" in text else found)


def shown(project: pytest.Pytester) -> tuple[str, str]:
    """What the terminal gets, and the texts of the JUnit report."""
    result = project.runpytest_subprocess("-n0", "-rA", "--tb=short", "--junitxml=out.xml")
    result.assert_outcomes(failed=7)
    terminal = Path(project.path, "stdout").read_bytes().decode("utf-8", "backslashreplace")
    texts = [text for node in ET.parse(project.path / "out.xml").iter() for text in (node.text, *node.attrib.values())]
    return terminal, "".join(text or "" for text in texts)


def test_rule11_nothing_from_inside_steers_who_reads_the_report(
    project: pytest.Pytester, row: Callable[..., None]
) -> None:
    seen = [steering(text) for text in shown(project)]
    assert seen == [[], []]
    row(
        "Escape codes in output and in names of files, processes and commands, in the report of a failed test.",
        group="reports",
        stops="everything is shown with control characters made visible",
        expected="none reaches the terminal",
        seen="none reaches the terminal",
    )


def test_rule11_control_without_that_they_are_in_the_report(project: pytest.Pytester, row: Callable[..., None]) -> None:
    project.makeconftest(PLAIN)
    terminal, _ = shown(project)
    assert {"\x1b", "\x9b"} <= set(steering(terminal))
    row(
        "Escape codes in output and in names of files, processes and commands, in the report of a failed test.",
        group="reports",
        off="control characters made visible",
        without="they reach the terminal",
    )
