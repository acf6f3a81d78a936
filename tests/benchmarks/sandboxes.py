"""What a sandbox takes, through the SandboxManager with store and lease."""

from __future__ import annotations

import subprocess
import time

from contestants import TEN_MB
from measure import Case, Group
from subject import SPEC
from timing import timed

from pytest_airlock import Sandbox
from pytest_airlock.orchestrator import AirlockSession

CREATE, FIRST_RUN, RUN, RESET, DESTROY = "create", "first run(true)", "run(true)", "reset()", "destroy"
BETWEEN = "reset between tests"
UNSPARED_CREATE, UNSPARED_RESET, UNSPARED_DESTROY = "create, no spare", "reset(), no spare", "destroy, no spare"
PLAIN_TEN, TEN = "subprocess.run, 10 MB", "run, 10 MB"
SNAPSHOT, DIFF = "snapshot of {} MB", "diff, per changed file"
DIFF_FILES = 1000
SIZES = (1, 100, 400)


def groups(session: AirlockSession, unspared: AirlockSession) -> list[Group]:
    """All cases of a sandbox. `unspared` is a session that keeps no spare."""
    used = session.create_named(SPEC, "benchmark")
    return [
        Group(Life(session).cases()),
        Group({BETWEEN: Between(session)}),
        Group(Life(unspared).unspared()),
        Group({PLAIN_TEN: plain_ten}, every=2),
        Group({TEN: ten(used)}, every=2),
        *(Group({SNAPSHOT.format(size): Snapshots(used, size)}, every=4) for size in SIZES),
        Group({DIFF: Diffs(used, DIFF_FILES)}, every=4),
    ]


def quick_groups(session: AirlockSession) -> list[Group]:
    """What a gross regression would show in."""
    used = session.create_named(SPEC, "benchmark")
    return [
        Group(Life(session).cases()),
        Group({BETWEEN: Between(session)}),
        Group({PLAIN_TEN: plain_ten}),
        Group({TEN: ten(used)}),
        Group({DIFF: Diffs(used, DIFF_FILES)}),
    ]


def ten(box: Sandbox) -> Case:
    return lambda: timed(lambda: box.run(TEN_MB, check=True, text=False))


def plain_ten() -> float:
    return timed(lambda: subprocess.run(TEN_MB, capture_output=True, check=True))


class Life:
    """Each round makes a sandbox and ends it."""

    def __init__(self, session: AirlockSession) -> None:
        self._session = session
        self._box: Sandbox | None = None

    def cases(self) -> dict[str, Case]:
        """The order is what makes `run` a warm one, and `reset` one of a used sandbox."""
        return {
            CREATE: self.create,
            FIRST_RUN: self.run,
            RUN: self.run,
            RESET: self.reset,
            DESTROY: self.destroy,
        }

    def unspared(self) -> dict[str, Case]:
        return {
            UNSPARED_CREATE: self.create,
            UNSPARED_RESET: self.reset,
            UNSPARED_DESTROY: self.destroy,
        }

    @property
    def box(self) -> Sandbox:
        if self._box is None:
            raise RuntimeError("the cases run in order: create comes first")
        return self._box

    def create(self) -> float:
        start = time.perf_counter()
        self._box = self._session.create_named(SPEC, "benchmark")
        return time.perf_counter() - start

    def run(self) -> float:
        box = self.box
        return timed(lambda: box.run(["true"], check=True))

    def reset(self) -> float:
        dirty(self.box)
        return timed(self.box.reset)

    def destroy(self) -> float:
        box, self._box = self.box, None
        # What is never pooled is destroyed when it is released.
        return timed(lambda: self._session.release(box))


class Between:
    """From the hand-back of a used sandbox to a pristine one in the hands of the next test."""

    def __init__(self, session: AirlockSession) -> None:
        self._session = session
        self._box = session.acquire(SPEC)

    def __call__(self) -> float:
        dirty(self._box)
        start = time.perf_counter()
        self._session.release(self._box)
        self._box = self._session.acquire(SPEC)
        return time.perf_counter() - start


class Snapshots:
    """A snapshot of as many MB, changed since the last; then back to the beginning."""

    def __init__(self, box: Sandbox, megabytes: int) -> None:
        self._box = box
        self._write = ["dd", "if=/dev/zero", "of=/usr/local/big", "bs=1M", f"count={megabytes}"]

    def __call__(self) -> float:
        self._box.run(self._write, check=True)
        taken = timed(self._box.snapshot)
        self._box.reset()
        return taken


class Diffs:
    """Seconds for each file of a diff of so many new ones."""

    def __init__(self, box: Sandbox, files: int) -> None:
        self._box, self._files = box, files

    def __call__(self) -> float:
        make = f"mkdir /usr/local/many && cd /usr/local/many && seq {self._files} | split -l 1 -a 5 -d"
        self._box.shell(make, check=True)
        start = time.perf_counter()
        found = self._box.diff()
        taken = time.perf_counter() - start
        self._box.reset()
        if len(found.added) != self._files + 1:
            raise RuntimeError(f"{len(found.added)} paths were found, not {self._files} files and their directory")
        return taken / self._files


def dirty(box: Sandbox) -> None:
    """A used sandbox: a command ran in it and left a file."""
    box.path("/tmp/dirt").write_text("dirt")
    box.run(["true"], check=True)
