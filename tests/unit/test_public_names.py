"""`__all__` is what each module says is public: sorted, complete, importable."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_airlock

#: Modules that other people import from.
PUBLIC = [
    "pytest_airlock", "pytest_airlock.errors", "pytest_airlock.models", "pytest_airlock.orchestrator",
    "pytest_airlock.providers.base", "pytest_airlock.sandbox", "pytest_airlock.testing",
]  # fmt: skip


def modules():
    for found in pkgutil.walk_packages(pytest_airlock.__path__, "pytest_airlock."):
        yield found.name, ast.parse(Path(found.module_finder.find_spec(found.name).origin).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_name_in_all_is_there(name):
    module = importlib.import_module(name)
    assert [word for word in module.__all__ if not hasattr(module, word)] == []
    assert len(set(module.__all__)) == len(module.__all__)


def test_the_package_lists_every_name_that_type_checkers_see():
    tree = ast.parse(Path(pytest_airlock.__file__).read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = [alias.asname for line in block.body for alias in line.names]
    assert sorted(seen) == pytest_airlock.__all__


def test_dir_offers_the_lazy_names():
    assert set(pytest_airlock.__all__) <= set(dir(pytest_airlock))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        pytest_airlock.nothing  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    script = (
        "import sys, pytest_airlock; print([m for m in ('pydantic', 'yaml', 'ctypes', 'pytest') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_sandbox_that_serves_nothing_imports_no_server():
    script = (
        "import sys, pytest_airlock.sandbox;"
        "print([m for m in ('http.server', 'ssl', 'asyncio', 'trustme', 'cryptography') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_all_is_literal_and_names_what_the_module_defines():
    """A name in `__all__` that nothing defines would break `import *` and documentation."""
    wrong = []
    for name, tree in modules():
        for node in tree.body:
            if not (isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"):
                continue
            module = importlib.import_module(name)
            wrong += [f"{name}.{word}" for word in module.__all__ if not hasattr(module, word)]
    assert wrong == []
