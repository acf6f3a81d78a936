"""Sandboxes and their records after a sudden death: of a sandbox, of pytest, of a worker of xdist."""

from __future__ import annotations

import json
import os
import select
import signal
from pathlib import Path

import pytest

#: Helpers of the inner tests. `inside` lists the host's pids of what runs in sandboxes of this process.
CONFTEST = """
import os
import pathlib

def inside():
    pids = []
    for status in pathlib.Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in text.splitlines())
        if len(fields["NSpid"].split()) > here and below(int(fields["Pid"])):
            pids.append(int(fields["Pid"]))
    return pids

def below(pid):
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        pid = int(stat.rpartition(")")[2].split()[1])
    return False

def nested(status):
    return len(next(line for line in status.splitlines() if line.startswith("NSpid")).split()) - 1

here = nested(pathlib.Path("/proc/self/status").read_text())

def note(name, *pids):
    pathlib.Path(name).write_text(" ".join(map(str, pids)))
"""

LAST_WORDS = """
import os, signal
import pytest
from conftest import inside, note

def start(box):
    process = box.popen(["sleep", "1000"])
    pids = inside()
    assert pids, "nothing of the sandbox is seen"
    note("pids", *pids)
    return process
"""


@pytest.fixture
def real(project: pytest.Pytester) -> pytest.Pytester:
    project.makeconftest(CONFTEST)
    project.makeini("[pytest]\nairlock_provider = namespaces\n")
    return project


def pids_in(project: pytest.Pytester, name: str) -> list[int]:
    return [int(word) for word in (project.path / name).read_text().split()]


def is_gone(pid: int) -> bool:
    """Wait for the end of a process that is not our child; the kernel says when (pidfd_open(2))."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], 10)[0])
    finally:
        os.close(pidfd)


def records(state: Path) -> set[str]:
    return {json.loads(path.read_text())["name"] for path in state.rglob("*.json")}


def test_a_sandbox_killed_from_outside_fails_its_test_only(real: pytest.Pytester) -> None:
    real.makepyfile(
        LAST_WORDS
        + """
def test_dies(airlock_sandbox):
    process = start(airlock_sandbox)
    for pid in inside():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()

def test_next(airlock_sandbox):
    assert airlock_sandbox.run(["echo", "alive"]).stdout == "alive\\n"
"""
    )
    result = real.runpytest_subprocess()
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["E *SandboxDied: *"])


def next_run_cleans(project: pytest.Pytester, state: Path) -> None:
    project.makepyfile(test_next="def test_next(airlock_sandbox): airlock_sandbox.run(['true'], check=True)")
    result = project.runpytest_subprocess("test_next.py")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*= airlock =*", "removed sandbox *, left by process *"])
    assert records(state) == set()


def test_pytest_is_killed(real: pytest.Pytester, own_state: Path) -> None:
    real.makepyfile(
        test_killed=LAST_WORDS
        + """
def test_killed(airlock_sandbox, airlock_factory):
    airlock_factory(name="extra")
    start(airlock_sandbox)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    assert real.runpytest_subprocess("test_killed.py").ret == -signal.SIGKILL
    pids = pids_in(real, "pids")
    assert len(pids) >= 3, "two sandboxes and a command"
    assert all(map(is_gone, pids))
    assert "extra" in records(own_state)
    next_run_cleans(real, own_state)


def test_pytest_is_killed_and_a_forked_child_lives_on(real: pytest.Pytester, own_state: Path) -> None:
    real.makepyfile(
        test_killed=LAST_WORDS
        + """
def test_killed(airlock_sandbox):
    start(airlock_sandbox)
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(done, b"x")
        while True:
            signal.pause()
    os.read(ready, 1)
    note("child", child)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    try:
        assert real.runpytest_subprocess("test_killed.py").ret == -signal.SIGKILL
        (child,) = pids_in(real, "child")
        os.kill(child, 0)  # it does live on
        assert all(is_gone(pid) for pid in pids_in(real, "pids") if pid != child)
        next_run_cleans(real, own_state)
        os.kill(child, 0)
    finally:
        os.kill(pids_in(real, "child")[0], signal.SIGKILL)


def test_a_worker_is_killed(real: pytest.Pytester, own_state: Path) -> None:
    real.makepyfile(
        test_killed=LAST_WORDS
        + """
def test_killed(airlock_sandbox):
    start(airlock_sandbox)
    os.kill(os.getpid(), signal.SIGKILL)

@pytest.mark.parametrize("n", range(6))
def test_other(airlock_sandbox, n):
    assert airlock_sandbox.run(["echo", str(n)]).stdout == f"{n}\\n"
"""
    )
    result = real.runpytest_subprocess("-n", "2", "test_killed.py")
    result.assert_outcomes(failed=1, passed=6)
    assert all(map(is_gone, pids_in(real, "pids")))
    # The worker that takes its place collects what it left, if there is still a test for it; else the next run does.
    again = real.runpytest_subprocess("-n", "2", "test_killed.py", "-k", "other")
    again.assert_outcomes(passed=6)
    said = [line for line in result.outlines + again.outlines if line.startswith("removed sandbox ")]
    assert said
    assert all("worker gw" in line for line in said)
    assert len(said) == len(set(said)), "two workers removed the same one"
    assert records(own_state) == set()
