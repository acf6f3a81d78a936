"""A life that does not say what it should holds up nobody."""

from __future__ import annotations

import errno
import os

import pytest

from pytest_airlock.providers.namespaces.engine import lives, protocol
from pytest_airlock.providers.namespaces.engine.lives import Life
from pytest_airlock.providers.namespaces.engine.net.registry import Registry
from pytest_airlock.providers.namespaces.engine.syscalls import StepError


def pidfd_of_the_dead() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    pidfd = os.pidfd_open(pid)
    os.waitpid(pid, 0)
    return pidfd


@pytest.mark.parametrize("dead", ["life", "owner", "nobody"])
def test_who_waits_for_its_tmpfs_waits_no_longer_than_it_or_the_owner_lives(
    dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lives, "_DEADLINE_MS", 600_000 if dead != "nobody" else 1)
    living, ended = os.pidfd_open(os.getpid()), pidfd_of_the_dead()
    control, setup = protocol.channel(), protocol.channel()
    life = Life(
        1,
        ended if dead == "life" else living,
        control[0],
        setup[0],
        None,
        owner=ended if dead == "owner" else living,
        number=1,
        registry=Registry(control[0], 0),
    )
    with pytest.raises(StepError) as caught:
        _ = life.scratch
    assert (caught.value.step, caught.value.errno) == ("scratch", errno.ETIME if dead == "nobody" else errno.ESRCH)
    for sock in (*control, *setup):
        sock.close()
    for fd in (living, ended):
        os.close(fd)
