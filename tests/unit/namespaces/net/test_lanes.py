"""What one sandbox has of the dialler."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from pytest_airlock.providers.namespaces.engine.net import outside
from pytest_airlock.providers.namespaces.engine.net.outside import Lane
from pytest_airlock.providers.namespaces.engine.net.policy import NO_FAULT, Way

WAY = Way("192.0.2.1", 80, exact=True, check=False, trusted=False, fault=NO_FAULT)


class Loop:
    """Calls at once what is to be called later."""

    def later(self, _: float, call: Any) -> None:
        call()


class Outside:
    """Keeps who asked."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.asked: list[Any] = []

    def send(self, lane: Lane, asked: Any) -> None:
        self.asked.append(asked.done)

    def answer(self, lane: Lane, number: int) -> None:
        self.asked[number](errno.EHOSTUNREACH, None)
        lane.answered()


@pytest.fixture
def real() -> Outside:
    return Outside()


@pytest.fixture
def lane(real: Outside) -> Lane:
    return Lane(real)  # type: ignore[arg-type]


def ask(lane: Lane, told: list[int], *, wanted: bool = True) -> None:
    lane.dial(WAY, [], lambda code, _: told.append(code), wanted=lambda: wanted)


def test_some_are_under_way_and_the_next_begins_when_one_is_answered(lane: Lane, real: Outside) -> None:
    told: list[int] = []
    for _ in range(outside._UNDER_WAY + 3):
        ask(lane, told)
    assert len(real.asked) == outside._UNDER_WAY
    for number in range(outside._UNDER_WAY + 3):
        real.answer(lane, number)
    assert told == [errno.EHOSTUNREACH] * (outside._UNDER_WAY + 3)


def test_what_is_not_wanted_any_more_is_not_dialled(lane: Lane, real: Outside) -> None:
    told: list[int] = []
    for _ in range(outside._UNDER_WAY):
        ask(lane, told)
    for _ in range(100):
        ask(lane, told, wanted=False)
    real.answer(lane, 0)
    assert len(real.asked) == outside._UNDER_WAY
    assert told == [errno.EHOSTUNREACH, *[errno.ECANCELED] * 100]


def test_who_waits_is_bounded(lane: Lane) -> None:
    told: list[int] = []
    for _ in range(outside._UNDER_WAY + outside._WAITING + 1):
        ask(lane, told)
    assert told == [errno.EAGAIN]


def test_of_a_life_that_is_over_nothing_begins(lane: Lane, real: Outside) -> None:
    told: list[int] = []
    for _ in range(outside._UNDER_WAY + 5):
        ask(lane, told)
    lane.close()
    real.answer(lane, 0)
    assert len(real.asked) == outside._UNDER_WAY
