"""Which base image a sandbox stands on: planned once, and again as soon as the host is not as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_airlock.errors import InvalidSpec, MountForbidden
from pytest_airlock.providers.base import ProviderSpec
from pytest_airlock.providers.namespaces import images
from pytest_airlock.providers.namespaces.bases import Bases
from pytest_airlock.providers.namespaces.box import Box
from pytest_airlock.providers.values import ResolvedMount

FOUND = {"privileged": True, "idmap_host": True}


class Server:
    """Builds what it is asked to, and counts."""

    def __init__(self) -> None:
        self.worlds: list[str] = []
        self.forgotten: list[int] = []

    def call(self, op: str, **request: Any) -> tuple[Any, list[int]]:
        if op == "forget":
            self.forgotten.append(request["base"])
            return None, []
        self.worlds.append(request["world"])
        return len(self.worlds), []


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """/project of a small machine."""
    for directory in ("project/src", "usr/bin", "etc", "opt"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "project/src/a.py").touch()
    return tmp_path / "project"


@pytest.fixture
def bases(project: Path, monkeypatch: pytest.MonkeyPatch) -> Bases:
    host = images.HostView(root=str(project.parent))
    monkeypatch.setattr(images.HostView, "current", classmethod(lambda cls: host))
    made = Bases()
    plan = made._world
    made.plans = 0  # type: ignore[attr-defined]

    def counted(*args: Any) -> Any:
        made.plans += 1  # type: ignore[attr-defined]
        return plan(*args)

    monkeypatch.setattr(made, "_world", counted)
    return made


def spec_of(**changes: Any) -> ProviderSpec:
    return ProviderSpec("box", mounts=(ResolvedMount("/project", "/app", "cow", project=True),), **changes)


def test_equal_specs_are_planned_once(bases: Any, server: Server, project: Path) -> None:
    first = bases.number(spec_of(), FOUND, server.call)
    # The name, and what limits it, are nothing to its files.
    other = ProviderSpec("other", mounts=spec_of().mounts, cpu=1)
    assert [bases.number(spec, FOUND, server.call) for spec in (spec_of(), other)] == [first, first]
    assert (bases.plans, len(server.worlds)) == (1, 1)


def test_a_key_that_came_since_is_hidden_from_the_next(bases: Any, server: Server, project: Path) -> None:
    first = bases.number(spec_of(), FOUND, server.call)
    (project / "src/.netrc").touch()
    assert bases.number(spec_of(), FOUND, server.call) != first
    assert "src/.netrc" in server.worlds[1]
    assert "src/.netrc" not in server.worlds[0]


def test_a_file_judged_by_its_content_is_judged_again(bases: Any, server: Server, project: Path) -> None:
    (project / ".yarnrc").write_text("# nothing\n")
    first = bases.number(spec_of(), FOUND, server.call)
    (project / ".yarnrc").write_text('"//registry.example/:_authToken" "secret-of-mine"\n')
    assert bases.number(spec_of(), FOUND, server.call) != first


def test_what_is_mounted_elsewhere_does_not_matter(bases: Any, server: Server, project: Path) -> None:
    plain = bases.number(ProviderSpec("plain"), FOUND, server.call)
    bases.number(spec_of(), FOUND, server.call)
    (project / "src/.netrc").touch()
    bases.number(spec_of(), FOUND, server.call)
    plans = bases.plans
    assert bases.number(ProviderSpec("plain"), FOUND, server.call) == plain
    assert bases.plans == plans


def test_what_another_has_looked_at_since_is_new_to_a_plan_made_before(
    bases: Any, server: Server, project: Path
) -> None:
    """The same mount in two specs: one plan after the change does not make the other one's right."""
    other = ProviderSpec("other", mounts=(*spec_of().mounts, ResolvedMount("/opt", "/two", "ro")))
    first = bases.number(spec_of(), FOUND, server.call)
    (project / "src/.netrc").touch()
    bases.number(other, FOUND, server.call)
    assert bases.number(spec_of(), FOUND, server.call) != first


@pytest.mark.parametrize("expose", [(), ("/app",)])
def test_a_directory_that_was_replaced_is_another_base(
    bases: Any, server: Server, project: Path, expose: tuple[str, ...]
) -> None:
    first = bases.number(spec_of(expose=expose), FOUND, server.call)
    project.rename(project.parent / "old")
    (project / "src").mkdir(parents=True)
    (project / "src/a.py").touch()
    assert bases.number(spec_of(expose=expose), FOUND, server.call) != first


@pytest.mark.parametrize("privileged", [True, False])
def test_a_mount_that_is_gone_is_told_as_such(bases: Any, server: Server, project: Path, privileged: bool) -> None:
    found = {**FOUND, "privileged": privileged}
    bases.number(spec_of(), found, server.call)
    project.rename(project.parent / "old")
    with pytest.raises(MountForbidden, match="no such file"):
        bases.number(spec_of(), found, server.call)


def test_other_mounts_and_exceptions_are_other_plans(bases: Any, server: Server, project: Path) -> None:
    (project / "src/.netrc").touch()
    hidden = bases.number(spec_of(), FOUND, server.call)
    assert bases.number(spec_of(expose=("/app/src/.netrc",)), FOUND, server.call) != hidden
    with pytest.raises(InvalidSpec):
        bases.number(spec_of(expose=("/app/src/nothing",)), FOUND, server.call)


def test_a_base_that_went_is_never_handed_out_again(bases: Any, server: Server, project: Path) -> None:
    spec = spec_of()
    old = bases.number(spec, FOUND, server.call)
    box = Box(1, spec, limits={}, environ={"HOME": "/root"}, one_id=None, base=old, planned=bases.seen(spec))
    (project / ".netrc").touch()
    bases.renew(box, [box], FOUND, server.call)
    assert server.forgotten == [old]
    assert box.base != old
    (project / ".netrc").unlink()
    assert bases.number(spec, FOUND, server.call) not in (old, box.base)


def test_nothing_is_left_of_a_server_that_is_gone(bases: Any, server: Server, project: Path) -> None:
    bases.number(spec_of(), FOUND, server.call)
    bases.clear()
    bases.number(spec_of(), FOUND, server.call)
    assert len(server.worlds) == 2
