"""A kept sandbox of the embedded engine: it dies with the run, the files it changed are there afterwards (r12, r44)."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest

SUITE = """
import pytest

pytestmark = pytest.mark.airlock(profile="trusted", network="locked")

CHANGE = '''
echo changed >> /etc/hosts
mkdir /opt/tool
echo new > /opt/tool/bin
chmod 6777 /opt/tool/bin
ln -s /etc/shadow /opt/tool/out
mkfifo /opt/tool/fifo
rm /etc/machine-id
echo scratch > /tmp/note
(setsid sleep 1000 &)
'''

def test_asked(airlock_factory):
    airlock_factory(name="asked", keep=True).shell(CHANGE, check=True)

def test_failed(airlock_factory):
    airlock_factory(name="failed").shell(CHANGE, check=True)
    raise ValueError

def test_passed(airlock_factory):
    airlock_factory(name="passed").shell(CHANGE, check=True)
"""


@pytest.fixture
def real(project: pytest.Pytester) -> pytest.Pytester:
    project.makeconftest("")
    project.makeini("[pytest]\nairlock_provider = namespaces\n")
    return project


def airlock(real: pytest.Pytester, *arguments: str) -> str:
    """The output of the command, run as another process."""
    code = "import sys; from pytest_airlock.cli import main; sys.exit(main())"
    result = real.run(sys.executable, "-c", code, *arguments)
    assert result.ret == 0, result.stderr.str()
    return result.stdout.str()


def test_r12_r44_the_files_of_a_failed_test_are_there_until_destroyed(real: pytest.Pytester, own_state: Path) -> None:
    real.makepyfile(SUITE)
    result = real.runpytest_subprocess("--airlock-keep=failed")
    result.assert_outcomes(passed=2, failed=1)
    kept = own_state / "kept"
    result.stdout.fnmatch_lines([f"sandbox 'failed' * was kept as files in {kept}/failed: `airlock destroy failed`*"])
    assert sorted(path.name for path in kept.iterdir()) == ["asked", "failed"]

    files = kept / "failed/files"
    assert (files / "etc/hosts").read_text().endswith("changed\n")
    assert (files / "tmp/note").read_text() == "scratch\n"
    assert [path.name for path in (files / "opt/tool").iterdir()] == ["bin"]
    assert stat.S_IMODE((files / "opt/tool/bin").stat().st_mode) == 0o755
    told = {change["path"]: change for change in json.loads((kept / "failed/changes.json").read_text())["changes"]}
    assert told["/etc/machine-id"]["kind"] == "deleted"
    assert told["/opt/tool/out"]["target"] == "/etc/shadow"
    assert told["/opt/tool/fifo"]["left_out"] == "a fifo"
    assert told["/opt/tool/bin"]["mode"] == "6777"

    assert f"{kept}/failed (" in airlock(real, "list")
    assert "stopped, kept" in airlock(real, "status", "failed")
    airlock(real, "gc")
    assert files.exists()
    airlock(real, "destroy", "failed")
    assert sorted(path.name for path in kept.iterdir()) == ["asked"]
    airlock(real, "gc", "--kept")
    left = [path for path in own_state.rglob("*") if not path.is_dir()]
    assert [path for path in left if ".cache" not in path.parts] == []
