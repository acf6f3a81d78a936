"""Where the search for a free range of ids begins."""

from __future__ import annotations

from itertools import islice

import pytest

from pytest_airlock.providers.namespaces.engine import identity


def test_the_search_begins_behind_the_ranges_taken_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_lines", lambda _: [])
    monkeypatch.setattr(identity, "_named_ids", list)
    monkeypatch.setattr(identity, "_extents", lambda _: [(0, 1 << 32)])
    first = list(islice(identity._ranges(0), 600))
    assert [next(identity._ranges(number)) for number in range(600)] == first
    assert len(set(first)) == 600


def test_every_range_is_tried_wherever_the_search_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_named_ids", list)
    assert sorted(identity._ranges(0)) == sorted(identity._ranges(500))
