"""What every pytest run of the environment pays for the plugin, used or not."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Loaded by pytest itself or not at all by an unused plugin; each costs more than the whole plugin may.
HEAVY = ("pydantic", "yaml", "filelock", "platformdirs", "ctypes", "asyncio", "multiprocessing")


def loaded(code: str) -> set[str]:
    """The modules that a fresh interpreter has after `code`."""
    text = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines())


def imported(module: str) -> set[str]:
    """The modules that `python -X importtime -c "import module"` lists."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def test_import_of_the_plugin_is_light() -> None:
    modules = imported("pytest_airlock.plugin")
    assert "pytest_airlock.plugin.settings" in modules
    assert not modules & set(HEAVY)


def test_nothing_but_its_own_modules_is_added_to_those_of_pytest() -> None:
    before = loaded("import pytest, _pytest.config; _pytest.config.get_config()")
    after = loaded("import pytest, _pytest.config; _pytest.config.get_config(); import pytest_airlock.plugin")
    assert {name for name in after - before if not name.startswith("pytest_airlock")} == set()


def test_a_run_that_uses_no_sandbox_loads_nothing_else(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Alone: what other plugins load is not ours to answer for.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(f"""
        import sys

        def test_unused():
            ours = {{name for name in sys.modules if name.startswith("pytest_airlock.")}}
            assert ours and all(name.startswith("pytest_airlock.plugin") for name in ours)
            assert not set({HEAVY[:5]!r}) & set(sys.modules)
    """)
    result = pytester.runpytest_subprocess("-p", "pytest_airlock.plugin")
    result.assert_outcomes(passed=1)


def test_importing_the_package_loads_none_of_it() -> None:
    assert {name for name in loaded("import pytest_airlock") if name.startswith("pytest_airlock")} == {"pytest_airlock"}
