"""Ten thousand resets in one process: nothing may grow, and nothing be left. Writes docs/soak.svg when asked to.

python tests/soak/run_resets.py [--resets 10000] [--plot docs/soak.svg]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from counting import Counts, abandoned_cgroups, children, command_of, count, mounts
from lines import Line, plot

from pytest_airlock import SandboxSpec
from pytest_airlock.orchestrator import AirlockSession, Setup

#: The first tenth fills caches and free lists; from then on anonymous memory may grow by this much at most, by the line
#: through all samples (least squares).
GROWTH_KIB = 1024
SAMPLES = 40
MESS = "echo dirt > /etc/dirt; rm -f /etc/passwd; (setsid sleep 1000 > /dev/null 2>&1 &)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resets", type=int, default=10_000)
    parser.add_argument("--plot", type=Path, help="where the picture of the memory goes")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        state, temporary, runtime = (Path(name, part) for part in ("state", "tmp", "run"))
        for directory in (state, temporary, runtime):
            directory.mkdir(mode=0o700)
        os.environ |= {"TMPDIR": str(temporary), "XDG_RUNTIME_DIR": str(runtime)}
        before = _outside()
        started = time.monotonic()
        samples = soak(options.resets, state, (state, temporary, runtime))
        seconds = time.monotonic() - started
        faults = [*grown(samples), *_left(before)]
        faults += [f"file: {path}" for path in Path(name).rglob("*") if not path.is_dir()]
    if options.plot is not None:
        options.plot.write_text(picture(samples, options.resets))
    first, last = settled(samples)[0][1], samples[-1][1]
    print(
        f"resets: {options.resets:,} in {seconds:.0f} s; test process {first.client_kib:,} to {last.client_kib:,} KiB, "
        f"fork server {first.server_kib:,} to {last.server_kib:,} KiB, network process {first.network_kib:,} to {last.network_kib:,} KiB; "
        f"{len(faults)} left over or grown"
    )
    for fault in faults:
        print(f"  {fault}", file=sys.stderr)
    return int(bool(faults))


def soak(resets: int, state: Path, directories: tuple[Path, ...]) -> list[tuple[int, Counts]]:
    """Hand out and take back, as tests do; every tenth time something runs, every fiftieth it leaves a mess."""
    session = AirlockSession(Setup(state_dir=state))
    spec = SandboxSpec(profile="cautious")
    samples = []
    try:
        for number in range(resets + 1):
            box = session.acquire(spec)
            if number % 50 == 7:
                if box.path("/etc/dirt").exists():
                    raise SystemExit(f"reset {number} left the dirt of another")
                box.shell(MESS, check=True)
            elif number % 10 == 0:
                box.run(["getent", "hosts", "soak.example.org"])
                if len(box.network.attempts) != 2:
                    raise SystemExit(f"after reset {number}: {box.network.attempts!r}")
            if number % max(1, resets // SAMPLES) == 0:
                samples.append((number, count(directories)))
            session.release(box)
    finally:
        session.close()
    return samples


def settled(samples: list[tuple[int, Counts]]) -> list[tuple[int, Counts]]:
    return samples[len(samples) // 10 :]


def grown(samples: list[tuple[int, Counts]]) -> list[str]:
    """What there is more of at the end than after the first tenth."""
    rest = settled(samples)
    faults = []
    for index, name in enumerate(Counts._fields):
        values = [counts[index] for _, counts in rest]
        if name.endswith("_kib"):
            growth = slope([number for number, _ in rest], values) * (rest[-1][0] - rest[0][0])
            if growth > GROWTH_KIB:
                faults.append(f"{name}: grows by {growth:,.0f} KiB, {values[0]:,} to {values[-1]:,}")
        elif values[-1] > max(values[: len(values) // 2 + 1]):
            faults.append(f"{name}: {values[0]} to {values[-1]}")
    return faults


def slope(xs: list[int], ys: list[int]) -> float:
    middle, level = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - middle) * (y - level) for x, y in zip(xs, ys, strict=True)) / (
        sum((x - middle) ** 2 for x in xs) or 1
    )


def _outside() -> tuple[set[str], set[str], int]:
    return mounts(), abandoned_cgroups(), len(os.listdir("/proc/self/fd"))


def _left(before: tuple[set[str], set[str], int]) -> list[str]:
    now = _outside()
    left = [f"process {pid}: {command_of(pid)}" for pid in children(os.getpid())]
    left += [f"mount: {line}" for line in sorted(now[0] - before[0])]
    left += [f"cgroup: {path}" for path in sorted(now[1] - before[1])]
    if now[2] > before[2]:
        left.append(f"descriptors of the test process: {before[2]} before, {now[2]} after")
    return left


def picture(samples: list[tuple[int, Counts]], resets: int) -> str:
    xs = [number for number, _ in samples]
    lines = [
        Line("test process", xs, [counts.client_kib / 1024 for _, counts in samples]),
        Line("fork server", xs, [counts.server_kib / 1024 for _, counts in samples]),
        Line("network process", xs, [counts.network_kib / 1024 for _, counts in samples]),
    ]
    return plot(f"Memory of the two processes over {resets:,} resets", "resets", "MiB", lines)


if __name__ == "__main__":
    sys.exit(main())
