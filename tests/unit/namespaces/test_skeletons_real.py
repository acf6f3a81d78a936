"""The engine on a skeleton that lies on disk: the sandbox cannot tell, and cannot reach it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_airlock.providers.base import Command, Handle, ProviderSpec, ResolvedMount
from pytest_airlock.providers.namespaces import NamespacesProvider
from pytest_airlock.providers.namespaces.engine import shape, skeletons
from pytest_airlock.providers.namespaces.engine.skeletons import Skeletons


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pytest-airlock"


@pytest.fixture
def tree(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """The skeleton of a source, built beforehand; held so that nobody removes it."""
    mine = Skeletons()

    def build(source: str) -> Path:
        monkeypatch.setattr(skeletons, "WORTHWHILE", 0)
        monkeypatch.setattr(shape, "_RACY", -3_000_000_000)
        for _ in range(2):
            mine.find(str(cache), source)
            for pid in mine.children:
                os.waitpid(pid, 0)
            mine.children.clear()
        found = mine.find(str(cache), source)[0]
        assert found is not None
        return Path(found).resolve()

    yield build
    for fd in (*mine._held, mine._home):
        os.close(fd)


@pytest.fixture
def started() -> Iterator[Callable[..., tuple[NamespacesProvider, Handle]]]:
    made: list[NamespacesProvider] = []

    def start(**words: object) -> tuple[NamespacesProvider, Handle]:
        made.append(NamespacesProvider())
        handle = made[-1].create(ProviderSpec(name="box", **words))  # type: ignore[arg-type]
        made[-1].start(handle)
        return made[-1], handle

    yield start
    for provider in made:
        provider.close()


def shell(provider: NamespacesProvider, handle: Handle, script: str) -> None:
    process = provider.spawn(
        handle, Command(("/bin/sh", "-ec", script), tuple(provider.environ(handle).items()), cwd="/")
    )
    try:
        assert process.wait(60).returncode == 0
    finally:
        process.close()


def listing(top: Path) -> list[tuple[str, int, int]]:
    return sorted((str(path), path.lstat().st_mode, path.lstat().st_mtime_ns) for path in top.rglob("*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="as root the files of the machine are shifted: there is no skeleton")
def test_the_image_is_writable_and_what_is_kept_stays_as_it_was(
    tree: Callable[[str], Path], started: Callable[..., tuple[NamespacesProvider, Handle]]
) -> None:
    kept, before = tree("/usr"), time.time_ns()
    was = listing(kept)
    provider, handle = started()
    place = next(f"/usr/share/{path.name}" for path in sorted((kept / "share").iterdir()) if path.is_dir())
    assert provider.stat(handle, place).mtime_ns < before, "the directories are those on disk"
    shell(
        provider, handle, f"touch {place}/new; mkdir -p {place}/d/e; rm -r {place}/d; chmod 700 {place}; rm -r {place}"
    )
    shell(provider, handle, f"test ! -e {place}; mkdir {place}; touch {place}/again")
    assert listing(kept) == was


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """A directory of a file system that cannot be shifted, as the root of a container is."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    for number in range(600):
        (tmp_path / f"lower/{number}").mkdir(mode=0o755)
    (tmp_path / "lower/1/file").write_text("1")
    options = ",".join(f"{name}dir={tmp_path / name}" for name in ("lower", "upper", "work"))
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, tmp_path / "merged"], check=True)
    yield tmp_path / "merged"
    subprocess.run(["umount", "-l", tmp_path / "merged"], check=True)


def test_as_root_it_is_shifted_where_the_image_cannot_be(
    overlay: Path, tree: Callable[[str], Path], started: Callable[..., tuple[NamespacesProvider, Handle]]
) -> None:
    kept, before = tree(str(overlay)), time.time_ns()
    was = listing(kept)
    mounts = (ResolvedMount(str(overlay), "/data", "cow"),)
    for _ in range(2):
        provider, handle = started(mounts=mounts)
        found = provider.stat(handle, "/data/1")
        assert (found.uid, found.mode & 0o777) == (0, 0o755)
        assert found.mtime_ns < before, "the directories are those on disk"
        shell(
            provider,
            handle,
            "cat /data/1/file; touch /data/2/new; rm -r /data/3; mkdir /data/3",
        )
        provider.close()
    assert listing(kept) == was


def test_a_directory_that_comes_to_the_image_is_seen_by_the_next_server(
    overlay: Path, tree: Callable[[str], Path], started: Callable[..., tuple[NamespacesProvider, Handle]]
) -> None:
    tree(str(overlay))
    (overlay / "5/later").mkdir()
    (overlay / "6").rmdir()
    provider, handle = started(mounts=(ResolvedMount(str(overlay), "/data", "cow"),))
    shell(provider, handle, "touch /data/5/later/new; test ! -e /data/6")
