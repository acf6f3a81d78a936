"""Time the sandboxes against subprocess.run and bwrap and write docs/benchmarks.md.

python tests/benchmarks/run.py [--rounds 60] [--output docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from cases import BWRAP, SandboxCases, empty_runs, references
from measure import interleave
from page import METHOD, machine, page
from subject import subject

OUTPUT = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="rounds that count")
    parser.add_argument("--warmups", type=int, default=5, help="rounds before them")
    parser.add_argument("--unused-rounds", type=int, default=30, help="pytest runs with and without the plugin")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()

    facts = machine()
    with tempfile.TemporaryDirectory(prefix="airlock-bench-") as state, subject(Path(state)) as (create, destroy):
        groups = [*({name: case} for name, case in references().items()), SandboxCases(create, destroy).in_order()]
        samples = interleave(groups, rounds=options.rounds, warmups=options.warmups)
    with empty_runs() as runs:
        groups = [{name: case} for name, case in runs.items()]
        unused = interleave(groups, rounds=options.unused_rounds, warmups=2)
    method = METHOD.format(
        rounds=options.rounds,
        warmups=options.warmups,
        unused_rounds=options.unused_rounds,
        bwrap_options=" ".join(BWRAP),
    )
    text = page(samples, unused, facts, method)
    options.output.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
