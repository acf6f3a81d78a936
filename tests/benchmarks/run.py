"""Time the sandboxes against subprocess.run, bwrap, docker, podman and testcontainers; write docs/benchmarks.md.

python tests/benchmarks/run.py [--quick] [--rounds 60] [--resets 1000] [--output docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import charts
import network
import resets
import sandboxes
import scale
import suites
from contestants import contestants
from measure import interleave
from page import Results, load, machine, page
from subject import session

DOCS = Path(__file__).parents[2] / "docs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute instead of ten: few rounds, short curves")
    parser.add_argument("--rounds", type=int, help="rounds that count (60; quick: 6)")
    parser.add_argument("--resets", type=int, help="resets after which nothing may be left over (1,000; quick: 100)")
    parser.add_argument(
        "--image", default="airlock-bench", help="of docker and podman, with true(1) and sleep(1) in it"
    )
    parser.add_argument(
        "--output", type=Path, default=DOCS / "benchmarks.md", help="charts go to _static/benchmarks beside it"
    )
    options = parser.parse_args()
    options.rounds = options.rounds or (6 if options.quick else 60)
    options.resets = options.resets or (100 if options.quick else 1000)

    # Without their byte code the runs of pytest would time the compiler.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    results = measure(options)
    pictures = options.output.parent / "_static" / "benchmarks"
    pictures.mkdir(parents=True, exist_ok=True)
    charts.draw_bars(charts.bars(results.samples), pictures / "bars.svg")
    for name, plot in results.plots.items():
        charts.draw_plot(plot, pictures / f"{name}.svg")
    text = page(results, "_static/benchmarks")
    options.output.write_text(text)
    print(text)
    return 0


def measure(options: argparse.Namespace) -> Results:
    facts, warmups = machine(), 1 if options.quick else 3
    with ExitStack() as stack:
        enter = stack.enter_context
        found = enter(contestants(options.image))
        for name, absence in found.absent.items():
            say(f"{name} is not measured: {absence.why} (to install it: {absence.hint})")
        groups = [
            *found.groups,
            *sandboxes.groups(enter(session()), enter(session(spares=False))),
            *enter(network.groups(enter(session()))),
            *enter(suites.unused()),
            *enter(suites.thousand(every=20)),
            enter(suites.killed(every=5)),
        ]
        samples = interleave(
            groups,
            rounds=options.rounds,
            warmups=warmups,
            progress=lambda number: say(f"round {number} of {options.rounds}"),
        )
    facts["load after the last round"] = load()
    left = resets.left_over(options.resets)
    plots, crowded = scale.measure(scale.QUICK if options.quick else scale.FULL, say)
    samples = {**samples, **crowded, resets.LEFT: left.samples}
    return Results(samples, plots, left, found.versions, found.absent, facts, options.rounds, warmups)


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
