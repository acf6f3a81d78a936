"""A wheel made here, offline, so that the quickstart can install a package with pip."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

FILES = {
    "parcel/__init__.py": 'def main() -> None:\n    print("a parcel from a wheel")\n',
    "parcel-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: parcel\nVersion: 1.0\n",
    "parcel-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: quickstart\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "parcel-1.0.dist-info/entry_points.txt": "[console_scripts]\nparcel = parcel:main\n",
}
RECORD = "parcel-1.0.dist-info/RECORD"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest wheel with a module and a command (binary distribution format, packaging.python.org)."""
    path = tmp_path_factory.mktemp("wheel") / "parcel-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in FILES.items():
            archive.writestr(name, text)
        archive.writestr(RECORD, "".join(f"{name},,\n" for name in [*FILES, RECORD]))
    return path
