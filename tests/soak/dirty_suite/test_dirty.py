"""400 tests: each finds a pristine machine, and leaves it as dirty as it can."""

from __future__ import annotations

import json

import pytest

from pytest_airlock import Sandbox

TESTS = 400


def ask(sandbox: Sandbox, *words: str) -> list[object]:
    answer: list[object] = json.loads(sandbox.run(["python3", "dirt.py", *words], check=True, timeout=60).stdout)
    return answer


@pytest.mark.parametrize("number", range(TESTS))
def test_the_machine_is_pristine_and_then_it_is_not(airlock_sandbox: Sandbox, number: int) -> None:
    assert ask(airlock_sandbox, "look") == []
    assert ask(airlock_sandbox, "make", str(number)) == [str(number)]
    # The mess is real, else a clean machine would prove nothing.
    assert ask(airlock_sandbox, "alive") == [True]
    assert f"/etc/airlock-dirt-{number}" in airlock_sandbox.diff().added
