"""r15: provisioning is done once for equal content, by whichever process and run comes first."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from orchestrator_helpers import make_manager, make_plan

from pytest_airlock.errors import ProviderError
from pytest_airlock.models import Network
from pytest_airlock.orchestrator.clock import SystemClock
from pytest_airlock.orchestrator.manager import SandboxManager
from pytest_airlock.orchestrator.provisioned import Provisioned
from pytest_airlock.orchestrator.storage.layer_files import LayerFiles
from pytest_airlock.orchestrator.storage.process_identity import current_owner
from pytest_airlock.providers.base import ResolvedMount
from pytest_airlock.testing import FakeProvider

PROVISION = (("sh", "-c", "echo done > /opt/made"),)


_serial = itertools.count()


class Process:
    """What one process of a run has."""

    def __init__(
        self, root: Path, *, run: str = "run", worker: str = "gw0", refresh: bool = False, **words: object
    ) -> None:
        self.said: list[str] = []
        self.provider = FakeProvider(**words)  # type: ignore[arg-type]
        owner = current_owner(run_id=run, worker=worker)
        files = LayerFiles(root / "cache/layers", owner, SystemClock())
        self.manager: SandboxManager = make_manager(
            root / f"state{next(_serial)}",
            self.provider,
            owner=owner,
            provisioned=Provisioned(lambda: files, say=self.said.append, refresh=refresh),
        )

    def create(self, name: str = "box", **fields: object) -> None:
        self.manager.create(make_plan(name, **{"provision": PROVISION, **fields}))

    @property
    def provisioned(self) -> int:
        return len(self.provider.commands)

    def content(self, name: str = "box") -> bytes:
        return self.provider.files(name).read("/opt/made", limit=100)


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., Process]:
    return functools.partial(Process, tmp_path)


def test_r15_the_next_run_starts_from_what_was_provisioned(process: Callable[..., Process]) -> None:
    process().create()
    later = process(run="later")
    later.create()
    assert later.provisioned == 0
    assert later.content() == b"done\n"
    later.provider.files("box").write("/opt/made", b"dirt")
    later.manager.reset("box")
    assert later.content() == b"done\n"


@pytest.mark.parametrize(
    "other",
    [
        {"provision": (("sh", "-c", "echo 2 > /opt/made"),)},
        {"key": "another plan"},
        {"provider_spec": {"image": "another"}},
        {"provider_spec": {"mounts": (ResolvedMount("/srv/a", "/srv/a", "cow"),)}},
        {"network": Network(mode="open")},
    ],
    ids=["commands", "plan", "image", "mounts", "network"],
)
def test_r15_whatever_decides_the_content_is_in_the_key(
    process: Callable[..., Process], other: dict[str, object]
) -> None:
    process().create()
    later = process()
    later.create(**other)
    assert later.provisioned == 1


def test_r15_what_has_no_origin_is_not_kept(process: Callable[..., Process]) -> None:
    shared = {"mounts": (ResolvedMount("/srv/a", "/srv/a", "rw"),)}
    for _ in range(2):
        one = process()
        one.create(provider_spec=shared)
        assert one.provisioned == 1


@pytest.mark.parametrize("missing", ["Stores", "Snapshots"])
def test_r15_a_provider_that_cannot_provisions_each_time(process: Callable[..., Process], missing: str) -> None:
    for _ in range(2):
        one = process(without=[missing])
        one.create()
        assert one.provisioned == 1
        assert not one.said


def test_r15_refresh_provisions_once_per_run(process: Callable[..., Process]) -> None:
    process(run="old").create()
    first, second = (process(run="new", worker=worker, refresh=True) for worker in ("gw0", "gw1"))
    first.create()
    second.create()
    assert (first.provisioned, second.provisioned) == (1, 0)


def test_r15_a_damaged_file_is_told_removed_and_made_anew(process: Callable[..., Process], tmp_path: Path) -> None:
    process().create()
    (path,) = tmp_path.glob("cache/layers/*.layer")
    path.write_bytes(path.read_bytes()[:-10])
    later = process()
    later.create()
    assert later.provisioned == 1
    assert "cannot be used and is made anew" in later.said[0]
    again = process()
    again.create()
    assert (again.provisioned, again.said) == (0, [])


def test_r15_what_the_provider_refuses_is_made_anew(process: Callable[..., Process]) -> None:
    process().create()
    later = process()
    later.provider.faults.fail("import_snapshot", ProviderError("fake", "import", "told so"))
    later.create()
    assert later.provisioned == 1
    assert later.content() == b"done\n"


def test_r15_keeping_never_fails_a_sandbox(process: Callable[..., Process], tmp_path: Path) -> None:
    one = process()
    one.provider.faults.fail("export_snapshot", OSError(27, "File too large"))
    one.create()
    assert "not kept for other runs" in one.said[0]
    (tmp_path / "cache/layers").chmod(0o755)
    two = process()
    two.create()
    assert two.provisioned == 1
    assert "not kept for other runs" in two.said[0]


def test_r15_what_changed_meanwhile_is_not_kept(
    process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = process()
    answers = iter("ab")
    monkeypatch.setattr(one.provider, "origin", lambda _: next(answers))
    one.create()
    assert not list(tmp_path.glob("cache/layers/*.layer"))


def test_r15_a_failed_command_keeps_nothing_and_holds_nothing(process: Callable[..., Process], tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(Exception, match="provisioning command"):
            process().create(provision=(("false",),))
    assert not list(tmp_path.glob("cache/layers/*.lease"))
    assert not list(tmp_path.glob("cache/layers/*.layer"))


def test_r15_another_worker_waits_says_so_and_provisions_nothing(process: Callable[..., Process]) -> None:
    first, second = process(worker="gw0"), process(worker="gw1")
    goes = first.provider.faults.block("spawn")
    threads = [threading.Thread(target=one.create) for one in (first, second)]
    threads[0].start()
    assert goes.entered.wait(30)
    threads[1].start()
    while not second.said:
        threads[1].join(0.01)
    assert second.said == [second.said[0]]
    assert "waiting for worker gw0" in second.said[0]
    assert "echo done" in second.said[0]
    goes.release.set()
    for thread in threads:
        thread.join(30)
    assert (first.provisioned, second.provisioned) == (1, 0)
    assert second.content() == b"done\n"
