"""The engine as it is where tmpfs keeps no user.* attributes (Linux before 6.6), on any kernel: what is asked, once, answers no.

Only a copy of the engine in a temporary directory is edited; production code has no such switch. As a plugin (`-p`) it does so
for all providers of a run.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_airlock.providers.namespaces import client

EDIT = "\n\ndef tmpfs_keeps_attributes():\n    return False\n"


_CLIENT = Path(client.__file__)


def edited(directory: Path, edit: str = EDIT) -> str:
    """Copy the engine below `directory`, edited; the path of the client that would boot it."""
    shutil.copytree(_CLIENT.parent / "engine", directory / "engine")
    stage = directory / "engine" / "stage.py"
    text = stage.read_text()
    if text.count("def tmpfs_keeps_attributes(") != 1:
        raise LookupError("the engine has changed: there is nothing to edit")
    stage.write_text(text + edit)
    return str(directory / "client.py")


@pytest.fixture(scope="session", autouse=True)
def uppers_on_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "__file__", edited(tmp_path_factory.mktemp("edited")))
        yield
