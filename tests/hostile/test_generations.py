"""A spare shares the host ids of the world that still runs: what neighbours may not do, they may not do with one id range either."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import attacks
import pytest
import weakenings
from attacker import Box

from pytest_airlock.providers.base import ResolvedMount

ALL = [
    attack for attack in attacks.load() if attack.run.__module__ == "attacks_neighbours" or "neighbour" in attack.name
]

#: Twenty daemons, and all that can be reached by a number is stopped.
BUSY = """
for _ in range(20):
    if os.fork() == 0:
        os.setsid()
        signal.pause()
print("ready", flush=True)
signal.pause()
"""


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
def test_rule20_one_range_of_ids_gives_neighbours_nothing(
    attack: attacks.Attack, make_weak_box: Callable[..., Box], mode: str
) -> None:
    """As root ranges differ otherwise; a world and its spare share one always."""
    box = make_weak_box(weakenings.SHARED_IDS, **attack.words)
    box.user = "root" if mode != "single" else None
    assert attack.run(box) == attacks.value_for(attack.expected, mode, "root")


def with_a_spare(box: Box) -> str:
    """A snapshot of which the next life waits already: it was asked for before."""
    snapshot = box.provider.snapshot(box.handle)
    for _ in range(3):
        box.provider.reset(box.handle, snapshot)
        box.run("true")
    # The server begins it when nobody asks for anything.
    deadline = time.monotonic() + 30
    while not waiting(box) and time.monotonic() < deadline:
        os.sched_yield()
    return snapshot


def waiting(box: Box) -> bool:
    """Whether the fork server has a child that is younger than the first process of the world that runs."""
    engine = box.provider._engine
    assert engine is not None
    children = Path(f"/proc/{engine.found['pid']}/task/{engine.found['pid']}/children").read_text().split()
    return any(int(pid) != box.init and born(int(pid)) >= born(box.init) for pid in children)


def born(pid: int) -> float:
    """Seconds from boot to the start of a process (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def test_rule20_a_spare_waits_beside_the_world_that_runs_and_they_do_not_meet(make_box: Callable[..., Box]) -> None:
    """Whoever is handed out next runs already; nobody of the old world is seen in it, stopped it or came along."""
    box = make_box(disk=33 * 1024**2)  # a recipe that no other test has
    snapshot = with_a_spare(box)
    begun = time.clock_gettime(time.CLOCK_BOOTTIME)
    box.python(BUSY)
    box.attack("for pid in range(2, 500):\n    if pid != os.getpid(): tried(os.kill, pid, 19)")
    box.provider.reset(box.handle, snapshot)
    assert born(box.init) < begun, "it waited beside the world that ran"
    pids = box.attack("answer['pids'] = sorted(int(name) for name in os.listdir('/proc') if name.isdigit())")["pids"]
    assert pids == [1, 2]


def test_rule09_no_spare_is_made_where_a_shared_directory_has_masks(
    make_box: Callable[..., Box], tmp_path: Path
) -> None:
    """Its covers would lie where the credential lay then: the world that runs could move it away before, and back after."""
    (tmp_path / ".env").write_text("TOKEN=secret\n")
    box = make_box(mounts=(ResolvedMount(str(tmp_path), "/opt/project", "rw", project=True),))
    snapshot = box.provider.snapshot(box.handle)
    for _ in range(3):
        box.provider.reset(box.handle, snapshot)
        for _ in range(3):
            box.run("true")
            assert not waiting(box)


def test_rule18_a_spare_shows_the_host_as_it_is_when_it_is_handed_out(
    make_box: Callable[..., Box], tmp_path: Path
) -> None:
    """What came into the project meanwhile is seen, and a credential that came is not."""
    (tmp_path / "old").write_text("before\n")
    mount = ResolvedMount(str(tmp_path), "/opt/project", "cow", project=True)
    box = make_box(mounts=(mount,), disk=34 * 1024**2)
    snapshot = with_a_spare(box)
    (tmp_path / "old").write_text("changed\n")
    (tmp_path / "new").write_text("new\n")
    (tmp_path / ".env").write_text("TOKEN=secret\n")
    box.provider.reset(box.handle, snapshot)
    assert box.run("cd /opt/project; cat old new; ls -A").out.split() == ["changed", "new", "new", "old"]
