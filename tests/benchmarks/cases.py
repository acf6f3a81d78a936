"""What is timed. Every case is a function that does the work once and returns the seconds it took."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_airlock import Sandbox

Case = Callable[[], float]

#: What `pytest_airlock` does for a sandbox, as near as bwrap comes to it: all name spaces, a read-only system, a private /tmp.
BWRAP = (
    "--unshare-all", "--die-with-parent", "--new-session", "--clearenv",
    "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib",
    "--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
)  # fmt: skip


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def command(argv: list[str]) -> Case:
    def run() -> None:
        done = subprocess.run(argv, capture_output=True, check=False)
        if done.returncode:
            output = (done.stdout + done.stderr).decode(errors="backslashreplace")
            raise RuntimeError(f"{' '.join(argv)} ended with {done.returncode}:\n{output}")

    return lambda: timed(run)


def references() -> dict[str, Case]:
    """Plain subprocess.run, and bwrap where it is installed and works."""
    true = shutil.which("true") or "/bin/true"
    cases = {"subprocess.run(true)": command([true])}
    bwrap = shutil.which("bwrap")
    if bwrap:
        argv = [bwrap, *BWRAP, "/usr/bin/true"]
        if subprocess.run(argv, capture_output=True, check=False).returncode == 0:
            cases["bwrap true"] = command(argv)
    return cases


class SandboxCases:
    """The life of a sandbox through the SandboxManager, with store and lease. Each round makes one and ends it."""

    def __init__(self, create: Callable[[], Sandbox], destroy: Callable[[Sandbox], None]) -> None:
        self._create = create
        self._destroy = destroy
        self._box: Sandbox | None = None

    def in_order(self) -> dict[str, Case]:
        """To be run in this order: the order is what makes `run` a warm one, and `reset` one of a used sandbox."""
        return {
            "create": self.create,
            "first run(true)": self.run,
            "run(true)": self.run,
            "reset": self.reset,
            "destroy": self.destroy,
        }

    @property
    def box(self) -> Sandbox:
        if self._box is None:
            raise RuntimeError("the cases run in order: create comes first")
        return self._box

    def create(self) -> float:
        start = time.perf_counter()
        self._box = self._create()
        return time.perf_counter() - start

    def run(self) -> float:
        box = self.box
        return timed(lambda: box.run(["true"], check=True))

    def reset(self) -> float:
        box = self.box
        box.path("/tmp/dirt").write_text("dirt")
        return timed(box.reset)

    def destroy(self) -> float:
        box, self._box = self.box, None
        return timed(lambda: self._destroy(box))


@contextmanager
def empty_runs() -> Iterator[dict[str, Case]]:
    """A pytest run of one test that uses nothing, with the plugin and with the plugin blocked."""
    with tempfile.TemporaryDirectory(prefix="airlock-bench-") as directory:
        Path(directory, "pytest.ini").write_text("[pytest]\n")
        Path(directory, "test_empty.py").write_text("def test_nothing():\n    pass\n")
        base = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", directory]
        yield {"plugin unused": command(base), "-p no:airlock": command([*base, "-p", "no:airlock"])}
