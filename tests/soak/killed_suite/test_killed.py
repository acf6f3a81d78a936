"""Tests that use all that can be left over, for a run that is killed in the middle of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_airlock import Sandbox

MESS = """
echo dirt > /etc/dirt; echo dirt > dirt; rm -f /etc/passwd
(setsid sh -c 'while :; do sleep 1; done' > /dev/null 2>&1 &)
"""


@pytest.mark.parametrize("number", range(12))
def test_dirty(airlock_sandbox: Sandbox, number: int) -> None:
    assert not airlock_sandbox.path("/etc/dirt").exists()
    airlock_sandbox.shell(MESS, check=True)
    assert "/etc/dirt" in airlock_sandbox.diff().added


@pytest.mark.airlock(memory="256M", cpu=1)
@pytest.mark.parametrize("number", range(4))
def test_limited(airlock_sandbox: Sandbox, number: int) -> None:
    airlock_sandbox.shell(MESS, check=True)


@pytest.mark.parametrize("number", range(4))
def test_layers(airlock_factory: Callable[..., Sandbox], number: int) -> None:
    box = airlock_factory(name=f"layers-{number}")
    box.path("/etc/kept").write_text("1")
    kept = box.snapshot()
    box.shell(MESS, check=True)
    box.restore(kept)
    assert box.path("/etc/kept").read_text() == "1"
    assert not box.path("/etc/dirt").exists()


@pytest.mark.airlock(provision=[["sh", "-c", "echo ready > /opt/ready"]])
@pytest.mark.parametrize("number", range(4))
def test_provisioned(airlock_sandbox: Sandbox, number: int) -> None:
    assert airlock_sandbox.path("/opt/ready").read_text() == "ready\n"
    airlock_sandbox.shell(MESS, check=True)
