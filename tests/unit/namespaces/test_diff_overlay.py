"""diff against the kernel's own overlay: random work, several snapshots, compared with walks before and after."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_airlock.providers.namespaces.engine as engine

ROUNDS = 15


@pytest.mark.parametrize("seed", [1, 1001, 2001, 3001])
def test_changes_are_what_a_walk_before_and_after_says(tmp_path: Path, seed: int) -> None:
    """In a mount name space of its own; as an ordinary user in a user name space too."""
    mapped = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    oracle = Path(__file__).with_name("overlay_oracle.py")
    parent = Path(next(iter(engine.__path__))).parent
    command = ["unshare", *mapped, "--mount", "--propagation", "private", sys.executable, "-I", "-S", str(oracle)]
    done = subprocess.run(
        [*command, str(parent), str(tmp_path), str(seed), str(ROUNDS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
