"""A security policy of one's own, in airlock.yaml: code that cannot be trusted runs as an ordinary user."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_airlock import Sandbox
from pytest_airlock.errors import ProfileForbids

SUBMISSION = Path(__file__).with_name("submission.py")


def test_the_submission_adds_up(airlock_sandbox: Sandbox) -> None:
    done = airlock_sandbox.run(["python", "submission.py"], input="1 2 3\n", check=True)
    assert done.stdout == "6\n"
    assert SUBMISSION.exists()


def test_whatever_it_broke_is_whole_for_the_next_test(airlock_sandbox: Sandbox) -> None:
    assert airlock_sandbox.path(str(SUBMISSION)).exists()
    assert airlock_sandbox.path("/etc/passwd").exists()


def test_it_runs_as_an_ordinary_user_with_the_environment_of_the_file(airlock_sandbox: Sandbox) -> None:
    assert airlock_sandbox.shell('echo "$(id -un) $GRADING"').stdout == "airlock yes\n"


def test_the_limits_of_strict_still_bind(airlock_factory: Callable[..., Sandbox]) -> None:
    with pytest.raises(ProfileForbids, match="submission"):
        airlock_factory(network="open")
