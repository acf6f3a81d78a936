"""Skeletons on disk: true to the source as it is now, whole or not used, safe from others, and not without bound."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_airlock.providers.namespaces.engine import shape, skeletons
from pytest_airlock.providers.namespaces.engine.skeletons import Skeletons


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources of tests are small, and were made just now."""
    monkeypatch.setattr(skeletons, "WORTHWHILE", 3)
    monkeypatch.setattr(shape, "_RACY", -3_000_000_000)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path / "source")


def make_source(path: Path) -> Path:
    for below in ("a/b", "c", "d/e/f"):
        (path / below).mkdir(parents=True)
    (path / "c").chmod(0o750)
    (path / "d").chmod(0o1777)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def server(cache: Path) -> Iterator[Callable[[], Server]]:
    """A fork server's share of it, each time another one."""
    made: list[Server] = []

    def make() -> Server:
        made.append(Server(cache))
        return made[-1]

    yield make
    for one in made:
        one.end()


class Server:
    def __init__(self, cache: Path) -> None:
        self.cache, self.skeletons = str(cache), Skeletons()

    def find(self, source: Path) -> Path | None:
        """The tree, once what was begun in the background is done."""
        tree = self.skeletons.find(self.cache, str(source))[0]
        self.settle()
        return None if tree is None else Path(tree).resolve()

    def settle(self) -> None:
        for pid in self.skeletons.children:
            os.waitpid(pid, 0)
        self.skeletons.children.clear()

    def end(self) -> None:
        self.settle()
        for fd in (*self.skeletons._held, self.skeletons._home):
            if fd >= 0:
                os.close(fd)
        self.skeletons._held.clear()
        self.skeletons._home = -1


def built(server: Callable[[], Server], source: Path) -> Path:
    """The tree, which nobody uses."""
    for _ in range(3):
        one = server()
        tree = one.find(source)
        one.end()
    assert tree is not None
    return tree


def shown(top: Path) -> dict[str, int]:
    return {str(path.relative_to(top)): path.stat().st_mode & 0o7777 for path in top.rglob("*")}


def test_one_server_notes_it_the_next_has_it_built_and_all_others_use_it(
    server: Callable[[], Server], source: Path, cache: Path
) -> None:
    assert server().find(source) is None
    assert not list(cache.glob("skeletons/*/tree")), "what does not last is not worth a tree"
    assert server().find(source) is None
    first, second = server().find(source), server().find(source)
    assert first is not None
    assert second is not None
    assert first.samefile(second)
    assert shown(first) == shown(source)
    assert {entry.name.count("-") for entry in cache.glob("skeletons/*")} == {1}, "nothing else is left there"


def test_a_source_that_has_changed_never_gets_the_tree_of_before(server: Callable[[], Server], source: Path) -> None:
    old = built(server, source)
    (source / "a/b").rmdir()
    assert server().find(source) is None
    new = built(server, source)
    assert not new.samefile(old)
    assert shown(new) == shown(source)


def test_two_sources_do_not_share(server: Callable[[], Server], source: Path, tmp_path: Path) -> None:
    other = make_source(tmp_path / "other")
    assert not built(server, source).samefile(built(server, other))


def test_a_tree_that_was_begun_is_not_used_and_gets_finished(
    server: Callable[[], Server], source: Path, cache: Path
) -> None:
    tree = built(server, source)
    (cache / "skeletons" / tree.parent.name / "done").unlink()
    (tree / "d/e/f").rmdir()
    assert server().find(source) is None
    again = server().find(source)
    assert again is not None
    assert shown(again) == shown(source)


def test_who_comes_while_it_is_built_knows_the_shape_and_builds_nothing(
    server: Callable[[], Server], source: Path, cache: Path
) -> None:
    server().find(source)
    (entry,) = cache.glob("skeletons/*")
    with open(entry / "list", "rb") as builder:
        fcntl.flock(builder, fcntl.LOCK_EX)
        one = server()
        assert one.skeletons.find(str(cache), str(source)) == (None, shape.Shape.of(str(source)))
        one.settle()
        assert not (entry / "tree").exists()
    assert [path.name for path in cache.glob("skeletons/*")] == [entry.name]


def wait_for_death(pid: int) -> None:
    """Of a process that is no child of ours. It holds its lock until then."""
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            assert select.select([fd], [], [], 60)[0]
        finally:
            os.close(fd)


