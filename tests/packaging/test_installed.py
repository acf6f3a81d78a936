"""The installed wheel, used from outside the checkout."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from installation import EXAMPLES, ROOT, Installed

OPTIONS = ("--airlock-profile", "--airlock-provider", "--airlock-state-dir", "--airlock-keep", "--airlock-max-profile")


def test_the_installed_package_is_the_one_that_is_tested(installed: Installed) -> None:
    done = installed.run("-c", "import pytest_airlock; print(pytest_airlock.__file__)")
    assert done.stdout.startswith(str(installed.prefix))


@pytest.mark.parametrize("option", OPTIONS)
def test_help_shows_the_options(installed: Installed, option: str) -> None:
    done = installed.run("-m", "pytest", "--help")
    assert done.returncode == 0
    assert f"  {option}" in done.stdout


def test_the_marker_and_the_fixtures_are_documented(installed: Installed) -> None:
    assert "@pytest.mark.airlock" in installed.run("-m", "pytest", "--markers").stdout
    fixtures = installed.run("-m", "pytest", "--fixtures").stdout
    for name in ("airlock_sandbox", "airlock_session_sandbox", "airlock_factory", "airlock_spec"):
        assert f"\n{name}" in fixtures


def test_every_public_name_can_be_imported(installed: Installed) -> None:
    done = installed.run("-c", "import pytest_airlock as a; [getattr(a, name) for name in a.__all__]; print('all')")
    assert done.stdout == "all\n"


def test_the_embedded_engine_passes_the_conformance_tests(installed: Installed) -> None:
    done = installed.run(
        "-m",
        "pytest",
        "--pyargs",
        "pytest_airlock.conformance",
        "--airlock-provider=namespaces",
        "-q",
        "-p",
        "no:cacheprovider",
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.parametrize("module", ["pytest_airlock", "pytest_airlock.plugin"])
def test_importing_the_plugin_brings_in_no_heavy_module(installed: Installed, module: str) -> None:
    done = installed.run("-X", "importtime", "-c", f"import {module}")
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "pytest_airlock" in imported
    # pytest itself needs none of these either, so that nothing hides a fault here.
    assert not imported & {"pydantic", "pydantic_core", "yaml", "ctypes", "_ctypes", "xdist", "platformdirs"}


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir()))
def test_the_example_runs(installed: Installed, tmp_path: Path, example: str) -> None:
    copy = tmp_path / example
    shutil.copytree(EXAMPLES / example, copy, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
    done = installed.run("-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(copy), cwd=copy)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    # Of the programs of the machine that examples run inside.
    assert [line for line in skipped if not line.endswith("is not installed")] == []


def test_the_tutorial_works_as_it_is_written(installed: Installed, tmp_path: Path) -> None:
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "docs" / "tutorial.md").read_text(), re.MULTILINE | re.DOTALL)
    (installer,) = (text for kind, text in blocks if kind == "sh" and text.startswith("#!"))
    tests = [text for kind, text in blocks if kind == "python"]
    # tmp_path is closed to others, the sandbox's ordinary user among them; what mkdir makes is not.
    project = tmp_path / "greeter"
    project.mkdir()
    (project / "pytest.ini").write_text("[pytest]\n")
    (project / "install.sh").write_text(installer)
    (project / "install.sh").chmod(0o755)
    for number, text in enumerate(tests):
        (project / f"test_{number}.py").write_text(text)
    done = installed.run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=project)
    assert done.returncode == 0, done.stdout
    assert f"{len(tests)} passed" in done.stdout


def test_the_readme_has_the_commands_that_are_run_elsewhere() -> None:
    readme = (ROOT / "README.md").read_text().splitlines()
    assert "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/pytest examples/quickstart" in readme
    assert "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox" in readme
