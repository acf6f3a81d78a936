"""Contract 27: one sandbox takes over the files of another one's snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pytest_airlock.conformance.machine import Machine
from pytest_airlock.errors import SnapshotNotFound
from pytest_airlock.providers.base import ProviderSpec


@pytest.fixture
def heir(adopts: Any, names: Iterator[str]) -> Iterator[Machine]:
    """Created, and never started."""
    machine = Machine(adopts, adopts.create(ProviderSpec(next(names))))
    yield machine
    adopts.delete(machine.handle)


def test_c27_the_files_of_the_donor_are_there_at_the_start(
    box: Machine, heir: Machine, adopts: Any, snapshots: Any
) -> None:
    box.sh("mkdir -p /opt/d; printf 1 > /opt/d/f; chmod 700 /opt/d")
    kept = snapshots.snapshot(box.handle)
    box.write("/opt/d/f", b"later")
    adopts.adopt(heir.handle, box.handle, kept)
    adopts.start(heir.handle)
    assert heir.read("/opt/d/f") == b"1"
    assert heir.provider.stat(heir.handle, "/opt/d").mode & 0o7777 == 0o700


def test_c27_it_outlives_the_donor_and_nothing_is_shared(
    box: Machine, heir: Machine, adopts: Any, snapshots: Any
) -> None:
    box.write("/opt/f", b"1")
    own = adopts.adopt(heir.handle, box.handle, snapshots.snapshot(box.handle))
    adopts.start(heir.handle)
    heir.write("/opt/f", b"mine")
    assert box.read("/opt/f") == b"1"
    box.provider.delete(box.handle)
    assert heir.read("/opt/f") == b"mine"
    adopts.stop(heir.handle, grace=0.1)
    snapshots.restore(heir.handle, own)
    adopts.start(heir.handle)
    assert heir.read("/opt/f") == b"1"


def test_c27_an_unknown_snapshot_is_refused(box: Machine, heir: Machine, adopts: Any) -> None:
    with pytest.raises(SnapshotNotFound):
        adopts.adopt(heir.handle, box.handle, "conformance-no-such-snapshot")
    adopts.start(heir.handle)
    assert heir.run("true").returncode == 0