def test_a_server_that_dies_takes_its_builder_along_and_leaves_nothing_that_is_used(
    server: Callable[[], Server], source: Path, cache: Path
) -> None:
    server().find(source)
    context = multiprocessing.get_context("fork")
    ready, told = context.Pipe()

    def build_and_die() -> None:
        one = Server(cache)
        make, one.skeletons._build = (
            one.skeletons._build,
            lambda *words: (told.send(os.getpid()), make(*words), os.read(0, 1)),
        )  # type: ignore[method-assign,assign]
        one.skeletons.find(one.cache, str(source))
        os.kill(os.getpid(), 9)

    process = context.Process(target=build_and_die)
    process.start()
    process.join()
    assert server().find(source) is None or ready.poll(), "either it never began, or it was finished"
    if ready.poll():
        wait_for_death(ready.recv())
    assert shown(built(server, source)) == shown(source)


@pytest.mark.parametrize("damage", ["list cut", "list empty", "no list", "a file in its place"])
def test_what_is_damaged_is_not_used(server: Callable[[], Server], source: Path, cache: Path, damage: str) -> None:
    entry = cache / "skeletons" / built(server, source).parent.name
    if damage == "list cut":
        os.truncate(entry / "list", 100)
    elif damage == "list empty":
        os.truncate(entry / "list", 0)
    elif damage == "no list":
        (entry / "list").unlink()
    else:
        entry.rename(cache / "gone")
        entry.write_text("")
    assert server().find(source) is None


@pytest.mark.parametrize(("path", "mode"), [("", 0o777), ("", 0o770), ("skeletons", 0o750), ("skeletons", 0o701)])
def test_a_cache_that_others_can_write_or_see_is_not_used(
    server: Callable[[], Server], source: Path, cache: Path, path: str, mode: int
) -> None:
    built(server, source)
    (cache / path).chmod(mode)
    assert server().find(source) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_cache_of_somebody_else_is_not_used(server: Callable[[], Server], source: Path, cache: Path) -> None:
    built(server, source)
    os.chown(cache, 12345, -1)
    assert server().find(source) is None


def test_a_link_in_the_place_of_the_cache_is_not_followed(
    server: Callable[[], Server], source: Path, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    cache.mkdir(mode=0o700)
    (cache / "skeletons").symlink_to(tmp_path / "elsewhere")
    assert server().find(source) is None
    assert not list((tmp_path / "elsewhere").iterdir())


def test_where_nothing_can_be_kept_nothing_is(server: Callable[[], Server], source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    one = Server(tmp_path / "file/cache")
    assert one.find(source) is None


def test_a_full_disk_gets_no_tree(server: Callable[[], Server], source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skeletons, "SPARE_BYTES", 1 << 60)
    for _ in range(3):
        assert server().find(source) is None


def test_small_sources_are_not_kept(
    server: Callable[[], Server], source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skeletons, "WORTHWHILE", 100)
    assert server().find(source) is None
    assert not list(cache.glob("skeletons/*"))


def test_the_few_used_last_are_kept(server: Callable[[], Server], tmp_path: Path, cache: Path) -> None:
    sources = [make_source(tmp_path / f"source{number}") for number in range(skeletons.KEPT + 3)]
    for source in sources:
        one = server()
        one.find(source)
        one.end()
    assert len(list(cache.glob("skeletons/*"))) == skeletons.KEPT


def test_what_somebody_uses_is_not_removed(
    server: Callable[[], Server], source: Path, tmp_path: Path, cache: Path
) -> None:
    for _ in range(2):
        server().find(source)
    user = server()
    tree = user.find(source)
    assert tree is not None
    for number in range(skeletons.KEPT + 3):
        one = server()
        one.find(make_source(tmp_path / f"source{number}"))
        one.end()
    assert shown(tree) == shown(source)
    user.end()
    one = server()
    one.find(make_source(tmp_path / "last"))
    assert not (cache / "skeletons" / tree.parent.name).exists()


def test_what_dead_processes_left_is_removed(server: Callable[[], Server], source: Path, cache: Path) -> None:
    server().find(source)
    for name in ("new-1", "dead-1"):
        (cache / "skeletons" / name / "tree/x").mkdir(parents=True)
    server().find(make_source(cache.parent / "other"))
    assert not list(cache.glob("skeletons/new-*"))
    assert not list(cache.glob("skeletons/dead-*"))
