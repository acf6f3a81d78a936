"""The engine with named protections taken out, so that each attack is also seen to work: production code has no such switch.

A weakened engine is a copy of `providers/namespaces/engine/`, edited in a temporary directory, from which a provider's fork server
is booted. An edit that does not find exactly one place to be made raises: a control never passes because nothing was changed.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_airlock.providers.namespaces import NamespacesProvider, client, dialling


class Replace(NamedTuple):
    """Text that stands exactly once in the engine's files, and what comes in its place."""

    old: str
    new: str


class Redefine(NamedTuple):
    """A function or constant of exactly one module, defined again at that module's end."""

    name: str
    source: str


class OnHost(NamedTuple):
    """A name of the test process ("package.module.name") and its value while the control runs."""

    target: str
    value: Any


Edit = Replace | Redefine | OnHost
#: What is taken out, by name.
WEAKENINGS: dict[str, tuple[Edit, ...]] = {}


class NothingToWeaken(LookupError):
    """The engine has changed: the edit must be written anew."""


def weaken(name: str, *edits: Edit) -> str:
    """Name a weakening."""
    if name in WEAKENINGS:
        raise KeyError(f"there is a weakening {name!r} already")
    WEAKENINGS[name] = edits
    return name


def copy_engine(directory: Path, names: tuple[str, ...]) -> Path:
    """Copy the engine below `directory` and take the named protections out. Raises NothingToWeaken."""
    engine = directory / "engine"
    # With what is compiled already: only what is edited is compiled anew.
    shutil.copytree(Path(client.__file__).parent / "engine", engine)
    # It tells that it was booted from here.
    edits: list[Edit] = [Replace('"pid": os.getpid(),', '"pid": os.getpid(), "weakened": True,')]
    for edit in edits + [edit for name in names for edit in WEAKENINGS[name]]:
        _apply(engine, edit)
    return directory


def _apply(engine: Path, edit: Edit) -> None:
    if isinstance(edit, OnHost):
        return
    files = {path: path.read_text() for path in engine.rglob("*.py")}
    if isinstance(edit, Replace):
        places = [path for path, text in files.items() for _ in range(text.count(edit.old))]
    else:
        defined = re.compile(rf"^(def {edit.name}\(|{edit.name}\b.* = )", re.MULTILINE)
        places = [path for path, text in files.items() if defined.search(text)]
    if len(places) != 1:
        raise NothingToWeaken(f"{edit} fits {len(places)} places of the engine, not one")
    (path,) = places
    text = files[path]
    path.write_text(text.replace(edit.old, edit.new) if isinstance(edit, Replace) else f"{text}\n\n{edit.source}\n")


@contextlib.contextmanager
def on_host(names: tuple[str, ...]) -> Iterator[None]:
    """While it lasts the test process is weakened, too."""
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            for edit in WEAKENINGS[name]:
                if isinstance(edit, OnHost):
                    patch.setattr(edit.target, edit.value)
        yield


def boot(directory: Path, names: tuple[str, ...]) -> NamespacesProvider:
    """A provider whose fork server runs the weakened copy; close it in the end."""
    copy_engine(directory, names)
    provider = NamespacesProvider()
    with pytest.MonkeyPatch.context() as patch, on_host(names):
        # Where the engine lies is told by the working directory it is started in.
        for module in (client, dialling):
            patch.setattr(module, "__file__", str(directory / "client.py"))
        try:
            provider.probe()
            assert provider._engine is not None
            assert provider._engine.found.get("weakened"), "the real engine was booted"
            provider._engine.begin_dialler()
        except BaseException:
            provider.close()
            raise
    return provider
