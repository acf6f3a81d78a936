"""What is in the wheel and the sdist."""

from __future__ import annotations

import tarfile
import zipfile
from email.parser import BytesParser
from pathlib import Path


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path, name: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (path for path in archive.namelist() if path.endswith(f".dist-info/{name}"))
        return archive.read(path)


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in names(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"pytest_airlock"}


def test_the_wheel_is_typed_and_has_the_conformance_tests(wheel: Path) -> None:
    held = names(wheel)
    assert "pytest_airlock/py.typed" in held
    assert "pytest_airlock/conformance/__init__.py" in held
    assert "pytest_airlock/testing/__init__.py" in held


def test_no_bytecode_is_shipped(wheel: Path) -> None:
    assert not [name for name in names(wheel) if "__pycache__" in name or name.endswith(".pyc")]


def test_the_wheel_is_pure(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")


def test_the_mandatory_dependencies_are_the_agreed_ones(wheel: Path) -> None:
    message = BytesParser().parsebytes(metadata(wheel, "METADATA"))
    lines = message.get_all("Requires-Dist", [])
    required = {line.split(">")[0].split(";")[0].strip().lower() for line in lines if "extra ==" not in line}
    assert {line.split(">")[0] for line in lines if "extra == 'tls'" in line.replace('"', "'")} == {
        "trustme",
        "cryptography",
    }
    assert required == {
        "pytest", "pluggy", "pydantic", "pyyaml", "filelock", "pytest-xdist", "platformdirs", "tomli",
    }  # fmt: skip
    assert message["Requires-Python"] == ">=3.10"
    assert message["License-Expression"] == "MIT"


def test_the_entry_points_are_registered(wheel: Path) -> None:
    text = metadata(wheel, "entry_points.txt").decode()
    assert "[pytest11]\nairlock = pytest_airlock.plugin" in text
    assert "namespaces = pytest_airlock.providers.namespaces:" in text


def test_the_sdist_has_what_its_tests_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.split("/", 1)[1]: archive.getmember(name) for name in archive.getnames() if "/" in name}
    assert {"tox.ini", "pyproject.toml", "LICENSE", "CHANGELOG.md", "README.md"} <= held.keys()
    assert "tests/packaging/test_distribution.py" in held
    assert held["examples/quickstart/install.sh"].mode & 0o111
