"""What a FakeProvider remembers of one sandbox, and the features that it claims."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pytest_airlock.providers.base import FEATURES, Absence, Attempt, Features, NetworkRule, ProviderSpec
from pytest_airlock.testing.files import FakeFiles, Node
from pytest_airlock.testing.process import World

__all__ = ["FakeSandbox", "choose_features"]


@dataclass
class FakeSandbox:
    """`world` is None while it does not run; `generation` counts its starts."""

    spec: ProviderSpec
    files: FakeFiles
    world: World | None = None
    generation: int = 0
    snapshots: dict[str, Node] = field(default_factory=dict)
    rule: NetworkRule = field(default_factory=NetworkRule)
    attempts: list[Attempt] = field(default_factory=list)
    visits: int = 0


def choose_features(given: Features | Iterable[str] | None) -> Features:
    if isinstance(given, Features):
        return given
    present = frozenset(FEATURES if given is None else given)
    if unknown := present - FEATURES.keys():
        raise ValueError(f"not in FEATURES: {', '.join(sorted(unknown))}")
    missing = {
        feature: Absence("this fake was told so", "put it into FakeProvider(features=…)")
        for feature in FEATURES
        if feature not in present
    }
    return Features(present, missing)
