"""SIGKILL at random moments to a run, one of its workers, a fork server or the first process of a sandbox, 200 times. Each
time the run must come to an end, the next one works and says what it removed, and then nothing is left.

python tests/soak/run_kills.py [--kills 200] [--seed N] [--seconds 480]
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from counting import abandoned_cgroups, children, command_of, descendants, inside, mounts, orphans, servers_below

SUITE = Path(__file__).parent / "killed_suite"
PR_SET_CHILD_SUBREAPER = 36
#: Seconds after which a run counts as hanging.
PATIENCE = 240.0
#: Seconds for processes that are dying.
GRACE = 5.0
NEXT = (
    "def test_next(airlock_sandbox):\n    assert airlock_sandbox.run(['cat', '/etc/hostname']).stdout == 'airlock\\n'\n"
)


def _workers(run: int) -> list[int]:
    return [pid for pid in children(run) if "exec(eval(sys.stdin.readline()))" in command_of(pid)]


def _agents(run: int) -> list[int]:
    return [pid for server in servers_below(run) for pid in children(server) if inside(pid)]


#: Whom to kill: the pids there are of that kind below a run.
VICTIMS: dict[str, Callable[[int], list[int]]] = {
    "pytest": lambda run: [run],
    "worker": _workers,
    "fork server": servers_below,
    "first process": _agents,
    "pytest and fork servers": lambda run: [run, *servers_below(run)] if servers_below(run) else [],
}
ALL_OF = frozenset({"pytest and fork servers"})


class Place(NamedTuple):
    """Directories of one round."""

    top: Path

    def make(self) -> None:
        for name in ("state", "tmp", "run", "next"):
            (self.top / name).mkdir(mode=0o700)
        (self.top / "next" / "test_next.py").write_text(NEXT)
        (self.top / "next" / "pytest.ini").write_text("[pytest]\n")

    def pytest(self, directory: Path, *arguments: str, output: Path) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "TMPDIR": str(self.top / "tmp"), "XDG_RUNTIME_DIR": str(self.top / "run")}
        argv = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--airlock-state-dir={self.top / 'state'}",
            *arguments, str(directory),
        ]  # fmt: skip
        with output.open("wb") as file:
            return subprocess.Popen(argv, cwd=directory, env=environment, stdout=file, stderr=subprocess.STDOUT)

    def left(self) -> list[str]:
        places = [self.top / name for name in ("state", "tmp", "run")]
        found = [path for place in places for path in place.rglob("*") if path.is_socket() or not path.is_dir()]
        return [f"file: {path.relative_to(self.top)}" for path in found if not _pytests_own(path)]


def _pytests_own(path: Path) -> bool:
    """It keeps the temporary directories of its last runs itself."""
    return any(part.startswith("pytest-of-") for part in path.parts)


class Round(NamedTuple):
    """`after` is a share of the time that the run takes when it is left alone."""

    victim: str
    workers: int
    after: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=20_250)
    parser.add_argument("--first", type=int, default=0, help="start at this kill: the same ones follow")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    options = parser.parse_args()
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")

    done: Counter[str] = Counter()
    faults: list[str] = []
    removed = 0
    started = time.monotonic()
    takes = {workers: undisturbed(workers) for workers in (0, 2)}
    for number in range(options.first, options.first + options.kills):
        if time.monotonic() - started > options.seconds:
            break
        chance = random.Random(f"{options.seed} {number}")
        plan = Round(chance.choice([*VICTIMS]), chance.choice((0, 2)), chance.random())
        if plan.victim == "worker":
            plan = plan._replace(workers=2)
        told, bad = one(plan, plan.after * takes[plan.workers], chance)
        done[plan.victim] += 1
        removed += told
        faults += [
            f"kill {number} ({plan.victim}, {plan.workers} workers, at {plan.after:.0%}): {fault}" for fault in bad
        ]
    shown = ", ".join(f"{count} {victim}" for victim, count in sorted(done.items()))
    print(
        f"kills: {done.total()} in {time.monotonic() - started:.0f} s, seed {options.seed} ({shown}); "
        f"the next runs removed {removed} sandboxes; {len(faults)} faults"
    )
    for fault in faults:
        print(f"  {fault}", file=sys.stderr)
    return int(bool(faults))


def undisturbed(workers: int) -> float:
    """Seconds that the suite takes now."""
    place = Place(Path(tempfile.mkdtemp(prefix="kill-")))
    place.make()
    try:
        started = time.monotonic()
        output = place.top / "out.txt"
        if place.pytest(SUITE, f"--numprocesses={workers}", output=output).wait(PATIENCE):
            raise SystemExit(f"the suite fails without a kill:\n{output.read_text(errors='backslashreplace')}")
        return time.monotonic() - started
    finally:
        shutil.rmtree(place.top)


def one(plan: Round, seconds: float, chance: random.Random) -> tuple[int, list[str]]:
    """Returns how many sandboxes the next run removed, and what was wrong."""
    # Short names: a socket has 107 bytes for its path.
    place = Place(Path(tempfile.mkdtemp(prefix="kill-")))
    place.make()
    mounted, grouped = mounts(), abandoned_cgroups()
    try:
        faults = _killed(plan, seconds, place, chance)
        # A worker of xdist whose controller is gone ends its test first, and cleans up.
        faults += [f"outlives the run: {name}" for name in orphans(PATIENCE if plan.workers else GRACE)]
        records = len(list((place.top / "state" / "records").glob("*.json")))
        output = place.top / "next.txt"
        run = place.pytest(place.top / "next", output=output)
        status = run.wait(PATIENCE)
        text = output.read_text(errors="backslashreplace")
        removed = text.count("removed sandbox ")
        if status or removed != records:
            faults.append(f"the next run: status {status}, {records} records, removed {removed}: {text[-2000:]}")
        faults += [f"process: {name}" for name in orphans(GRACE)]
        faults += [f"mount: {line}" for line in sorted(mounts() - mounted)]
        faults += [f"cgroup: {path}" for path in sorted(abandoned_cgroups() - grouped)]
        return removed, faults + place.left()
    finally:
        shutil.rmtree(place.top)


def _killed(plan: Round, seconds: float, place: Place, chance: random.Random) -> list[str]:
    """Start a run, kill somebody of it, and wait for its end."""
    run = place.pytest(SUITE, f"--numprocesses={plan.workers}", output=place.top / "killed.txt")
    time.sleep(seconds)
    victims: list[int] = []
    while run.poll() is None and not victims:
        victims = VICTIMS[plan.victim](run.pid)
        if not victims:
            time.sleep(0.002)
    for pid in victims if plan.victim in ALL_OF else victims and [chance.choice(victims)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    try:
        run.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        for pid in (run.pid, *descendants(run.pid)):
            os.kill(pid, signal.SIGKILL)
        run.wait()
        return [f"it hangs: {(place.top / 'killed.txt').read_text(errors='backslashreplace')[-2000:]}"]
    return []


if __name__ == "__main__":
    sys.exit(main())
