"""Stamps of views: they change when the source does, and cost nothing but stats."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_airlock.providers.namespaces.engine.world import View
from pytest_airlock.providers.namespaces.images import image_identity
from pytest_airlock.providers.namespaces.images.identity import Known


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for path in ("app/src/pkg", "app/.git/objects/ab", "app/.git/refs", "app/src/__pycache__"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "app/src/pkg/a.py").touch()
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.utime(path, ns=(1_000, 1_000))
    return tmp_path / "app"


@pytest.mark.parametrize("known", [None, {}])
def test_a_new_file_anywhere_changes_the_identity(project: Path, known: Known | None) -> None:
    view = View(str(project), "/app", system=False)
    before = image_identity(view, known=known)
    assert image_identity(view, known=known) == before
    (project / "src/pkg/b.py").touch()
    after = image_identity(view, known=known)
    assert after != before
    (project / "src/pkg/sub").mkdir()
    (project / "src/pkg/sub/c.py").touch()
    assert image_identity(view, known=known) not in (before, after)


def test_a_remembered_identity_is_the_one_that_is_found_afresh(project: Path) -> None:
    view = View(str(project), "/app", system=False)
    known: Known = {}
    image_identity(view, known=known)
    (project / "src/pkg/sub/deep").mkdir(parents=True)
    assert image_identity(view, known=known) == image_identity(view)


def test_the_mode_of_a_directory_counts(project: Path) -> None:
    view = View(str(project), "/app", system=False)
    before = image_identity(view)
    (project / "src/pkg").chmod(0o700)
    assert image_identity(view) != before


@pytest.mark.parametrize("path", ["src/__pycache__/a.pyc", ".git/objects/ab/cdef"])
def test_what_tools_write_all_the_time_does_not_count(project: Path, path: str) -> None:
    view = View(str(project), "/app", system=False)
    before = image_identity(view)
    (project / path).touch()
    assert image_identity(view) == before


def test_the_package_database_stands_for_usr(tmp_path: Path) -> None:
    for path in ("usr/lib/deep", "usr/local/lib", "var/lib/dpkg"):
        (tmp_path / path).mkdir(parents=True)
    status = tmp_path / "var/lib/dpkg/status"
    status.touch()
    view = View(f"{tmp_path}/usr", "/usr")
    known: Known = {}
    before = image_identity(view, root=str(tmp_path), known=known)
    assert f"{tmp_path}/usr/lib" not in known
    status.write_text("Package: new\n")
    packages = image_identity(view, root=str(tmp_path))
    assert packages != before
    (tmp_path / "usr/local/lib/python").mkdir()
    assert image_identity(view, root=str(tmp_path)) not in (before, packages)


def test_without_a_package_database_every_directory_of_usr_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/deep").mkdir(parents=True)
    view = View(f"{tmp_path}/usr", "/usr")
    before = image_identity(view, root=str(tmp_path))
    (tmp_path / "usr/lib/deep/x").touch()
    assert image_identity(view, root=str(tmp_path)) != before


def test_a_file_as_view_and_a_source_that_went_have_identities_too(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("a")
    view = View(str(file), "/etc/hosts", system=False)
    before = image_identity(view)
    file.write_text("ab")
    changed = image_identity(view)
    file.unlink()
    assert len({before, changed, image_identity(view)}) == 3
