from __future__ import annotations

import os
import subprocess

import pytest

from pytest_airlock.orchestrator.storage import process_identity
from pytest_airlock.orchestrator.storage.process_identity import current_owner, describe, verdict


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("Ss   Mon Nov 24 22:03:01 2025\n", 1764021781),
        ("S+   Sat Jan  3 02:00:00 1970\n", 180000),
        ("Z    Mon Nov 24 22:03:01 2025\n", None),
        ("", None),
    ],
)
def test_where_there_is_no_proc_ps_tells_the_start(monkeypatch: pytest.MonkeyPatch, printed: str, expected) -> None:
    asked = []

    def run(argv, **options):
        asked.append((argv, options["env"]))
        return subprocess.CompletedProcess(argv, 0, stdout=printed)

    monkeypatch.setattr(process_identity.subprocess, "run", run)
    assert process_identity._start_from_ps(42) == expected
    assert asked == [(["/bin/ps", "-o", "stat=,lstart=", "-p", "42"], {"LC_ALL": "C", "TZ": "UTC"})]


def test_this_process_is_alive_and_described_without_what_is_internal() -> None:
    owner = current_owner(run_id="r", worker="gw0", test="t")
    assert verdict(owner) == "alive"
    assert describe(owner) == {"pid": os.getpid(), "worker": "gw0", "test": "t", "run": "r"}


def test_an_owner_of_another_user_with_our_pid_is_judged_by_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(pid: int, signal: int) -> None:
        raise PermissionError

    owner = current_owner()
    monkeypatch.setattr(process_identity.os, "kill", kill)
    assert verdict(owner) == "alive"
    assert verdict(owner.model_copy(update={"start_time": 1})) == "dead"
