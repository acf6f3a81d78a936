"""Scores of the out-of-memory killer, as far as they can be tried without taking all memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_airlock.providers.namespaces.engine import oom

ENGINE = Path(oom.__file__).parent.parent


@pytest.mark.parametrize(("before", "after"), [("-500", "0"), ("-1", "0"), ("0", "0"), ("300", "300")])
def test_protection_is_given_up_and_nothing_else_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    score = tmp_path / "oom_score_adj"
    score.write_text(before)
    monkeypatch.setattr(oom, "_FILE", str(score))
    oom.give_up_protection()
    # The kernel's file takes one write as a whole; this one keeps what the shorter text does not cover.
    assert score.read_text() == after + before[len(after) :]


@pytest.mark.parametrize(("capped", "own"), [(True, "0"), (False, "900")])
def test_a_child_gets_the_score_and_its_parent_keeps_its_own(capped: bool, own: str) -> None:
    code = """
import os, sys
sys.path.insert(0, sys.argv[1])
from engine import oom
score = oom.CommandsFirst(capped=sys.argv[2] == "True")
def read(pid="self"):
    return open(f"/proc/{pid}/oom_score_adj").read().strip()
before = read()
read_end, write_end = os.pipe()
with score:
    pid = os.fork()
    if pid == 0:
        os.read(read_end, 1)
        os._exit(0)
print(before, read(), read(pid))
os.write(write_end, b"x")
os.waitpid(pid, 0)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(ENGINE), str(capped)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == [own, own, "1000"], done.stderr
