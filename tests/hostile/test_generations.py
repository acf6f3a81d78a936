"""A spare shares the host ids of the world that still runs: what neighbours may not do, they may not do with one id range either."""

from __future__ import annotations

from collections.abc import Callable

import attacks
import pytest
import weakenings
from attacker import Box

ALL = [
    attack for attack in attacks.load() if attack.run.__module__ == "attacks_neighbours" or "neighbour" in attack.name
]


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
def test_rule20_one_range_of_ids_gives_neighbours_nothing(
    attack: attacks.Attack, make_weak_box: Callable[..., Box], mode: str
) -> None:
    """As root ranges differ otherwise; a world and its spare share one always."""
    box = make_weak_box(weakenings.SHARED_IDS, **attack.words)
    box.user = "root" if mode != "single" else None
    assert attack.run(box) == attacks.value_for(attack.expected, mode, "root")


def test_rule20_the_next_world_is_there_while_the_old_one_runs_and_they_do_not_meet(
    box: Box, row: Callable[..., None]
) -> None:
    """With its first process stopped by the host's hand the old world cannot even be told: nothing of it is needed."""
    snapshot = box.provider.snapshot(box.handle)
    inits = []
    for _ in range(4):
        box.provider.reset(box.handle, snapshot)
        inits.append(box.init)
        box.spawn("sleep 1000 & sleep 1000").close()
    assert len(set(inits)) == 4
    assert box.attack("answer = sorted(int(name) for name in os.listdir('/proc') if name.isdigit())")[0] == 1
