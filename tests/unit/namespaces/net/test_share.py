"""What one sandbox has of the dialler."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from pytest_airlock.providers.namespaces.engine.net import outside
from pytest_airlock.providers.namespaces.engine.net.outside import Share
from pytest_airlock.providers.namespaces.engine.net.policy import NO_FAULT, Way

WAY = Way("192.0.2.1", 80, exact=True, check=False, trusted=False, fault=NO_FAULT)


class Outside:
    """Keeps who asked; `refuse` tells at once, where the real one waits for the next turn."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def dial(self, way: Way, listed: list[Any], done: Any, kind: str) -> None:
        self.asked.append(done)

    def look_up(self, name: str, listed: list[Any], done: Any) -> None:
        self.asked.append(lambda code, _: done(code))

    def refuse(self, done: Any, code: int = errno.ENOTCONN) -> None:
        done(code, None)


@pytest.fixture
def real() -> Outside:
    return Outside()


@pytest.fixture
def share(real: Outside) -> Share:
    return Share(real)  # type: ignore[arg-type]


def ask(share: Share, told: list[int], *, wanted: bool = True) -> None:
    share.dial(WAY, [], lambda code, _: told.append(code), wanted=lambda: wanted)


def test_some_are_open_and_the_next_begins_when_one_is_answered(share: Share, real: Outside) -> None:
    told: list[int] = []
    for _ in range(outside._MOST_OPEN + 2):
        ask(share, told)
    share.look_up("example.com", [], told.append)
    assert len(real.asked) == outside._MOST_OPEN
    for number in range(outside._MOST_OPEN + 3):
        real.asked[number](number, None)
    assert told == list(range(outside._MOST_OPEN + 3))


def test_what_is_not_wanted_any_more_is_not_dialled(share: Share, real: Outside) -> None:
    told: list[int] = []
    for _ in range(outside._MOST_OPEN):
        ask(share, told)
    for _ in range(100):
        ask(share, told, wanted=False)
    real.asked[0](0, None)
    assert len(real.asked) == outside._MOST_OPEN
    assert told == [errno.ENOTCONN] * 100 + [0] or told == [0, *[errno.ENOTCONN] * 100]


def test_who_waits_is_bounded(share: Share, real: Outside) -> None:
    told: list[int] = []
    for _ in range(outside._MOST_OPEN + outside._MOST_WAITING + 1):
        ask(share, told)
    assert told == [errno.ENOTCONN]


def test_of_a_life_that_is_over_nothing_begins(share: Share, real: Outside) -> None:
    told: list[int] = []
    for _ in range(outside._MOST_OPEN + 5):
        ask(share, told)
    share.close()
    real.asked[0](0, None)
    assert len(real.asked) == outside._MOST_OPEN
