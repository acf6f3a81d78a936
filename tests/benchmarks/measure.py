"""Interleaved sampling: in every round each case once, so that what disturbs the machine disturbs all alike."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

#: Does the work once; returns what it took in the base unit of the case (seconds, bytes, or a count).
Case = Callable[[], float]


@dataclass(frozen=True)
class Group:
    """Cases that run one after the other in this order, in every `every`-th round."""

    cases: Mapping[str, Case]
    every: int = 1


@dataclass(frozen=True)
class Samples:
    """What one case took, by the number of the round."""

    name: str
    values: Mapping[int, float]

    @property
    def median(self) -> float:
        return statistics.median(self.values.values())

    def percentile(self, percent: int) -> float:
        values = list(self.values.values())
        if len(values) == 1:
            return values[0]
        return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]

    def ratio(self, other: Samples) -> float:
        """The median over the rounds of this by that of the same round: what drifts cancels out."""
        return statistics.median(mine / its for mine, its in self._paired(other))

    def difference(self, other: Samples) -> float:
        """The median over the rounds of this less that of the same round."""
        return statistics.median(mine - its for mine, its in self._paired(other))

    def _paired(self, other: Samples) -> Iterator[tuple[float, float]]:
        """Pairs of the same round; raises ValueError where the two have none."""
        shared = self.values.keys() & other.values.keys()
        if not shared:
            raise ValueError(f"{self.name!r} and {other.name!r} were never sampled in the same round")
        return ((self.values[number], other.values[number]) for number in sorted(shared))


def interleave(
    groups: Sequence[Group],
    *,
    rounds: int,
    warmups: int,
    seed: int = 1,
    progress: Callable[[int], object] = lambda _: None,
) -> dict[str, Samples]:
    """Sample the groups in random order, round by round, after `warmups` rounds of those that run in every round.

    A group that runs rarely begins in round 0, so that all of them are in the shortest run.
    """
    order = random.Random(seed)
    taken: dict[str, dict[int, float]] = {name: {} for group in groups for name in group.cases}
    for number in range(-warmups, rounds):
        progress(number)
        for group in order.sample(list(groups), len(groups)):
            if group.every > 1 and (number < 0 or number % group.every):
                continue
            for name, case in group.cases.items():
                value = case()
                if number >= 0:
                    taken[name][number] = value
    return {name: Samples(name, values) for name, values in taken.items()}
