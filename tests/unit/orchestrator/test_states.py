from __future__ import annotations

import itertools

import pytest

from pytest_airlock.errors import InvalidTransition
from pytest_airlock.models import State
from pytest_airlock.orchestrator.states import TRANSITIONS, check_transition, require_healthy


@pytest.mark.parametrize(("old", "new"), list(itertools.product(State, State)))
def test_what_the_table_has_not_raises_and_names_what_is_allowed(old: State, new: State) -> None:
    if old is new or new in TRANSITIONS[old]:
        check_transition("box", old, new)
        return
    with pytest.raises(InvalidTransition) as caught:
        check_transition("box", old, new)
    assert set(caught.value.allowed) == {str(state) for state in TRANSITIONS[old]}


def test_r07_nothing_follows_errored_and_everything_may_become_it() -> None:
    assert TRANSITIONS[State.ERRORED] == set()
    assert all(State.ERRORED in TRANSITIONS[state] for state in State if state is not State.ERRORED)


@pytest.mark.parametrize("state", [State.CREATING, State.ERRORED])
def test_what_is_being_made_or_errored_cannot_be_used(state: State) -> None:
    with pytest.raises(InvalidTransition, match=str(state)):
        require_healthy("box", state)
    require_healthy("box", State.STOPPED)
