"""Contract 37: what of this host counts for the provider."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_airlock.providers.base import Finding, Provider


def test_c37_what_counts_is_told_and_what_is_not_ok_has_its_reason(examines: Any) -> None:
    found = examines.examine()
    assert [finding for finding in found if not isinstance(finding, Finding)] == []
    assert [finding for finding in found if not (finding.subject and finding.what)] == []
    assert [finding for finding in found if finding.ok is False and not (finding.why and finding.fix)] == []
    assert found


def test_c37_it_answers_before_anything_was_tried_and_leaves_nothing(
    examines: Any, new_provider: Callable[[], Provider]
) -> None:
    fresh: Any = new_provider()
    try:
        assert [finding.subject for finding in fresh.examine()] == [finding.subject for finding in examines.examine()]
    finally:
        fresh.close()
    fresh.close()
