"""Provisioning over the embedded engine: by one worker for all, by one run for the next."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

SUITE = """
    import pytest

    @pytest.mark.airlock(provision=[["sh", "-c", "date +%s%N > /opt/when"]{more}])
    @pytest.mark.parametrize("n", range(4))
    def test_when(airlock_sandbox, n):
        with open({log!r}, "a") as file:
            file.write(airlock_sandbox.path("/opt/when").read_text())
        airlock_sandbox.path("/opt/when").write_text("dirt")
"""


@pytest.fixture
def when(pytester: pytest.Pytester, own_state: Path, monkeypatch: pytest.MonkeyPatch) -> When:
    monkeypatch.setenv("HOME", str(own_state))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return When(pytester, own_state)


class When:
    """Runs a suite, and tells at which times its sandboxes were provisioned."""

    def __init__(self, pytester: pytest.Pytester, home: Path) -> None:
        self.pytester, self.log, self.cache = pytester, home / "log", home / ".cache/pytest-airlock/layers"
        # Beside it pytester has the temporary directories of its runs.
        self.project = pytester.mkdir("project")
        (self.project / "pytest.ini").write_text("[pytest]\nairlock_provider = namespaces\n")
        self.write()

    def write(self, more: str = "") -> None:
        (self.project / "test_when.py").write_text(textwrap.dedent(SUITE).format(log=str(self.log), more=more))

    def run(self, *arguments: str) -> set[str]:
        self.log.unlink(missing_ok=True)
        self.result = self.pytester.runpytest_subprocess(*arguments, self.project)
        self.result.assert_outcomes(passed=4)
        return set(self.log.read_text().split())


def test_workers_and_later_runs_share_what_one_provisioned(when: When) -> None:
    times = when.run("-n", "2")
    assert len(times) == 1
    assert when.run() == times
    assert when.run("-n", "2") == times


def test_refresh_provisions_once_more(when: When) -> None:
    old = when.run()
    new = when.run("-n", "2", "--airlock-refresh")
    assert len(new) == 1
    assert new != old
    assert when.run() == new


def test_what_commands_can_read_decides(when: When) -> None:
    old = when.run()
    (when.project / "setup.py").write_text("")
    new = when.run()
    assert new != old
    (when.project / "setup.py").write_text("import sys")
    assert when.run() not in (old, new)
    when.write(', "true"')
    assert when.run() not in (old, new)


def test_a_damaged_file_is_told_and_made_anew(when: When) -> None:
    old = when.run()
    (path,) = when.cache.glob("*.layer")
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    assert when.run() != old
    when.result.stdout.fnmatch_lines(["*provisioned cannot be used and is made anew: it is not what was written*"])


def test_nobody_else_can_read_what_is_kept(when: When) -> None:
    when.run()
    (path,) = when.cache.glob("*.layer")
    assert path.stat().st_mode & 0o777 == 0o600
    assert when.cache.stat().st_mode & 0o777 == 0o700
    assert not list(when.cache.glob("*.lease"))
