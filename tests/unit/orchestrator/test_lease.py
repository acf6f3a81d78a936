from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from orchestrator_helpers import dead_owner, in_child, kill, living_child, make_record

from pytest_airlock.errors import AlreadyExists, SandboxNotFound, StoreError
from pytest_airlock.orchestrator.storage import locks as locks_module
from pytest_airlock.orchestrator.storage.locks import NameLocks
from pytest_airlock.orchestrator.storage.process_identity import current_owner, start_time, verdict
from pytest_airlock.orchestrator.storage.store import FileStore


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "state")


def test_r20_of_many_threads_exactly_one_gets_the_name(store: FileStore) -> None:
    start = threading.Barrier(8)
    won, lost = [], []

    def reserve(number: int) -> None:
        start.wait()
        try:
            won.append(store.reserve("box", current_owner(worker=f"gw{number}")))
        except AlreadyExists as error:
            lost.append(error)

    threads = [threading.Thread(target=reserve, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert {error.owner["pid"] for error in lost} == {os.getpid()}
    assert len({error.owner["worker"] for error in lost}) == 1
    assert len(lost) == 7
    won[0].release()


def test_r20_another_process_is_told_pid_worker_and_test_of_the_owner(store: FileStore) -> None:
    def hold() -> None:
        store.reserve("box", current_owner(worker="gw1", test="test_x.py::test_y"))

    with living_child(hold) as pid:
        with pytest.raises(AlreadyExists) as caught:
            store.reserve("box", current_owner())
        assert caught.value.owner == {"pid": pid, "worker": "gw1", "test": "test_x.py::test_y", "run": ""}
        kill(pid)
    store.reserve("box", current_owner()).release()


def test_reserve_waits_for_a_name_if_asked_to(store: FileStore) -> None:
    lease = store.reserve("box", current_owner())

    class Clock:
        now = 0.0

        def time(self) -> float:
            return self.now

        def monotonic(self) -> float:
            return self.now

        def sleep(self, seconds: float) -> None:
            self.now += seconds
            if self.now > 5:
                lease.release()

    clock = Clock()
    waiting = FileStore(store.root, clock=clock)
    with pytest.raises(AlreadyExists):
        waiting.reserve("box", current_owner(), wait=3)
    assert clock.now >= 3
    waiting.reserve("box", current_owner(), wait=10).release()
    assert clock.now < 10


def test_a_forked_child_holds_nothing_and_releases_nothing(store: FileStore) -> None:
    lease = store.reserve("box", current_owner())
    lock_path = store.root / "leases" / "box.lease"

    def child() -> None:
        if any(
            os.path.samefile(f"/proc/self/fd/{fd}", lock_path)
            for fd in map(int, os.listdir("/proc/self/fd"))
            if _open(fd)
        ):
            raise AssertionError("the lease's descriptor is open in the child")
        lease.release()

    def _open(fd: int) -> bool:
        return os.path.exists(f"/proc/self/fd/{fd}")

    assert in_child(child) == 0
    assert lock_path.exists()
    # Still locked, for other processes too.
    assert in_child(lambda: _expect_taken(store)) == 0
    lease.release()
    store.reserve("box", current_owner()).release()


def _expect_taken(store: FileStore) -> None:
    with pytest.raises(AlreadyExists):
        store.reserve("box", current_owner())


def test_the_child_of_a_fork_can_lease_names_of_its_own(store: FileStore) -> None:
    lease = store.reserve("box", current_owner())
    assert in_child(lambda: store.reserve("other", current_owner()).release()) == 0
    lease.release()


def test_a_fork_inside_a_short_lock_leaves_it_with_the_parent(store: FileStore) -> None:
    def child() -> None:
        # What runs inside the block leaves it, too: as a forked test does.
        FileStore(store.root).reserve("other", current_owner()).release()

    with store.locked("box"):
        pid = os.fork()
        if pid == 0:
            try:
                child()
            finally:
                os._exit(0 if not locks_module._descriptors else 1)
        assert os.waitpid(pid, 0)[1] == 0
        short = FileStore(store.root)
        short._locks._patience = 0.0

        def try_it() -> None:
            with pytest.raises(StoreError, match="another process holds this lock"), short.locked("box"):
                pass

        assert in_child(try_it) == 0


def _hold_with_a_stubborn_child(store: FileStore, told: int) -> None:
    """Reserve, then leave the lock with a child that no fork hook closed it for (C code that forks)."""
    owner = current_owner(worker="gw0")
    store.reserve("box", owner)
    store.save(make_record(owner=owner))
    path = os.path.realpath(store.root / "leases" / "box.lease")
    lease_fd = next(
        fd for fd in map(int, os.listdir("/proc/self/fd")) if os.path.realpath(f"/proc/self/fd/{fd}") == path
    )
    # An exec'd child that keeps the descriptor shares the lock just so.
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], pass_fds=[lease_fd])
    os.write(told, f"{child.pid}\n".encode())


