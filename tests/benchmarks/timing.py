"""The clock, and commands that must succeed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence

from measure import Case


def timed(work: Callable[[], object]) -> float:
    """Seconds it took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def execute(argv: Sequence[str]) -> bytes:
    """Its standard output; raises RuntimeError with all of its output if it fails."""
    done = subprocess.run(argv, capture_output=True, check=False)
    if done.returncode:
        output = (done.stdout + done.stderr).decode(errors="backslashreplace")
        raise RuntimeError(f"{' '.join(argv)} ended with {done.returncode}:\n{output}")
    return done.stdout


def command(argv: Sequence[str]) -> Case:
    return lambda: timed(lambda: execute(argv))
