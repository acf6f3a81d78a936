"""The conformance suite: it covers every sentence, FakeProvider passes it, and a provider that breaks a promise does not."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from pytest_airlock import conformance

# pytester forgets, after each inner run, what that run imported; what is imported here stays (and can be patched).
from pytest_airlock.conformance import machine
from pytest_airlock.orchestrator import providers as registry  # noqa: F401
from pytest_airlock.providers import base
from pytest_airlock.testing import FakeProvider

SUITE = Path(conformance.__file__).parent
MODULES = sorted(path.name for path in SUITE.glob("test_*.py"))
#: Sentences that only a provider's own tests can bring about: an error while asking (6), a failing proof (23).
SENTENCES = [int(number) for number in re.findall(r"^ ?(\d+)\. ", base.__doc__, re.MULTILINE)]


class Registers:
    def __init__(self, make):
        self._make = make

    def pytest_airlock_register_providers(self, providers):
        providers.register("fake", self._make)


def run(pytester, make, *arguments):
    module, *rest = arguments
    # An ini file of its own: that of this checkout would be found from the suite's path.
    ini = pytester.makeini("[pytest]\n")
    options = ("-c", str(ini), "--airlock-provider=fake", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    package = f"pytest_airlock.conformance.{module.removesuffix('.py')}"
    result = pytester.inline_run(*options, "--pyargs", package, *rest, plugins=[Registers(make)])
    passed, skipped, failed = result.listoutcomes()
    return (
        Counter({"passed": len(passed), "skipped": len(skipped), "failed": len(failed)}),
        {report.nodeid.rpartition("::")[2] for report in failed},
        [str(report.longrepr[2]) for report in skipped],
    )


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRLOCK_STATE_DIR", str(tmp_path / "state"))


def test_every_sentence_of_the_contract_has_a_test():
    names = [
        node.name
        for module in MODULES
        for node in ast.walk(ast.parse((SUITE / module).read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    tested = {int(match[1]) for name in names if (match := re.match(r"test_c(\d\d)_", name))}
    assert len(SENTENCES) >= 24
    assert tested == set(SENTENCES)
    assert [name for name in names if not name.startswith("test_c")] == []


@pytest.mark.parametrize("module", MODULES)
def test_the_fake_provider_passes(pytester, module):
    counts, failed, reasons = run(pytester, FakeProvider, module)
    assert failed == set()
    assert counts["passed"] + counts["skipped"] > 0
    assert [
        reason
        for reason in reasons
        if not re.search(r"no python3|is no entry point|many_users: it is there|protocol Forwards|no terminals", reason)
    ] == []


def test_optional_protocols_that_are_missing_are_skipped_with_the_reason(pytester):
    make = lambda: FakeProvider(without=("Snapshots", "Resets", "Retires", "Diffs", "Networks", "Adopts", "Stores"))  # noqa: E731
    counts, _, reasons = run(pytester, make, "test_states.py")
    assert counts == {"passed": 0, "failed": 0, "skipped": counts["skipped"]}
    assert any("optional protocol Snapshots" in reason for reason in reasons)


class LosesArguments(FakeProvider):
    def spawn(self, handle, command):
        argv = tuple(word for part in command.argv for word in part.split(" "))
        return super().spawn(handle, base.Command(argv, command.env, command.cwd, command.user, command.stdin))


class RemembersRunning(FakeProvider):
    def is_running(self, handle):
        return ("start", handle.name) in self.calls


class KeepsProcesses(FakeProvider):
    def reset(self, handle, snapshot):
        box = self._sandboxes[handle.name]
        box.files.restore(box.snapshots[snapshot])
        return base.ResetProof("fake", "a", "b")


class OpensPipes(FakeProvider):
    def read(self, handle, path, *, limit):
        data = super().read(handle, path, limit=1 << 50)
        return data[:limit]


class KillsTheChildOnly(FakeProvider):
    def spawn(self, handle, command):
        process = super().spawn(handle, command)
        process.kill_tree = lambda: process.send_signal(9)
        return process


@pytest.mark.parametrize(
    ("broken", "arguments", "caught"),
    [
        (LosesArguments, ("test_commands.py", "-k", "boundaries"), "test_c07_arguments_keep_their_boundaries"),
        (RemembersRunning, ("test_life.py", "-k", "c06"), "test_c06_a_sandbox_that_died_by_itself_is_not_running"),
        (
            OpensPipes,
            ("test_files.py", "-k", "c13"),
            "test_c13_errors_are_those_of_the_kernel[read more than the limit]",
        ),
    ],
)
def test_a_provider_that_breaks_a_promise_is_caught(pytester, broken, arguments, caught):
    _, failed, _ = run(pytester, broken, *arguments)
    assert caught in failed


@pytest.mark.parametrize(
    ("broken", "arguments", "caught"),
    [
        (KeepsProcesses, ("test_states.py", "-k", "all_is_dead"), "test_c23_reset_brings_files_back_and_all_is_dead"),
        (
            KillsTheChildOnly,
            ("test_commands.py", "-k", "descendants"),
            "test_c11_kill_tree_ends_descendants_and_orphans",
        ),
    ],
)
def test_a_provider_that_leaves_processes_alive_is_caught(pytester, monkeypatch, broken, arguments, caught):
    monkeypatch.setattr(machine, "PATIENCE", 0.3)
    _, failed, _ = run(pytester, broken, *arguments)
    assert caught in failed
