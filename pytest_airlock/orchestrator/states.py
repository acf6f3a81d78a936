"""The one table of states: what may follow what."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_airlock.errors import InvalidTransition
from pytest_airlock.models import State

__all__ = ["TRANSITIONS", "check_transition", "require_healthy"]

#: `errored` is sticky: nothing follows it, only destroy ends it. Removal is not a state: the record is gone.
TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.CREATING: frozenset({State.RUNNING, State.ERRORED}),
    State.RUNNING: frozenset({State.STOPPED, State.ERRORED}),
    State.STOPPED: frozenset({State.RUNNING, State.ERRORED}),
    State.ERRORED: frozenset(),
}


def check_transition(name: str, old: State, new: State) -> None:
    """InvalidTransition unless `new` may follow `old`; staying is always allowed."""
    if new is not old and new not in TRANSITIONS[old]:
        raise InvalidTransition(name, str(old), str(new), map(str, TRANSITIONS[old]))


def require_healthy(name: str, old: State, wanted: State = State.RUNNING) -> None:
    """InvalidTransition if the sandbox is still being made or is errored: nothing can be done in it then."""
    if old in (State.CREATING, State.ERRORED):
        raise InvalidTransition(name, str(old), str(wanted), map(str, TRANSITIONS[old] - {State.RUNNING}))
