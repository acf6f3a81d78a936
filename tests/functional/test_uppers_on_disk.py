"""The engine where tmpfs keeps no user.* attributes: what sandboxes write is on disk, and nothing of it stays."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import disk_engine
import pytest

from pytest_airlock.conformance.machine import Machine
from pytest_airlock.errors import ProviderUnavailable, UnsupportedFeature
from pytest_airlock.providers.base import ProviderSpec
from pytest_airlock.providers.namespaces import NamespacesProvider, client

IMAGE_TREE = "/usr/share/doc"

KILLED = """
import os, signal, sys
from pytest_airlock.providers.base import ProviderSpec
from pytest_airlock.providers.namespaces import NamespacesProvider, client

client.__file__ = sys.argv[1]
provider = NamespacesProvider()
handle = provider.create(ProviderSpec("killed"))
provider.start(handle)
provider.write(handle, "/tmp/left", b"x")
server = os.pidfd_open(provider._engine.found["pid"])
signal.pidfd_send_signal(server, signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the directories are, which must all go."""
    return tmp_path_factory.mktemp("cache") / "pytest-airlock" / "uppers"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> str:
    return disk_engine.edited(tmp_path_factory.mktemp("edited"))


@pytest.fixture
def boot(home: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], NamespacesProvider]]:
    """With the patch of the test itself: of two, the one undone last would leave the other's value behind."""
    made: list[NamespacesProvider] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(home.parent.parent))
    monkeypatch.setattr(client, "__file__", engine)

    def boot() -> NamespacesProvider:
        made.append(NamespacesProvider())
        return made[-1]

    yield boot
    for provider in made:
        provider.close()


@pytest.fixture
def box(boot: Callable[[], NamespacesProvider]) -> Machine:
    provider = boot()
    machine = Machine(provider, provider.create(ProviderSpec("box")))
    provider.start(machine.handle)
    return machine


def directories(home: Path) -> list[Path]:
    return list(home.glob("*/*"))


def test_nothing_is_on_disk_where_tmpfs_keeps_them(
    tmp_path: Path, home: Path, boot: Callable[[], NamespacesProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    keeps = "\n\ndef tmpfs_keeps_attributes():\n    return True\n"
    monkeypatch.setattr(client, "__file__", disk_engine.edited(tmp_path, keeps))
    assert "disk" in boot().probe()
    assert directories(home) == []


def test_a_directory_of_the_image_can_be_removed_and_made_again(box: Machine) -> None:
    provider = box.provider
    kept = provider.snapshot(box.handle)
    box.sh(f"rm -rf {IMAGE_TREE} && mkdir {IMAGE_TREE} && echo new > {IMAGE_TREE}/new")
    assert [found.path for found in provider.listdir(box.handle, IMAGE_TREE)] == [f"{IMAGE_TREE}/new"]
    told = {change.path: change.kind for change in provider.diff(box.handle, kept)}
    assert told[f"{IMAGE_TREE}/new"] == "added"
    assert "deleted" in told.values()
    provider.reset(box.handle, kept)
    assert len(provider.listdir(box.handle, IMAGE_TREE)) > 1
    assert list(provider.diff(box.handle, kept)) == []


def test_snapshots_are_kept_restored_adopted_and_carried(box: Machine) -> None:
    provider = box.provider
    box.sh(f"rm -rf {IMAGE_TREE}; mkdir {IMAGE_TREE}; echo 1 > /opt/f")
    first = provider.snapshot(box.handle, stop=True)
    box.sh("echo 2 > /opt/f")
    second = provider.snapshot(box.handle, stop=True)
    file = io.BytesIO()
    provider.export_snapshot(box.handle, first, file, limit=1 << 30)
    for snapshot, text in ((first, b"1\n"), (second, b"2\n")):
        provider.stop(box.handle, grace=0.1)
        provider.restore(box.handle, snapshot)
        provider.start(box.handle)
        assert box.read("/opt/f") == text
    file.seek(0)
    for take in (
        lambda heir: provider.adopt(heir, box.handle, first),
        lambda heir: provider.import_snapshot(heir, file, limit=1 << 30),
    ):
        heir = Machine(provider, provider.create(ProviderSpec("heir")))
        take(heir.handle)
        provider.start(heir.handle)
        assert heir.read("/opt/f") == b"1\n"
        assert not list(provider.listdir(heir.handle, IMAGE_TREE))
        provider.delete(heir.handle)


def test_resets_and_ends_leave_nothing(box: Machine, home: Path) -> None:
    provider = box.provider
    kept = provider.snapshot(box.handle)
    for _ in range(200):
        box.write("/tmp/f", b"x" * 100_000)
        provider.reset(box.handle, kept)
    # The living one and its spare; of the dead, those that wait and those that are being removed.
    assert len(directories(home)) < 100
    provider.close()
    assert list(home.iterdir()) == []


def test_what_a_killed_run_left_goes_with_the_next(boot: Callable[[], NamespacesProvider], home: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, client.__file__], check=False)
    assert done.returncode == -9
    # os.walk: what the killed server was just removing may go on being removed by its undertaker.
    assert any("left" in names for _, _, names in os.walk(home)), "nothing was left"
    provider = boot()
    provider.probe()
    provider.close()
    assert list(home.iterdir()) == []


def test_what_another_run_uses_stays(boot: Callable[[], NamespacesProvider], box: Machine) -> None:
    box.write("/tmp/f", b"1")
    other = boot()
    other.probe()
    other.close()
    assert box.read("/tmp/f") == b"1"


def test_a_size_of_the_disk_is_refused_with_the_cause(boot: Callable[[], NamespacesProvider]) -> None:
    provider = boot()
    absent = provider.probe().absent["disk"]
    assert "Linux 6.6" in absent.why
    assert absent.fix
    with pytest.raises(UnsupportedFeature, match="disk"):
        provider.create(ProviderSpec("limited", disk=1 << 24, required=frozenset({"disk"})))


def test_a_cache_in_memory_is_refused_with_the_cause(
    boot: Callable[[], NamespacesProvider], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ProviderUnavailable, match="upper directory") as caught:
        boot().probe()
    assert "XDG_CACHE_HOME" in str(caught.value.hint)


def test_skeletons_stand_in_where_overlays_take_nothing_shifted(
    tmp_path: Path, boot: Callable[[], NamespacesProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before Linux 5.19; an ordinary user's engine shifts nothing anyway."""
    shiftless = "\n\ndef overlay_takes_shifted(source, slot):\n    return False\n"
    monkeypatch.setattr(client, "__file__", disk_engine.edited(tmp_path, disk_engine.EDIT + shiftless))
    provider = boot()
    machine = Machine(provider, provider.create(ProviderSpec("old")))
    provider.start(machine.handle)
    assert provider._engine is not None
    assert not provider._engine.found["idmap_host"]
    machine.sh(f"rm -rf {IMAGE_TREE} && mkdir {IMAGE_TREE}")
    assert not list(provider.listdir(machine.handle, IMAGE_TREE))
