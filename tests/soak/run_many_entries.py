"""A sandbox with a million entries against everything on the host that reads it: how long, how much memory, and what is left.

python tests/soak/run_many_entries.py [--entries 890000]
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_airlock import create_sandbox

#: Megabytes that one call may take for itself.
MOST = 1024

MAKE = """
import os, sys
left = int(sys.argv[1])
os.mkdir("/opt/t")
for number in range(1_000_000):
    os.mkdir(f"/opt/t/{number}")
    os.chdir(f"/opt/t/{number}")
    left -= 1
    for name in range(min(left, 20_000)):
        os.mknod(f"{name}")
        left -= 1
    if left <= 0: break
os.mkdir("/opt/flat")
for name in range(100_001): os.mknod(f"/opt/flat/{name}")
"""


@contextmanager
def measured(what: str, peaks: dict[str, int]) -> Iterator[None]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, proc_pid_clear_refs(5)
    before, start = _peak(), time.monotonic()
    try:
        yield
    finally:
        peaks[what] = _peak() - before
        print(f"{what:12} {time.monotonic() - start:8.1f} s {peaks[what]:6} MiB more than before", flush=True)


def _peak() -> int:
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM:")) // 1024


def says(call: Callable[[], object]) -> str:
    """The result, or the error that is one of the outcomes."""
    try:
        return str(call())
    except OSError as error:
        return f"{type(error).__name__}: {error.strerror}"


def look(place: Path, entries: int, peaks: dict[str, int]) -> list[str]:
    """Make them and have all readers look; what the sandbox shows after its reset."""
    with create_sandbox(disk="4GiB") as sandbox:
        with measured("make", peaks):
            sandbox.run([sys.executable, "-I", "-c", MAKE, str(entries)], check=True)
        calls: dict[str, Callable[[], object]] = {
            "diff": lambda: len(sandbox.diff().added),
            "diff text": lambda: len(str(sandbox.diff())),
            "listdir": lambda: len(list(sandbox.path("/opt/flat").iterdir())),
            "glob": lambda: len(list(sandbox.path("/opt").glob("**/*"))),
            "copy_out": lambda: sandbox.copy_out("/opt/t", place / "out").files,
            "rmtree": lambda: sandbox.path("/opt/t").rmtree(),
            "reset": sandbox.reset,
        }
        for what, call in calls.items():
            with measured(what, peaks):
                outcome = says(call)
            print(f"{'':12} {outcome}", flush=True)
        found: list[str] = sandbox.shell("ls -A /opt /tmp").stdout.split()
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=890_000, help="beside 100,002 that are in one directory")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    peaks: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        os.environ["AIRLOCK_STATE_DIR"] = f"{name}/state"
        left = look(Path(name), options.entries, peaks)
        shutil.rmtree(Path(name, "out"), ignore_errors=True)
    print(f"left in the sandbox: {left}; peak of all: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")
    return int(left != ["/opt:", "/tmp:"] or max(peaks.values()) > MOST)


if __name__ == "__main__":
    sys.exit(main())
