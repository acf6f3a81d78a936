"""image=DIRECTORY and image=TARBALL on the real engine: a small root file system made from this machine's own programs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from pytest_airlock import create_sandbox


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    root = tmp_path / "rootfs"
    for name in ("sh", "cat", "touch", "rm", "ls"):
        program = os.path.realpath(shutil.which(name) or name)
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for path in re.findall(r"(/\S+) \(0x", listed):
            target = root / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(os.path.realpath(path), target)
        (root / "bin").mkdir(exist_ok=True)
        shutil.copy(program, root / "bin" / name)
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc" / "motd").write_text("hello\n")
    return root


@pytest.fixture(params=["directory", "tarball"])
def image(request: pytest.FixtureRequest, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AIRLOCK_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if request.param == "directory":
        return str(rootfs)
    with tarfile.open(tmp_path / "rootfs.tar.gz", "w:gz") as archive:
        archive.add(rootfs, ".")
    return str(tmp_path / "rootfs.tar.gz")


def test_it_is_the_whole_machine_and_as_good_as_new_after_a_reset(image: str, rootfs: Path) -> None:
    with create_sandbox(image=image, source=False) as box:
        assert box.run(["cat", "/etc/motd"]).stdout == "hello\n"
        assert not box.path("/usr/bin/env").exists()
        box.shell("rm /etc/motd; touch /bin/new", check=True)
        diff = box.diff()
        assert diff.added == {"/bin/new"}
        assert diff.deleted == {"/etc/motd"}
        box.reset()
        assert box.run(["cat", "/etc/motd"]).stdout == "hello\n"
        assert not box.diff().added
    assert (rootfs / "etc" / "motd").read_text() == "hello\n"
    assert not (rootfs / "bin" / "new").exists()
