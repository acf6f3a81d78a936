"""Contract 20-23: snapshots and reset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_airlock.conformance.machine import Machine, all_dead, ended, line, within
from pytest_airlock.errors import SandboxBusy, SandboxDied, SnapshotNotFound
from pytest_airlock.providers.base import Features

NOWHERE = "conformance-no-such-snapshot"


def test_c20_a_living_process_is_named_and_left_alone(box: Machine, snapshots: Any) -> None:
    with box.process("sleep", "1000") as process:
        with pytest.raises(SandboxBusy) as caught:
            snapshots.snapshot(box.handle)
        assert [name for _, name in caught.value.processes] == ["sleep"]
        assert process.poll() is None
        process.kill_tree()


def test_c20_stop_ends_them(box: Machine, snapshots: Any) -> None:
    with box.process("sh", "-c", "trap '' TERM; setsid sleep 1000 & echo ready; wait") as process:
        assert line(process) == b"ready\n"
        snapshots.snapshot(box.handle, stop=True)
        assert all_dead(process)


def test_c20_the_sandbox_runs_on_with_the_same_files(box: Machine, snapshots: Any) -> None:
    box.write("/opt/f", b"1", mode=0o751)
    made = snapshots.snapshot(box.handle)
    assert isinstance(made, str)
    assert box.run("cat", "/opt/f").out == b"1"
    box.write("/opt/f", b"2")
    assert box.read("/opt/f") == b"2"


def test_c21_restore_brings_the_files_back(box: Machine, snapshots: Any) -> None:
    box.sh("mkdir -p /opt/d/e; printf 1 > /opt/d/f; ln -s f /opt/d/l; chmod 751 /opt/d/f; chmod 700 /opt/d/e")
    made = snapshots.snapshot(box.handle)
    box.sh("rm -rf /opt/d; mkdir /opt/new; printf x > /opt/d; chmod 700 /opt")
    _restore(box, snapshots, made)
    assert box.read("/opt/d/l") == b"1"
    assert box.provider.stat(box.handle, "/opt/d/f").mode & 0o7777 == 0o751
    assert box.provider.stat(box.handle, "/opt/d/e").mode & 0o7777 == 0o700
    assert box.provider.stat(box.handle, "/opt").mode & 0o7777 == 0o755
    assert not box.exists("/opt/new")


def test_c21_snapshots_taken_later_stay_valid(box: Machine, snapshots: Any) -> None:
    kept = []
    for number in range(3):
        box.write("/opt/number", str(number).encode())
        kept.append(snapshots.snapshot(box.handle))
    for number in (0, 2, 1, 0, 2):
        _restore(box, snapshots, kept[number])
        assert box.read("/opt/number") == str(number).encode()


def test_c21_an_unknown_snapshot_is_refused_before_anything_is_touched(box: Machine, snapshots: Any) -> None:
    box.write("/opt/kept", b"1")
    box.provider.stop(box.handle, grace=0.1)
    for call in (snapshots.restore, snapshots.delete_snapshot):
        with pytest.raises(SnapshotNotFound) as caught:
            call(box.handle, NOWHERE)
        assert caught.value.snapshot == NOWHERE
    box.provider.start(box.handle)
    assert box.read("/opt/kept") == b"1"


def test_c21_a_deleted_snapshot_is_unknown_and_the_others_stay(box: Machine, snapshots: Any) -> None:
    box.write("/opt/f", b"1")
    first = snapshots.snapshot(box.handle)
    box.write("/opt/f", b"2")
    second = snapshots.snapshot(box.handle)
    snapshots.delete_snapshot(box.handle, first)
    _restore(box, snapshots, second)
    assert box.read("/opt/f") == b"2"
    box.provider.stop(box.handle, grace=0.1)
    with pytest.raises(SnapshotNotFound):
        snapshots.restore(box.handle, first)


def test_c22_a_set_user_id_program_of_a_snapshot_gives_no_power(
    make: Callable[..., Machine], snapshots: Any, features: Features
) -> None:
    if "user_ordinary" not in features:
        pytest.skip(f"user_ordinary: {features.absent['user_ordinary'].why}")
    box = make() if "many_users" in features else make(user="airlock")
    found = box.run("sh", "-c", "command -v id").out.decode().strip() or "/usr/bin/id"
    box.sh(f"cat {found} > /opt/id; chmod 4755 /opt/id")
    _restore(box, snapshots, snapshots.snapshot(box.handle))
    assert box.run("/opt/id", "-u", user="airlock").out == b"1000\n"


def test_c23_reset_brings_files_back_and_all_is_dead(box: Machine, resets: Any, snapshots: Any) -> None:
    box.write("/opt/f", b"clean")
    clean = snapshots.snapshot(box.handle)
    box.sh("printf dirty > /opt/f; touch /opt/new; rm -rf /opt/d")
    with box.process("sh", "-c", "trap '' TERM; setsid sleep 1000 & echo ready; wait") as process:
        assert line(process) == b"ready\n"
        within(lambda: resets.reset(box.handle, clean))
        assert all_dead(process)
        with pytest.raises(SandboxDied):
            ended(process)
    assert box.provider.is_running(box.handle)
    assert box.read("/opt/f") == b"clean"
    assert not box.exists("/opt/new")
    assert box.run("true").returncode == 0


def test_c23_the_proof_names_two_worlds(box: Machine, resets: Any, snapshots: Any) -> None:
    clean = snapshots.snapshot(box.handle)
    first, second = resets.reset(box.handle, clean), resets.reset(box.handle, clean)
    assert first.by in ("kernel", "hypervisor", "fake")
    assert first.old != first.new == second.old != second.new


def test_c23_many_resets_leave_nothing_of_each_other(box: Machine, resets: Any, snapshots: Any) -> None:
    clean = snapshots.snapshot(box.handle)
    for number in range(10):
        assert not box.exists("/opt/mark"), f"the mark of reset {number - 1} is still there"
        box.write("/opt/mark", b"x")
        resets.reset(box.handle, clean)


def test_c23_an_unknown_snapshot_touches_nothing(box: Machine, resets: Any) -> None:
    with box.process("cat", stdin="pipe") as process:
        with pytest.raises(SnapshotNotFound):
            resets.reset(box.handle, NOWHERE)
        assert process.poll() is None
        process.kill_tree()


def test_c28_what_was_retired_dies_unasked_and_is_reset_to_a_clean_life(
    box: Machine, retires: Any, resets: Any, snapshots: Any
) -> None:
    clean = snapshots.snapshot(box.handle)
    box.write("/opt/mark", b"x")
    with box.process("sh", "-c", "trap '' TERM; echo ready; sleep 1000") as process:
        assert line(process) == b"ready\n"
        retires.retire(box.handle)
        with pytest.raises(SandboxDied):
            ended(process)
    resets.reset(box.handle, clean)
    assert box.run("true").returncode == 0
    assert not box.exists("/opt/mark")


def test_c28_what_was_retired_can_be_deleted_and_retired_again(box: Machine, retires: Any) -> None:
    retires.retire(box.handle)
    retires.retire(box.handle)
    box.provider.delete(box.handle)
    assert not box.provider.is_running(box.handle)


def _restore(box: Machine, snapshots: Any, snapshot: str) -> None:
    box.provider.stop(box.handle, grace=0.1)
    snapshots.restore(box.handle, snapshot)
    box.provider.start(box.handle)
