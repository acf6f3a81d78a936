"""Whole pytest runs: a thousand tests, the plugin unused, and the death of pytest."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measure import Case, Group
from process_tree import descendants
from timing import command

UNUSED, BLOCKED = "plugin unused", "plugin blocked"
THOUSAND = "1,000 tests, -n {}"
KILLED = "all dead after SIGKILL"

TESTS = """
import pytest

@pytest.mark.parametrize("number", range({tests}))
def test_run(airlock_sandbox, number):
    airlock_sandbox.run(["true"], check=True)
"""
VICTIM = """
import sys

def test_busy(airlock_factory):
    boxes = [airlock_factory() for _ in range(5)]
    sleepers = [box.popen(["sleep", "1000"]) for box in boxes]
    print("ready", file=sys.__stderr__, flush=True)
    sleepers[0].wait()
"""


@contextmanager
def suite(source: str) -> Iterator[list[str]]:
    """A pytest command for one file of tests, with a state directory of its own."""
    with tempfile.TemporaryDirectory(prefix="airlock-bench-") as directory:
        Path(directory, "pytest.ini").write_text("[pytest]\n")
        Path(directory, "test_suite.py").write_text(source)
        # A --basetemp of its own: other runs share the default one, and what they left would be cleaned up in this one's time.
        temporary = f"--basetemp={directory}/tmp"
        yield [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", temporary, f"{directory}/test_suite.py"]


@contextmanager
def unused() -> Iterator[list[Group]]:
    """A run of one test that uses nothing, with the plugin and with the plugin blocked."""
    with suite("def test_nothing():\n    pass\n") as base:
        yield [
            Group({UNUSED: command(base)}, every=2),
            Group({BLOCKED: command([*base, "-p", "no:airlock"])}, every=2),
        ]


@contextmanager
def thousand(every: int) -> Iterator[list[Group]]:
    two_cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:2]))
    with many(1000) as suite_of_many:
        base = ["taskset", "--cpu-list", two_cores, *suite_of_many]
        yield [Group({THOUSAND.format(n): command([*base, "-n", str(n)])}, every=every) for n in (0, 2)]


@contextmanager
def many(tests: int) -> Iterator[list[str]]:
    """So many tests with a sandbox and one command each."""
    with suite(TESTS.format(tests=tests)) as base, tempfile.TemporaryDirectory(prefix="airlock-bench-") as state:
        yield [*base, f"--airlock-state-dir={state}"]


@contextmanager
def killed(every: int) -> Iterator[Group]:
    with suite(VICTIM) as base, tempfile.TemporaryDirectory(prefix="airlock-bench-") as state:
        case: Case = lambda: kill([*base, "-s", f"--airlock-state-dir={state}"])  # noqa: E731
        yield Group({KILLED: case}, every=every)


def kill(argv: list[str]) -> float:
    """Seconds from SIGKILL of pytest, with five busy sandboxes, to the death of the last process below it."""
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as pytest:
        assert pytest.stderr is not None
        if pytest.stderr.readline() != b"ready\n":
            pytest.kill()
            raise RuntimeError("the suite to be killed did not get its sandboxes")
        below = [os.pidfd_open(pid) for pid in descendants(pytest.pid)]
        start = time.perf_counter()
        pytest.send_signal(signal.SIGKILL)
        try:
            await_death(below)
            return time.perf_counter() - start
        finally:
            for pidfd in below:
                os.close(pidfd)


def await_death(pidfds: list[int], seconds: float = 10.0) -> None:
    """Until all have ended: a pidfd is readable then (pidfd_open(2)). Raises RuntimeError if that takes longer."""
    deadline = time.monotonic() + seconds
    waiting = set(pidfds)
    while waiting:
        dead = select.select(list(waiting), [], [], max(0.0, deadline - time.monotonic()))[0]
        if not dead:
            raise RuntimeError(f"{len(waiting)} processes outlived pytest by {seconds:g} seconds")
        waiting.difference_update(dead)
