"""Fail if a sandbox has become grossly slower than plain processes: ratios of one short interleaved run.

python tests/benchmarks/guard.py [--rounds 40]

Each bound is about three times what was measured on a quiet machine without spare sandboxes. Noise only ever makes things
slower, so what is too slow is measured once more, and counts only if it is too slow again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sandboxes
from contestants import BWRAP, SUBPROCESS, contestants
from measure import Samples, interleave
from subject import session
from targets import Taken
from units import number_text


@dataclass(frozen=True)
class Bound:
    """`case` may take at most `most` times as long as `reference` in the same round."""

    case: str
    reference: str
    most: float

    def measured(self, samples: Taken) -> float | None:
        """None where the reference is not installed."""
        reference: Samples | None = samples.get(self.reference)
        return None if reference is None else samples[self.case].ratio(reference)

    def line(self, measured: float | None) -> str:
        shown = "not measured" if measured is None else number_text(measured)
        verdict = "too slow" if self.broken(measured) else "ok"
        return f"{self.case:28} {shown:>12} × {self.reference:24} at most {self.most:g}  {verdict}"

    def broken(self, measured: float | None) -> bool:
        return measured is not None and measured > self.most


BOUNDS = (
    Bound(sandboxes.RUN, SUBPROCESS, 6),
    Bound(sandboxes.CREATE, SUBPROCESS, 35),
    Bound(sandboxes.CREATE, BWRAP, 6),
    Bound(sandboxes.RESET, SUBPROCESS, 25),
    Bound(sandboxes.BETWEEN, SUBPROCESS, 25),
    # With the spare that waits for the next.
    Bound(sandboxes.DESTROY, SUBPROCESS, 25),
    Bound(sandboxes.TEN, sandboxes.PLAIN_TEN, 6),
    # A diff's time is for each of its 1,000 files.
    Bound(sandboxes.DIFF, SUBPROCESS, 0.05),
)


def too_slow(bounds: Sequence[Bound], sample: Callable[[], Taken], say: Callable[[str], object]) -> list[Bound]:
    """The bounds that are broken in this run and, if any is, in one more."""
    for attempt in ("first", "second"):
        samples = sample()
        broken = []
        for bound in bounds:
            measured = bound.measured(samples)
            say(bound.line(measured))
            if bound.broken(measured):
                broken.append(bound)
        if not broken:
            return []
        bounds = broken
        if attempt == "first":
            say("measuring once more what was too slow")
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="rounds that count")
    options = parser.parse_args()

    def sample() -> Taken:
        with contestants(image=None) as others, session() as airlock:
            return interleave([*others.groups, *sandboxes.quick_groups(airlock)], rounds=options.rounds, warmups=3)

    broken = too_slow(BOUNDS, sample, print)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
