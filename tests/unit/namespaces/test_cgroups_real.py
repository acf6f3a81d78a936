"""Groups of this machine's kernel, wherever it lets them be made."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_airlock.providers.namespaces.engine import cgroups

FORKER = """
import os, sys
sys.stdin.readline()
read, write = os.pipe()
made = []
try:
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            os.read(read, 1)
            os._exit(0)
        made.append(pid)
except BlockingIOError:
    pass
print(len(made), flush=True)
os.write(write, b"x" * len(made))
for pid in made:
    os.waitpid(pid, 0)
"""
EATER = "import sys; sys.stdin.readline(); held = bytearray(256 << 20); held[::4096] = b'x' * len(held[::4096])"
SLEEPER = "import os, time; os.fork(); print('up', flush=True); time.sleep(600)"


@contextlib.contextmanager
def started(code: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def real_group(
    *, cpu: float | None = None, memory: float | None = None, pids: float | None = None
) -> Iterator[cgroups.Group]:
    group = cgroups.create(f"test-{os.urandom(4).hex()}", cpu=cpu, memory=memory, pids=pids)
    try:
        yield group
    finally:
        group.kill()
        group.remove()
        assert not any(os.path.exists(place.path) for place in group.places)


def usable(controller: str) -> bool:
    """If this machine lets nobody limit it, the probe must say why; the limit cannot be tried then."""
    means = cgroups.probe()
    assert (controller in means.places) != (controller in means.absent)
    assert controller in means.places or means.absent[controller].why
    return controller in means.places


def state(pid: str) -> str:
    """The letter of proc(5); an orphan may wait for its new parent to reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "gone"


def test_limit_on_processes() -> None:
    if usable("pids"):
        with real_group(pids=4) as group, started(FORKER) as process:
            group.add(process.pid)
            out, _ = process.communicate("go\n", timeout=60)
            assert out == "3\n"


def test_limit_on_memory_counts_the_kill() -> None:
    if usable("memory"):
        with real_group(memory=32 << 20) as group, started(EATER) as process:
            group.add(process.pid)
            process.communicate("go\n", timeout=60)
            assert process.returncode == -signal.SIGKILL
            assert group.oom_kills() == 1


def test_limit_on_processors_is_in_force() -> None:
    if usable("cpu"):
        with real_group(cpu=0.5) as group:
            (place,) = group.places
            name = "cpu.max" if place.version == 2 else "cpu.cfs_quota_us"
            assert Path(place.path, name).read_text().split()[0] == "50000"


def test_kill_reaches_every_descendant() -> None:
    if usable("pids"):
        with real_group(pids=50) as group, started("input();" + SLEEPER) as process:
            group.add(process.pid)
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            assert [process.stdout.readline() for _ in range(2)] == ["up\n", "up\n"]
            assert len(group.pids()) == 2
            group.kill()
            assert group.pids() == set()
            assert process.wait(timeout=60) == -signal.SIGKILL


def test_remove_refuses_while_somebody_stays_and_names_him() -> None:
    if usable("pids"):
        with real_group(pids=50) as group, started("input()") as process:
            group.add(process.pid)
            with pytest.raises(cgroups.CgroupError, match=rf"stay in the control group: {process.pid}\b"):
                group.remove(timeout=0)
            assert group.pids() == {process.pid}


def test_remove_waits_for_the_dying() -> None:
    if usable("pids"):
        with real_group(pids=50) as group, started("input()") as process:
            group.add(process.pid)
            process.kill()
            group.remove(timeout=30)
            group.remove()
            assert not os.path.exists(group.places[0].path)


def test_subgroup_tells_whose_a_process_is() -> None:
    if usable("pids"):
        with real_group(pids=50) as group, started("input()") as one, started("input()") as other:
            group.add(one.pid)
            group.add(other.pid)
            inner = group.subgroup("exec-1")
            inner.add(one.pid)
            assert (inner.pids(), group.pids()) == ({one.pid}, {one.pid, other.pid})
            inner.kill()
            inner.remove()
            assert one.wait(timeout=60) == -signal.SIGKILL
            assert other.poll() is None


def test_sweep_finds_what_a_killed_maker_left() -> None:
    maker = """
import os, subprocess, sys
sys.path.insert(0, sys.argv[1])
from engine import cgroups
group = cgroups.create("left", pids=20)
child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
group.add(child.pid)
print(group.places[0].path, child.pid, flush=True)
os._exit(0)
"""
    if usable("pids"):
        engine = Path(cgroups.__file__).parent.parent
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", maker, str(engine)],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=60,
            check=True,
        )
        path, pid = done.stdout.split()
        with real_group(pids=5) as alive:
            assert path in cgroups.sweep()
            assert not os.path.exists(path)
            assert os.path.exists(alive.places[0].path)
        assert state(pid) in ("gone", "Z")
