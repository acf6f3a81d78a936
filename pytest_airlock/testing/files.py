"""A file system in memory, with the errors, links and modes of a real one. No host file is ever touched."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple, NoReturn

from pytest_airlock.providers.base import Change, FileKind, FileStat, TreeEntry

__all__ = ["FakeFiles", "Node"]

MAX_LINKS = 40  # path_resolution(7)
MAX_NAME = 255
MAX_LISTING = 100_000


def fail(code: int, path: str) -> NoReturn:
    raise OSError(code, os.strerror(code), path)


@dataclass(slots=True)
class Node:
    """One inode. `size` may exceed `data`: the rest is a hole. `mount` nodes are outside snapshots and diffs."""

    kind: FileKind
    mode: int
    mtime_ns: int = 0
    data: bytes = b""
    size: int = 0
    target: str | None = None
    entries: dict[str, Node] = field(default_factory=dict)
    mount: bool = False

    def clone(self, *, mounts: bool = True) -> Node:
        """A copy of the tree below; contents are immutable and shared, mounts the same objects or made empty anew."""
        if self.mount:
            return self if mounts else replace(self, entries={})
        return replace(self, entries={name: node.clone(mounts=mounts) for name, node in self.entries.items()})

    def stat(self, path: str) -> FileStat:
        return FileStat(path, self.kind, self.mode, self.size, 0, 0, self.mtime_ns, self.target)

    def mask(self) -> None:
        """Contract 22: no set-uid, no set-gid, no write for others; sticky directories stay as they are."""
        if self.kind != "symlink":
            sticky = self.kind == "dir" and self.mode & stat.S_ISVTX
            self.mode &= 0o1777 if sticky else 0o755
        for node in self.entries.values():
            if not node.mount:
                node.mask()


class Place(NamedTuple):
    """Where a path leads: the directory, the name in it, the node if there is one, the path without links."""

    parent: Node
    name: str
    node: Node | None
    path: str


class FakeFiles:
    """The tree of one sandbox. Paths are absolute; every access is as root. Thread-safe."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._ticks = 0
        self.lock = threading.RLock()
        self.root = Node("dir", 0o755)

    def resolve(self, path: str, *, follow: bool = True) -> Place:
        """Follow links inside; `..` of the root is the root."""
        if "\0" in path:
            raise ValueError("embedded null byte")
        if not path.startswith("/"):
            fail(errno.ENOENT, path)
        todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        trail: list[tuple[str, Node]] = [("", self.root)]
        links = 0
        while todo:
            name = todo.pop()
            here = trail[-1][1]
            if here.kind != "dir":
                fail(errno.ENOTDIR, path)
            if name == "..":
                del trail[max(1, len(trail) - 1) :]
                continue
            if len(os.fsencode(name)) > MAX_NAME:
                fail(errno.ENAMETOOLONG, path)
            node = here.entries.get(name)
            if node is None:
                if todo:
                    fail(errno.ENOENT, path)
                return Place(here, name, None, _join(trail, name))
            if node.kind == "symlink" and node.target is not None and (todo or follow):
                links += 1
                if links > MAX_LINKS:
                    fail(errno.ELOOP, path)
                if node.target.startswith("/"):
                    del trail[1:]
                todo += [part for part in reversed(node.target.split("/")) if part not in ("", ".")]
                continue
            trail.append((name, node))
        parent = trail[-2][1] if len(trail) > 1 else self.root
        return Place(parent, trail[-1][0], trail[-1][1], _join(trail))

    def node(self, path: str, *, follow: bool = True) -> Node:
        node = self.resolve(path, follow=follow).node
        if node is None:
            fail(errno.ENOENT, path)
        return node

    def read(self, path: str, *, limit: int) -> bytes:
        with self.lock:
            node = self._file(self.node(path), path)
            if node.size > limit:
                fail(errno.EFBIG, path)
            return node.data.ljust(node.size, b"\0")

    def write(self, path: str, data: bytes, *, mode: int = 0o644, append: bool = False) -> None:
        """Create or replace a regular file; `mode` counts for both, with `append` only for a new one."""
        with self.lock:
            place = self.resolve(path)
            node = place.node
            if node is None:
                node = self._add(place, Node("file", mode))
            elif append:
                data = self._file(node, path).data.ljust(node.size, b"\0") + data
            else:
                self._file(node, path).mode = mode
            node.data, node.size, node.mtime_ns = bytes(data), len(data), self._tick()

    def truncate(self, path: str, size: int) -> None:
        """Set the size; what is added is a hole that costs nothing."""
        with self.lock:
            if self.resolve(path).node is None:
                self.write(path, b"")
            node = self._file(self.node(path), path)
            node.data, node.size, node.mtime_ns = node.data[:size], size, self._tick()

    def stat(self, path: str, *, follow_symlinks: bool = True) -> FileStat:
        with self.lock:
            return self.node(path, follow=follow_symlinks).stat(path)

    def listdir(self, path: str) -> list[FileStat]:
        with self.lock:
            node = self.node(path)
            if node.kind != "dir":
                fail(errno.ENOTDIR, path)
            if len(node.entries) > MAX_LISTING:
                fail(errno.EOVERFLOW, path)
            base = path.rstrip("/")
            return [child.stat(f"{base}/{name}") for name, child in sorted(node.entries.items())]

    def mkdir(self, path: str, mode: int = 0o755) -> Node:
        with self.lock:
            return self._new(path, Node("dir", mode))

    def symlink(self, path: str, target: str) -> None:
        with self.lock:
            self._new(path, Node("symlink", 0o777, target=target, size=len(os.fsencode(target))))

    def special(self, path: str, kind: FileKind, mode: int = 0o644) -> None:
        with self.lock:
            self._new(path, Node(kind, mode))

    def chmod(self, path: str, mode: int) -> None:
        with self.lock:
            self.node(path).mode = mode & 0o7777

    def remove(self, path: str, *, tree: bool = False) -> None:
        """As remove(3): a file, a link, an empty directory; with `tree` a full one too. Links are not followed."""
        with self.lock:
            place = self.resolve(path, follow=False)
            if place.node is None:
                fail(errno.ENOENT, path)
            if place.node is self.root or place.node.mount:
                fail(errno.EBUSY, path)
            if place.node.entries and not tree:
                fail(errno.ENOTEMPTY, path)
            del place.parent.entries[place.name]
            place.parent.mtime_ns = self._tick()

    def rename(self, path: str, to: str) -> None:
        with self.lock:
            old, new = self.resolve(path, follow=False), self.resolve(to, follow=False)
            if old.node is None:
                fail(errno.ENOENT, path)
            if new.node is old.node:
                return
            if f"{new.path}/".startswith(f"{old.path}/"):
                fail(errno.EINVAL, path)
            if new.node is not None:
                if new.node.kind == "dir" and old.node.kind != "dir":
                    fail(errno.EISDIR, to)
                if new.node.kind != "dir" and old.node.kind == "dir":
                    fail(errno.ENOTDIR, to)
                if new.node.entries:
                    fail(errno.ENOTEMPTY, to)
            del old.parent.entries[old.name]
            new.parent.entries[new.name] = old.node
            old.parent.mtime_ns = new.parent.mtime_ns = self._tick()

    def export(self, path: str, *, limit: int) -> Iterator[TreeEntry]:
        """Parents first. `path` itself is followed if it is a link, nothing below it is."""
        with self.lock:
            nodes = list(_walk("", self.node(path).clone()))
        left = limit
        for name, node in nodes:
            left -= node.size if node.kind == "file" else 0
            if left < 0:
                fail(errno.EFBIG, f"{path}/{name}".rstrip("/"))
            yield TreeEntry(name, node.kind, node.mode, node.size, node.mtime_ns, node.target, _chunks(node))

    def load(self, path: str, entries: Iterable[TreeEntry]) -> None:
        """Make `entries` at `path`; existing files are replaced, directories merged, links never written through."""
        for entry in entries:
            place = f"{path}/{entry.path}" if entry.path else path
            if ".." in entry.path.split("/"):
                fail(errno.EINVAL, place)
            content = b"".join(entry.chunks) if entry.kind == "file" else b""
            with self.lock:
                old = self.resolve(place, follow=False).node
                if old is not None and not (old.kind == entry.kind == "dir"):
                    self.remove(place, tree=True)
                    old = None
                if entry.kind == "file":
                    self.write(place, content, mode=entry.mode)
                elif entry.kind == "symlink":
                    self.symlink(place, entry.target or "")
                elif entry.kind == "dir" and old is None:
                    self.mkdir(place, entry.mode)
                elif entry.kind != "dir":
                    fail(errno.EINVAL, place)

    def snapshot(self) -> Node:
        with self.lock:
            self.root.mask()
            return self.root.clone()

    def restore(self, root: Node) -> None:
        with self.lock:
            self.root = root.clone()

    def diff(self, base: Node) -> Iterator[Change]:
        """Every path that differs from `base`; rewritten with the same content and mode is no difference."""
        with self.lock:
            yield from list(_compare("", base, self.root))

    def _file(self, node: Node, path: str) -> Node:
        if node.kind == "dir":
            fail(errno.EISDIR, path)
        if node.kind != "file":
            fail(errno.EINVAL, path)
        return node

    def _new(self, path: str, node: Node) -> Node:
        place = self.resolve(path, follow=False)
        if place.node is not None:
            fail(errno.EEXIST, path)
        return self._add(place, node)

    def _add(self, place: Place, node: Node) -> Node:
        node.mtime_ns = place.parent.mtime_ns = self._tick()
        place.parent.entries[place.name] = node
        return node

    def _tick(self) -> int:
        self._ticks += 1  # a fake clock may stand still; no two changes have the same time
        return int(self._now()) * 1_000_000_000 + self._ticks


