"""Spares that cannot be made are no fault of who asked for something else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_airlock.providers.namespaces.engine import seats
from pytest_airlock.providers.namespaces.engine.cgroup_tree import CgroupError
from pytest_airlock.providers.namespaces.engine.lives import Recipe
from pytest_airlock.providers.namespaces.engine.syscalls import StepError


@pytest.mark.parametrize("error", [StepError(28, "clone3"), CgroupError(28, "cgroup memory", "/g")])
def test_a_spare_that_fails_waits_for_who_needs_it_to_be_told(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    """A server that died of it would take every sandbox along."""
    tried: list[Recipe] = []

    def begin(recipe: Recipe, _slot: object) -> None:
        tried.append(recipe)
        raise error

    monkeypatch.setattr(seats, "_has_room", lambda: True)
    places = seats.Seats(cast("Any", SimpleNamespace(begin=begin)), cast("Any", SimpleNamespace(probe=object())))
    recipe = Recipe(cast("Any", SimpleNamespace(number=1, covers_shared=False)), (), {})
    seat = places.sit(recipe)
    for _ in range(2):  # a spare is for what was asked for before
        places.refill(seat, recipe)
    assert tried == [recipe]
    assert seat.spare is None