def test_a_lease_kept_locked_by_a_child_of_a_killed_owner_is_an_orphans(store: FileStore) -> None:
    reader, writer = os.pipe()
    with living_child(lambda: _hold_with_a_stubborn_child(store, writer)) as pid:
        stubborn = int(os.read(reader, 20))
        try:
            assert not store.is_orphan(store.load("box"))
            assert store.adopt("box", current_owner()) is None
            kill(pid)
            assert start_time(stubborn) is not None
            assert not store._leases.is_free("box")
            assert store.is_orphan(store.load("box"))
            lease = store.adopt("box", current_owner(worker="adopter"))
            assert lease is not None
            assert store.load("box").owner.worker == "adopter"
            assert store.adopt("box", current_owner()) is None
            store.remove("box")
            lease.release()
            # Without a record, too: killed between reservation and first save.
            store.reserve("box", current_owner()).release()
        finally:
            os.kill(stubborn, 9)
    os.close(reader)
    os.close(writer)
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_an_orphan_is_adopted_by_exactly_one(store: FileStore) -> None:
    store.save(make_record(owner=dead_owner()))
    first = store.adopt("box", current_owner())
    assert first is not None
    assert in_child(lambda: _expect_not_adoptable(store)) == 0
    assert store.adopt("missing", current_owner()) is None
    store.remove("box")
    first.release()


def _expect_not_adoptable(store: FileStore) -> None:
    if store.adopt("box", current_owner()) is not None:
        raise AssertionError("adopted twice")


def test_an_adopter_that_dies_leaves_an_orphan(store: FileStore) -> None:
    store.save(make_record(owner=dead_owner()))
    with living_child(lambda: store.adopt("box", current_owner())) as pid:
        assert not store.is_orphan(store.load("box"))
        kill(pid)
    assert store.is_orphan(store.load("box"))


def test_an_owner_of_another_boot_is_dead_when_its_lease_is_free(store: FileStore) -> None:
    # A home directory may be shared by machines: the boot id alone does not prove death.
    other = current_owner().model_copy(update={"boot_id": "another"})
    store.save(make_record(owner=other))
    assert store.is_orphan(store.load("box"))
    assert verdict(other) == "unknown"
    store.remove("box")
    lease = store.reserve("box", other)
    store.save(make_record(owner=other))
    assert not store.is_orphan(store.load("box"))
    assert store.adopt("box", current_owner()) is None
    lease.release()


def test_a_pid_of_another_pid_namespace_proves_nothing() -> None:
    assert verdict(dead_owner().model_copy(update={"pid_namespace": 1})) == "unknown"


def test_a_reused_pid_is_not_the_owner() -> None:
    me = current_owner()
    assert verdict(me) == "alive"
    assert verdict(me.model_copy(update={"start_time": me.start_time + 1})) == "dead"
    assert verdict(dead_owner()) == "dead"


def test_a_zombie_is_dead() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        assert start_time(pid) is None
    finally:
        os.waitpid(pid, 0)


def test_a_leader_that_ended_before_its_threads_is_alive() -> None:
    code = (
        "import ctypes, threading, signal, os; threading.Thread(target=os.read, args=(0, 1)).start(); print(flush=True)"
    )
    code += "; ctypes.CDLL(None).syscall(60, 0)"  # exit(2), of this thread only (x86-64)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdout.read(1)
        while (Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2])[0] != "Z":
            os.sched_yield()
        assert start_time(process.pid) is not None
    finally:
        process.kill()
        process.communicate()


def test_a_command_name_with_parentheses_is_no_riddle(tmp_path: Path) -> None:
    program = tmp_path / "a) Z 1 (b"
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([program, "60"])
    try:
        assert start_time(process.pid) is not None
    finally:
        process.kill()
        process.wait()


def test_a_short_lock_is_reentrant_in_its_thread_and_exclusive_between_threads(tmp_path: Path) -> None:
    held = NameLocks(tmp_path, lambda name: False, patience=0.0)
    seen: list[str] = []

    def other() -> None:
        try:
            with held.hold("box"):
                seen.append("entered")
        except StoreError as error:
            seen.append(error.path)

    with held.hold("box"):
        with held.hold("box"):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == [str(tmp_path / "box.lock")]
    other()
    assert seen[1:] == ["entered"]
    assert list(tmp_path.iterdir()) == []


def test_a_record_is_gone_for_everybody_at_once(store: FileStore) -> None:
    store.save(make_record())
    store.remove("box")

    def look() -> None:
        with pytest.raises(SandboxNotFound):
            store.load("box")

    assert in_child(look) == 0


def test_a_short_lock_ends_even_if_a_child_process_still_has_it_open(tmp_path: Path) -> None:
    held = NameLocks(tmp_path, lambda name: True, patience=0.0)
    with held.hold("box"):
        # As a child is between fork and exec, for a moment.
        (descriptor,) = locks_module._descriptors
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[descriptor])
    try:
        with held.hold("box"):
            pass
    finally:
        child.communicate(b"\n")


def test_a_record_of_a_living_owner_is_never_adopted_even_if_its_lease_is_free(store: FileStore) -> None:
    store.save(make_record())
    assert store.adopt("box", current_owner()) is None
