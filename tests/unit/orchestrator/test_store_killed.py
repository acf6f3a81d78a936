"""The store among real processes: eight at once, and killed at every single line."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import sys
from pathlib import Path
from types import FrameType

import pytest
from orchestrator_helpers import in_child, make_record

from pytest_airlock.errors import AlreadyExists, SandboxNotFound
from pytest_airlock.orchestrator.storage import lease, locks, state_files
from pytest_airlock.orchestrator.storage import store as store_module
from pytest_airlock.orchestrator.storage.process_identity import current_owner
from pytest_airlock.orchestrator.storage.store import FileStore

TRACED = {module.__file__ for module in (lease, locks, state_files, store_module)}


class KillAtLine:
    """SIGKILL this process when it comes to the n-th line of the store's code."""

    def __init__(self, line: int) -> None:
        self.left = line

    def __call__(self, frame: FrameType, event: str, arg: object) -> KillAtLine | None:
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def _life(root: Path) -> None:
    """Everything an owner does: reserve, save twice, list, adopt what is dead, remove, release."""
    store = FileStore(root)
    owner = current_owner()
    held = store.reserve("box", owner)
    store.save(make_record(owner=owner))
    store.save(make_record(owner=owner, error="x" * 1000))
    collect(store)
    store.remove("box")
    held.release()


def collect(store: FileStore) -> list[str]:
    """What the next run does with orphans."""
    collected = []
    for record in store.records():
        held = store.adopt(record.name, current_owner()) if store.is_orphan(record) else None
        if held is not None:
            store.remove(record.name)
            held.release()
            collected.append(record.name)
    store.sweep()
    return collected


def left_over(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_an_owner_killed_at_any_line_leaves_a_store_that_the_next_run_cleans(tmp_path: Path) -> None:
    FileStore(tmp_path / "warm").reserve("box", current_owner()).release()  # imports are not what is traced
    line, survived = 0, False
    while not survived:
        line += 1
        root = tmp_path / "state"

        def die(line: int = line, root: Path = root) -> None:
            sys.settrace(KillAtLine(line))
            _life(root)
            sys.settrace(None)

        status = in_child(die)
        survived = status == 0
        assert survived or os.WTERMSIG(status) == signal.SIGKILL
        store = FileStore(root, warn=pytest.fail)
        collect(store)
        assert left_over(root) == [], f"killed at line {line}"
        store.reserve("box", current_owner()).release()
    assert line > 100


def test_a_collector_killed_at_any_line_leaves_an_orphan_for_the_next(tmp_path: Path) -> None:
    root = tmp_path / "state"

    def leave_an_orphan() -> None:
        store = FileStore(root)
        store.reserve("box", current_owner())
        store.save(make_record(owner=current_owner()))

    line, survived = 0, False
    while not survived:
        line += 1
        assert in_child(leave_an_orphan) == 0

        def die(line: int = line) -> None:
            sys.settrace(KillAtLine(line))
            collect(FileStore(root))
            sys.settrace(None)

        survived = in_child(die) == 0
        collect(FileStore(root, warn=pytest.fail))
        assert left_over(root) == [], f"killed at line {line}"
    assert line > 50


def _worker(root: Path, seed: int, rounds: int) -> None:
    """Create, list and destroy among others, and prove by an independent lock that no two hold one name."""
    dice = random.Random(seed)
    store = FileStore(root / "state", warn=_fail)
    owner = current_owner(worker=f"gw{seed}")
    for _ in range(rounds):
        name = f"box-{dice.randrange(3)}"
        try:
            held = store.reserve(name, owner)
        except AlreadyExists as error:
            if not error.owner.get("pid"):
                raise AssertionError("a holder without a pid") from error
        else:
            with open(root / f"{name}.witness", "w", encoding="ascii") as witness:
                fcntl.flock(witness, fcntl.LOCK_EX | fcntl.LOCK_NB)
                store.save(make_record(name, owner=owner))
                if store.load(name).owner.pid != os.getpid():
                    raise AssertionError("somebody else wrote our record")
                store.remove(name)
            held.release()
        for record in store.records():
            if record.owner.pid == os.getpid():
                raise AssertionError("a record of ours is back")
        collect(store)


def _fail(text: str) -> None:
    raise AssertionError(text)


def _start(root: Path, seed: int, rounds: int) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _worker(root, seed, rounds)
            status = 0
        finally:
            os._exit(status)
    return pid


def test_r20_eight_processes_create_list_and_destroy_at_once(tmp_path: Path) -> None:
    pids = [_start(tmp_path, seed, 40) for seed in range(8)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 8
    assert left_over(tmp_path / "state") == []


def test_r20_eight_processes_of_which_some_are_killed(tmp_path: Path) -> None:
    dice = random.Random(20)
    pids = [_start(tmp_path, seed, 40) for seed in range(8)]
    # A kill at a random moment: whatever it meets, the survivors must go on.
    killed = pids[:3]
    for pid in killed:
        _wait_for_records(tmp_path / "state", dice.randrange(1, 20))
        os.kill(pid, signal.SIGKILL)
    statuses = {pid: os.waitpid(pid, 0)[1] for pid in pids}
    assert [statuses[pid] for pid in pids[3:]] == [0] * 5
    store = FileStore(tmp_path / "state", warn=_fail)
    collect(store)
    assert left_over(store.root) == []
    with pytest.raises(SandboxNotFound):
        store.load("box-0")


def _wait_for_records(root: Path, changes: int) -> None:
    """Until the records have been seen to change so often, or all workers have ended."""
    seen: object = None
    for _ in range(20_000):
        now = sorted(os.listdir(root / "records")) if (root / "records").exists() else None
        if now != seen:
            seen, changes = now, changes - 1
            if not changes:
                return
