"""The host's interpreter, which the fork server runs, is out of reach also where it belongs to the user."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_airlock.providers.namespaces import loader

ATTACK = """
import os, sys
from pytest_airlock.providers.base import Command, ProviderSpec
from pytest_airlock.providers.namespaces import NamespacesProvider

provider = NamespacesProvider()
handle = provider.create(ProviderSpec("attacker"))
provider.start(handle)
provider.change(handle, "symlink", "/usr/local/bin/tool", to="/proc/self/exe")
provider.write(handle, "/usr/local/bin/script", b"#!/proc/self/exe -ISc\\n", mode=0o755)
code = "import os; os.chmod('/proc/self/exe', 0o4777)"
for argv in (("/usr/local/bin/tool", "-I", "-S", "-c", code), ("/usr/local/bin/tool", sys.executable, "-ISc", code), ("/usr/local/bin/script",)):
    try:
        process = provider.spawn(handle, Command(argv, tuple(provider.environ(handle).items()), cwd="/"))
    except OSError as error:
        print(error)
        continue
    process.wait(60)
    process.close()
provider.close()
print("attacked")
"""


MADE = "NamespacesProvider()"
#: The fork server is started without the loader, and without the second wall, which lets nobody run a file of the host.
UNGUARDED = """
import tempfile
from pathlib import Path

import weakened
import weakenings
from pytest_airlock.providers.namespaces import client

client.interpreter = lambda executable: ([executable], ())
"""
UNWALLED = "weakened.boot(Path(tempfile.mkdtemp(dir=Path(sys.executable).parent)), (weakenings.NO_LANDLOCK,))"


def attacked(tmp_path: Path, script: str) -> tuple[os.stat_result, os.stat_result]:
    """An interpreter of the user's own, before and after."""
    own = tmp_path / "bin" / "python3"
    own.parent.mkdir(parents=True)
    shutil.copy(os.path.realpath(sys.executable), own)
    before = own.stat()
    home = {
        "PYTHONHOME": f"{sys.base_prefix}:{sys.base_exec_prefix}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    library = str(Path(sys.base_prefix) / "lib")
    done = subprocess.run(
        [str(own), "-c", script],
        env={**os.environ, **home, "LD_LIBRARY_PATH": library},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.endswith("attacked\n"), done.stdout + done.stderr
    return before, own.stat()


def test_rule12_a_planted_link_to_what_pid_1_runs_does_not_change_the_hosts_interpreter(
    tmp_path: Path, mode: str, row: Callable[..., None]
) -> None:
    """The class of CVE-2019-5736; as root the sandbox's ids are no owners of it, and nothing stands in the loader's place."""
    before, after = attacked(tmp_path, ATTACK)
    assert (after.st_mode, after.st_mtime_ns, after.st_size) == (before.st_mode, before.st_mtime_ns, before.st_size)
    unguarded = UNGUARDED + ATTACK.replace(MADE, UNWALLED)
    changed = stat.S_IMODE(attacked(tmp_path / "control", unguarded)[1].st_mode) == 0o4777
    assert changed == (mode != "root")
    what = {
        "attack": "A planted link to /proc/self/exe as a command: a set-uid bit for the user's own interpreter.",
        "group": "files",
    }
    row(
        **what,
        stops="the fork server is run by the system's loader; as root its ids are others",
        expected="unchanged",
        seen="unchanged",
    )
    row(
        **what,
        off="run without the loader (+) no Landlock",
        without="set-uid" if changed else "unchanged: root's ids are not inside",
    )


SELF = """
import os
print(os.readlink("/proc/self/exe"))
os.chmod("/proc/self/exe", 0o4777)
try:
    os.write(os.open("/proc/self/exe", os.O_RDWR), b"x")
except OSError:
    print("refused")
"""


def test_rule12_where_the_loader_is_the_users_too_a_sealed_copy_of_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for root of a rootless container, to whom all files belong."""
    own, linker = tmp_path / "python3", tmp_path / "ld.so"
    shutil.copy(os.path.realpath(sys.executable), own)
    found = loader._loader(str(own))
    assert found is not None
    shutil.copy(found, linker)
    monkeypatch.setattr(loader, "_is_root_of_the_machine", lambda: False)
    monkeypatch.setattr(loader, "_loader", lambda executable: str(linker))
    before = [(file.read_bytes(), file.stat().st_mode) for file in (own, linker)]
    words, held = loader.interpreter(str(own))
    library = str(Path(sys.base_prefix) / "lib")
    environ = {"PYTHONHOME": f"{sys.base_prefix}:{sys.base_exec_prefix}", "LD_LIBRARY_PATH": library}
    done = subprocess.run(
        [*words, "-S", "-c", SELF], env=environ, pass_fds=held, capture_output=True, text=True, check=False
    )
    os.close(held[0])
    assert done.stdout.splitlines() == ["/memfd:airlock-python (deleted)", "refused"], done.stderr
    assert [(file.read_bytes(), file.stat().st_mode) for file in (own, linker)] == before


def test_rule12_the_loader_is_the_systems_and_runs_this_interpreter() -> None:
    found = loader._loader(os.path.realpath(sys.executable))
    assert found is not None
    assert os.stat(found).st_uid == 0
    done = subprocess.run(
        [found, sys.executable, "-c", "import os; print(os.readlink('/proc/self/exe'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == os.path.realpath(found)


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF\x01" + bytes(100), b"\x7fELF\x02" + bytes(100)])
def test_what_is_no_program_with_a_loader_has_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    assert loader._loader(str(file)) is None
