"""Groups of this machine's kernel, wherever it lets them be made."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_airlock.providers.namespaces.engine import cgroup_tree, cgroups, syscalls
from pytest_airlock.providers.namespaces.engine.syscalls import StepError

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


def test_who_uses_more_processor_than_his_share_is_stopped() -> None:
    if usable("cpu"):
        with real_group(cpu=0.02) as group, started("input()\nwhile True: pass") as process:
            group.add(process.pid)
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            while process.poll() is None:
                counts = dict(line.split() for line in Path(group.places[0].path, "cpu.stat").read_text().splitlines())
                if int(counts["nr_throttled"]):
                    return
            raise AssertionError("it ended by itself")


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


# ---------------------------------------------------------------- version 2: without controllers, as hybrid hosts have it


def unified() -> str:
    """A directory of a version 2 hierarchy in which this user may make groups."""
    own, mounts = cgroup_tree._own(""), cgroup_tree._mounts("")
    directory = cgroup_tree._directory(mounts, "", own[""]) if "" in own else ""
    if not directory or not os.access(f"{directory}/cgroup.procs", os.W_OK):
        pytest.skip("no version 2 hierarchy is mounted in which this user may make groups")
    return directory


@contextlib.contextmanager
def unified_group() -> Iterator[cgroups.Group]:
    place = cgroups.Place(f"{unified()}/airlock-test-{os.urandom(4).hex()}", 2)
    cgroup_tree.mkdir(place.path)
    group = cgroups.Group((place,))
    try:
        yield group
    finally:
        group.kill()
        group.remove()
        assert not os.path.exists(place.path)


BORN = """
import os, sys
sys.path.insert(0, sys.argv[1])
from engine import cgroups, syscalls
group = cgroups.Group((cgroups.Place(sys.argv[2], 2),))
entrance = group.entrance()
pid, pidfd = syscalls.clone(0, entrance.unified)
if pid == 0:
    entrance.join()
    print(os.getpid(), flush=True)
    os.kill(os.getpid(), 19)
    os._exit(0)
entrance.close()
os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
print(sorted(group.pids()) == [pid], flush=True)
sys.stdin.readline()
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.mark.parametrize("clone3", [True, False], ids=["clone3", "no clone3"])
def test_a_child_is_born_in_its_group_and_ends_with_it(*, clone3: bool) -> None:
    """CLONE_INTO_CGROUP, and where a filter answers ENOSYS the child's own hand; then cgroup.kill, of a stopped one."""
    script = BORN if clone3 else BORN.replace("group =", "syscalls.has_clone3 = lambda: False\ngroup =", 1)
    engine = Path(cgroups.__file__).parent.parent
    with (
        unified_group() as group,
        subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", script, str(engine), group.places[0].path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline().strip().isdigit()
        assert process.stdout.readline() == "True\n"
        group.kill()
        assert process.communicate("go\n", timeout=60)[0] == f"{-signal.SIGKILL}\n"
        assert process.returncode == 0


def test_the_end_of_a_group_comes_at_once_for_all_that_are_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """By cgroup.kill alone: who forks as fast as he can would outrun one signal after the other."""
    monkeypatch.setattr(cgroup_tree, "_kill", lambda _pidfd: None)
    with unified_group() as group, started("input();" + SLEEPER) as process:
        group.add(process.pid)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        assert [process.stdout.readline() for _ in range(2)] == ["up\n", "up\n"]
        inner = group.subgroup("exec-1")
        inner.add(process.pid)
        group.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL
        assert group.pids() == set()
        inner.remove()


def test_what_a_group_refuses_at_birth_is_told_as_the_groups_fault() -> None:
    """EOPNOTSUPP: below a threaded group there is no valid domain (cgroups(7))."""
    with unified_group() as group:
        threads = group.subgroup("threads")
        cgroup_tree.write(f"{threads.places[0].path}/cgroup.type", "threaded")
        invalid = threads.subgroup("invalid")
        entrance = invalid.entrance()
        try:
            with pytest.raises(StepError) as caught:
                if syscalls.clone(0, entrance.unified)[0] == 0:
                    os._exit(0)
        finally:
            entrance.close()
            for gone in (invalid, threads):
                os.rmdir(gone.places[0].path)  # remove() would ask who is in it, which such groups do not tell
        assert (caught.value.step, caught.value.errno) == ("cgroup", errno.EOPNOTSUPP)


# ---------------------------------------------------------------- version 1


def test_a_process_that_enters_by_itself_is_not_waited_for() -> None:
    """Moved from outside, or with all its threads, it would wait for every processor: about 10 ms (see Entrance)."""
    if usable("pids"):
        with real_group(pids=50) as group, started("input()") as process:
            entrance = group.entrance()
            names = [os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) for fd in entrance.files]
            entrance.close()
            assert names == (["tasks"] if group.places[0].version == 1 else [])
            assert process.pid not in group.pids()
