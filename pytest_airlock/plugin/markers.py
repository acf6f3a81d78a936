"""The check of `@pytest.mark.airlock(...)` on the tests that were selected: all faults of a run at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_airlock.plugin.run import Run

__all__ = ["MARKER", "marker_faults", "marker_layers"]

MARKER = "airlock"

#: The fixtures that read markers. Session sandboxes serve many tests, so no marker of one of them can count.
_READERS = frozenset({"airlock_sandbox", "airlock_factory"})
_SHOWN = 3


def marker_layers(item: pytest.Item) -> list[dict[str, object]]:
    """The words of an item's markers, closest first."""
    return [dict(mark.kwargs) for mark in item.iter_markers(MARKER)]


def marker_faults(items: Iterable[pytest.Item], run: Run) -> Iterator[str]:
    """Every fault of every marker, each once, however many tests have it."""
    seen: dict[int, pytest.Mark] = {}
    unread: dict[int, tuple[str, list[str]]] = {}
    for item in items:
        # pytest has no public type for "an item with fixtures"; doctest and custom items may have none.
        reads = not _READERS.isdisjoint(getattr(item, "fixturenames", ()))
        for node, mark in item.iter_markers_with_node(MARKER):
            where = f"marker of {_place(node)}"
            if not reads:
                unread.setdefault(id(mark), (where, []))[1].append(_place(item))
            if id(mark) not in seen:
                # Kept, not only its id: a collected mark's id could be given to another.
                seen[id(mark)] = mark
                yield from _faults(mark, where, run)
    for where, tests in unread.values():
        yield _unread(where, list(dict.fromkeys(tests)))


def _faults(mark: pytest.Mark, where: str, run: Run) -> Iterator[str]:
    from pytest_airlock.orchestrator.policy.merge import faults

    if mark.args:
        given = ", ".join(map(repr, mark.args))[:200]
        yield f"{where}: airlock({given}) is not valid: it takes keywords only (write airlock(profile={mark.args[0]!r}))"
    known = run.known
    yield from faults(mark.kwargs, where=where, known=known)
    profile = mark.kwargs.get("profile")
    if profile in known["profile"] and (fault := run.exceeds_cap(str(profile))):
        yield f"{where}: {fault}"


def _unread(where: str, tests: Sequence[str]) -> str:
    names = ", ".join(tests[:_SHOWN]) + (f" and {len(tests) - _SHOWN} more" if len(tests) > _SHOWN else "")
    return (
        f"{where}: it changes nothing for {names}: no airlock_sandbox or airlock_factory is used there (ask for one, "
        "move the marker to the tests that do, or set session sandboxes by an airlock_spec fixture)"
    )


def _place(node: Any) -> str:
    """The id of a node (pytest.Node is not public), without parameters: one function has one marker."""
    original = getattr(node, "originalname", None)
    return f"{node.parent.nodeid}::{original}" if original else str(node.nodeid)
