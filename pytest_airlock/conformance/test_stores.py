"""Contract 29-32: snapshots that are kept in a file, and come back in another process."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_airlock.conformance.machine import Machine
from pytest_airlock.errors import ProviderError, SnapshotNotFound
from pytest_airlock.providers.base import Provider, ProviderSpec, ResolvedMount

LIMIT = 64 << 20


@pytest.fixture
def heir(new_provider: Callable[[], Provider], stores: Any, names: Iterator[str]) -> Iterator[Machine]:
    """Created, and never started, by an instance that knows nothing of the one that exports."""
    other = new_provider()
    machine = Machine(other, other.create(ProviderSpec(next(names))))
    yield machine
    other.delete(machine.handle)


def exported(box: Machine, stores: Any, snapshots: Any) -> bytes:
    file = io.BytesIO()
    stores.export_snapshot(box.handle, snapshots.snapshot(box.handle, stop=True), file, limit=LIMIT)
    return file.getvalue()


def imported(heir: Machine, data: bytes) -> Any:
    provider: Any = heir.provider
    return provider.import_snapshot(heir.handle, io.BytesIO(data), limit=LIMIT)


def test_c29_equal_specs_have_one_origin_in_every_process(box: Machine, heir: Machine, stores: Any) -> None:
    provider: Any = heir.provider
    before = stores.origin(box.handle)
    assert before
    assert provider.origin(heir.handle) == before
    box.write("/opt/f", b"1")
    assert stores.origin(box.handle) == before, "what is written inside is no part of it"


def test_c29_another_file_in_a_mount_is_another_origin(
    make: Callable[..., Machine], stores: Any, tmp_path_factory: pytest.TempPathFactory, features: Any
) -> None:
    if "mount_cow" not in features:
        pytest.skip("the provider has no mounts")
    project, other = (tmp_path_factory.mktemp(name) for name in ("project", "other"))
    for place in (project, other):
        place.chmod(0o755)
    mounts = [ResolvedMount(str(place), "/srv/project", "cow") for place in (project, other)]
    origins = {stores.origin(make(mounts=(mount,)).handle) for mount in mounts}
    assert len(origins) == 2
    assert "" not in origins


def test_c29_what_is_shared_read_write_has_no_origin(
    make: Callable[..., Machine], stores: Any, tmp_path_factory: pytest.TempPathFactory, features: Any
) -> None:
    if "mount_rw" not in features:
        pytest.skip("the provider has no read-write mounts")
    place = tmp_path_factory.mktemp("shared")
    assert stores.origin(make(mounts=(ResolvedMount(str(place), "/srv/shared", "rw"),)).handle) == ""


def test_c30_more_than_the_limit_is_an_error(box: Machine, stores: Any, snapshots: Any) -> None:
    box.write("/opt/f", b"x" * 100_000)
    kept = snapshots.snapshot(box.handle)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what matters
        stores.export_snapshot(box.handle, kept, io.BytesIO(), limit=50_000)
    assert caught.value.errno == errno.EFBIG
    assert box.read("/opt/f") == b"x" * 100_000


def test_c30_an_unknown_snapshot_is_refused(box: Machine, stores: Any) -> None:
    with pytest.raises(SnapshotNotFound):
        stores.export_snapshot(box.handle, "conformance-no-such-snapshot", io.BytesIO(), limit=LIMIT)


def test_c31_files_are_as_they_were(box: Machine, heir: Machine, stores: Any, snapshots: Any) -> None:
    box.sh("mkdir -p /opt/d/e; printf 1 > /opt/d/f; chmod 750 /opt/d; chmod 640 /opt/d/f; ln -s ../f /opt/d/e/link")
    before = {
        path: box.provider.stat(box.handle, path, follow_symlinks=False)
        for path in ("/opt/d", "/opt/d/f", "/opt/d/e/link")
    }
    imported(heir, exported(box, stores, snapshots))
    heir.provider.start(heir.handle)
    assert heir.read("/opt/d/f") == b"1"
    assert heir.read("/opt/d/e/link") == b"1"
    for path, stat in before.items():
        assert heir.provider.stat(heir.handle, path, follow_symlinks=False) == stat


def test_c31_what_was_removed_is_gone(box: Machine, heir: Machine, stores: Any, snapshots: Any) -> None:
    box.sh("rm -r /etc; mkdir /etc; printf 1 > /etc/new")
    imported(heir, exported(box, stores, snapshots))
    heir.provider.start(heir.handle)
    assert [entry.path for entry in heir.provider.listdir(heir.handle, "/etc")] == ["/etc/new"]


def test_c31_set_id_bits_are_dropped(box: Machine, heir: Machine, stores: Any, snapshots: Any) -> None:
    box.write("/opt/f", b"1")
    box.provider.change(box.handle, "chmod", "/opt/f", mode=0o6755)
    imported(heir, exported(box, stores, snapshots))
    heir.provider.start(heir.handle)
    assert heir.provider.stat(heir.handle, "/opt/f").mode & 0o7777 == 0o755


def test_c31_it_is_a_snapshot_like_any_other(box: Machine, heir: Machine, stores: Any, snapshots: Any) -> None:
    provider: Any = heir.provider
    box.write("/opt/f", b"1")
    own = imported(heir, exported(box, stores, snapshots))
    provider.start(heir.handle)
    heir.write("/opt/f", b"2")
    provider.stop(heir.handle, grace=0.1)
    provider.restore(heir.handle, own)
    provider.start(heir.handle)
    assert heir.read("/opt/f") == b"1"


@pytest.mark.parametrize("damage", ["nothing", "half", "noise"])
def test_c32_a_file_that_is_not_whole_is_refused_and_changes_nothing(
    box: Machine, heir: Machine, stores: Any, snapshots: Any, damage: str
) -> None:
    box.write("/opt/f", b"1" * 10_000)
    data = exported(box, stores, snapshots)
    bad = {"nothing": b"", "half": data[: len(data) // 2], "noise": bytes(range(256)) * 40}[damage]
    with pytest.raises(ProviderError):
        imported(heir, bad)
    heir.provider.start(heir.handle)
    assert heir.run("true").returncode == 0
    with pytest.raises(FileNotFoundError):
        heir.read("/opt/f")
