"""`airlock doctor` on the real engine: it works, works partly, does not work (a filter stands in for such hosts)."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest
from forbidding import run_below

COMMAND = (sys.executable, "-c", "import sys; from pytest_airlock.cli import main; sys.exit(main())", "doctor")


def as_json(done):
    assert done.stderr == ""
    return json.loads(done.stdout)["providers"]["namespaces"]


def test_where_it_works_all_is_told_and_the_status_is_0():
    done = run_below([], *COMMAND, "--provider", "namespaces")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert any(line.startswith("yes namespaces ") for line in lines)
    for subject in ("kernel", "user name spaces", "AppArmor", "/proc", "identity", "groups", "image files", "cgroups"):
        assert any(line[4:].startswith(f"{subject} ") for line in lines), subject
    assert len(lines) <= 50
    assert max(len(line) for line in lines if " directory " not in line) <= 100


def test_where_a_part_is_missing_it_is_told_with_its_reason_and_the_status_is_0():
    whole = as_json(run_below([], *COMMAND, "--json"))
    done = run_below([(["mount_setattr", "landlock_create_ruleset"], errno.ENOSYS)], *COMMAND, "--json")
    assert done.returncode == 0
    found = as_json(done)
    told = {finding["subject"]: finding["what"] for finding in found["findings"]}
    assert told["Landlock"] == "not in this kernel"
    assert "skeleton" in told["image files"]
    rw = found["features"]["mount_rw"]
    assert whole["features"]["mount_rw"]["present"]
    assert not rw["present"]
    assert rw["why"]
    assert rw["fix"]


def test_where_it_does_not_work_cause_and_fix_are_told_and_the_status_is_1():
    refused = [(["clone3"], errno.ENOSYS), (["unshare"], errno.EPERM)]
    done = run_below(refused, *COMMAND)
    assert (done.returncode, done.stderr) == (1, "")
    assert "NO  namespaces" in done.stdout
    assert "why: " in done.stdout
    assert "fix: " in done.stdout
    assert "kernel" in done.stdout
    found = as_json(run_below(refused, *COMMAND, "--json"))
    assert not found["works"]
    assert found["features"] == {}
    # Which container's filter it is, the marks of the host say.
    assert "system-call filter" in found["why"]
    assert "unshare failed with Operation not permitted" in found["why"]
    assert found["fix"]


def test_it_leaves_no_record_and_no_socket(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRLOCK_STATE_DIR", str(tmp_path / "state"))
    assert run_below([], *COMMAND).returncode == 0
    assert [path for path in (tmp_path / "state").rglob("*") if not path.is_dir()] == []


@pytest.mark.parametrize("provider", ["nothing-like-it"])
def test_a_provider_that_is_not_there_is_an_error(provider):
    done = run_below([], *COMMAND, "--provider", provider)
    assert done.returncode == 1
    assert f"'{provider}'" in done.stderr
    assert os.path.basename(__file__) not in done.stderr


def test_nobody_who_reads_on_is_no_failure_of_ours():
    """`airlock doctor | head -1`"""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(COMMAND, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