def _join(trail: list[tuple[str, Node]], *more: str) -> str:
    return "/" + "/".join([*(name for name, _ in trail[1:]), *more])


def _walk(path: str, node: Node) -> Iterator[tuple[str, Node]]:
    yield path, node
    for name, child in sorted(node.entries.items()):
        yield from _walk(f"{path}/{name}" if path else name, child)


def _chunks(node: Node, size: int = 1 << 20) -> Iterator[bytes]:
    if node.kind == "file":
        for start in range(0, node.size, size):
            yield node.data[start : start + size].ljust(min(size, node.size - start), b"\0")


def _compare(path: str, old: Node, new: Node) -> Iterator[Change]:
    for name in sorted({*old.entries, *new.entries}):
        before, after, here = old.entries.get(name), new.entries.get(name), f"{path}/{name}"
        if (before and before.mount) or (after and after.mount):
            continue
        if after is None:
            yield from (Change("deleted", here + at, n.kind, n.size, n.mode) for at, n in _below(before))
        elif before is None:
            yield from (Change("added", here + at, n.kind, n.size, n.mode) for at, n in _below(after))
        else:
            same = (before.kind, before.mode) == (after.kind, after.mode)
            if after.kind == "dir" and same:
                if before.mtime_ns != after.mtime_ns:
                    yield Change("modified", here, "dir", 0, after.mode, mtime_only=True)
            elif not same or (before.data, before.size, before.target) != (after.data, after.size, after.target):
                yield Change("modified", here, after.kind, after.size, after.mode)
            yield from _compare(here, before, after)


def _below(node: Node | None) -> Iterator[tuple[str, Node]]:
    if node is not None:
        yield from ((f"/{name}" if name else "", child) for name, child in _walk("", node))
