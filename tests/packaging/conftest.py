"""The distribution as users get it: built once, installed in a fresh environment outside the checkout."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest
from installation import ROOT, Installed, clean_environment


def _checked(argv: Sequence[str], cwd: Path) -> None:
    done = subprocess.run(argv, cwd=cwd, env=clean_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(argv)}\n{done.stdout}\n{done.stderr}", pytrace=False)


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one sdist and the wheel that was built *from it*, so that both are complete."""
    directory = tmp_path_factory.mktemp("dist")
    _checked([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory), str(ROOT)], directory)
    return directory


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def sdist(dist: Path) -> Path:
    (found,) = dist.glob("*.tar.gz")
    return found


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Installed:
    prefix = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(prefix, with_pip=True, symlinks=True)
    home = tmp_path_factory.mktemp("elsewhere")
    _checked([str(prefix / "bin" / "python"), "-m", "pip", "install", "--quiet", f"{wheel}[tls]", "requests"], home)
    return Installed(prefix, home)
