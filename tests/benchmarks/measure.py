"""Interleaved sampling: in every round each case once, so that what disturbs the machine disturbs all alike."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyperf

Group = Mapping[str, Callable[[], float]]


@dataclass(frozen=True)
class Samples:
    """The times of one case in seconds, one per round."""

    name: str
    values: tuple[float, ...]

    @property
    def _benchmark(self) -> pyperf.Benchmark:
        run = pyperf.Run(list(self.values), metadata={"name": self.name}, collect_metadata=False)
        return pyperf.Benchmark([run])

    @property
    def median(self) -> float:
        return float(self._benchmark.median())

    def percentile(self, percent: float) -> float:
        return float(self._benchmark.percentile(percent))

    def ratio(self, other: Samples) -> float:
        """The median over the rounds of this time by that of the same round: what drifts cancels out."""
        return statistics.median(mine / its for mine, its in zip(self.values, other.values, strict=True))

    def difference(self, other: Samples) -> float:
        """The median over the rounds of this time less that of the same round, in seconds."""
        return statistics.median(mine - its for mine, its in zip(self.values, other.values, strict=True))


def interleave(groups: Sequence[Group], *, rounds: int, warmups: int, seed: int = 1) -> dict[str, Samples]:
    """Sample every case once per round: groups in random order, the cases of a group in theirs."""
    order = random.Random(seed)
    taken: dict[str, list[float]] = {name: [] for group in groups for name in group}
    for number in range(warmups + rounds):
        for group in order.sample(list(groups), len(groups)):
            for name, case in group.items():
                seconds = case()
                if number >= warmups:
                    taken[name].append(seconds)
    return {name: Samples(name, tuple(values)) for name, values in taken.items()}
