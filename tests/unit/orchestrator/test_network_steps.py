"""What locking, unlocking and allowing make of a policy, and what a profile lets it be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_airlock.errors import InvalidSpec, ProfileForbids
from pytest_airlock.models import MAX_ALLOW, Network
from pytest_airlock.orchestrator.policy.networks import (
    Policy,
    allowing,
    check_network,
    locking,
    modes_of,
    replacing,
    unlocking,
)

LOCKED, OPEN, HOST = (Network(mode=mode) for mode in ("locked", "open", "host"))
ONE = Network(mode="allow", allow=("one:1",))
PRIVATE = Network(mode="open", allow=("10.0.0.5:5432",))


@pytest.mark.parametrize("before", [ONE, OPEN, PRIVATE, HOST])
def test_r46_unlocking_goes_back_to_what_was_locked(before: Network) -> None:
    locked = locking(Policy(before))
    assert locked == Policy(LOCKED, before)
    assert locking(locked) == locked
    assert unlocking(locked) == Policy(before)


def test_unlocking_what_nobody_locked_opens_and_closes_nothing() -> None:
    assert unlocking(Policy(LOCKED)) == Policy(OPEN)
    assert unlocking(Policy(ONE)).network == Network(mode="open", allow=("one:1",))
    assert unlocking(Policy(PRIVATE)) == Policy(PRIVATE)
    assert unlocking(Policy(HOST)) == Policy(HOST)


def test_allowing_adds_to_what_is_reached() -> None:
    add = allowing(["Two:2", "one:1"])
    assert add(Policy(LOCKED)).network == Network(mode="allow", allow=("two:2", "one:1"))
    assert add(Policy(ONE)).network == Network(mode="allow", allow=("one:1", "two:2"))
    assert add(Policy(OPEN)).network == Network(mode="open", allow=("two:2", "one:1"))
    assert add(Policy(HOST)).network == HOST


def test_r46_what_was_allowed_while_locked_is_kept_whoever_locks_again() -> None:
    now = allowing(["two:2"])(locking(Policy(ONE)))
    assert now.network == Network(mode="allow", allow=("two:2",))
    both = Network(mode="allow", allow=("one:1", "two:2"))
    assert unlocking(now) == Policy(both)
    assert locking(now) == Policy(LOCKED, both)


def test_replacing_forgets_but_what_it_locks_can_be_unlocked() -> None:
    assert replacing(OPEN)(Policy(LOCKED, ONE)) == Policy(OPEN)
    assert replacing(LOCKED)(Policy(ONE)) == Policy(LOCKED, ONE)


@pytest.mark.parametrize("entries", [["nonsense"], [], ["a:1"] * (MAX_ALLOW + 1)])
def test_what_is_no_entry_is_refused(entries: list[str]) -> None:
    with pytest.raises(InvalidSpec, match="allow"):
        allowing(entries)


def test_too_many_together_are_refused_when_they_are_added_so_that_locking_never_is() -> None:
    full = Network(mode="allow", allow=tuple(f"h{number}:1" for number in range(MAX_ALLOW)))
    for now in (Policy(full), locking(Policy(full))):
        with pytest.raises(InvalidSpec, match="1,001 entries"):
            allowing(["one.more:1"])(now)


@given(st.lists(st.sampled_from([locking, unlocking, allowing(["a:1"]), allowing(["b:2"]), replacing(ONE)])))
def test_r46_nothing_that_was_allowed_is_ever_lost_by_locking(steps) -> None:
    now, allowed = Policy(LOCKED), set()
    for step in steps:
        after = step(now)
        if step is locking:
            assert after.network == LOCKED
            assert unlocking(after).network in (now.network, unlocking(now).network)
        if step is unlocking:
            assert set(after.network.allow) >= allowed
            assert after.before_lock is None
        now = after
        allowed = set(unlocking(now).network.allow)


def test_a_profile_needs_a_mode_for_each_thing_that_a_policy_does() -> None:
    assert modes_of(PRIVATE) == ("open", "allow")
    check_network(OPEN, "half", ("locked", "open"))
    with pytest.raises(ProfileForbids, match="profile 'half'"):
        check_network(PRIVATE, "half", ("locked", "open"))
    for wrong in (Network(mode="locked", allow=("a:1",)), Network(mode="host", allow=("a:1",)), Network(mode="allow")):
        with pytest.raises(InvalidSpec, match=r"network\.allow"):
            check_network(wrong, "all", ("locked", "allow", "open", "host"))
