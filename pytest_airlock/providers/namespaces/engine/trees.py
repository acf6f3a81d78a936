"""Whole trees inside a sandbox, of any depth: export, import, removal. PYTEST_DONT_REWRITE."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable

from .access import OPEN_FILE, describe, failure, open_regular, write_all
from .dirstack import OPEN_DIRECTORY, DirStack, names
from .frames import CHUNK, DATA, END, ENTRY, FileRecord, FrameError, FrameReader, FrameWriter

__all__ = ["Exporter", "Importer", "remove_tree"]


class Exporter:
    """Streams a file or tree: parents first, the entries of a directory in the order of their bytes."""

    def __init__(self, out: FrameWriter, limit: int) -> None:
        self.out, self.left = out, limit

    def tree(self, path: bytes) -> None:
        """`path` itself may be a link, as it may for every call; links below it are entries."""
        info = os.stat(path)
        if stat.S_ISREG(info.st_mode):
            self.file(open_regular(path), FileRecord.of(info), path)
            return
        self.out.put(ENTRY, FileRecord.of(info).pack())
        if stat.S_ISDIR(info.st_mode):
            with contextlib.closing(DirStack(os.open(path, OPEN_DIRECTORY))) as tree:
                self.below(tree, path)

    def below(self, tree: DirStack, path: bytes) -> None:
        place = [path.rstrip(b"/")]
        pending = [names(tree.fd)]
        try:
            while True:
                if pending[-1]:
                    place.append(pending[-1].pop())
                    if self.entry(tree, place, len(pending)):
                        pending.append(names(tree.fd))
                    else:
                        place.pop()
                    continue
                pending.pop()
                if not pending:
                    return
                tree.up()
                place.pop()
        except OSError as error:
            raise failure(error.errno or errno.EIO, b"/".join(place)) from error

    def entry(self, tree: DirStack, place: list[bytes], depth: int) -> bool:
        """Send one entry; True if it is a directory, which is entered then."""
        name = place[-1]
        try:
            record = describe(name, tree.fd, depth)
            if stat.S_ISREG(record.mode):
                self.file(open_regular(name, tree.fd), record, name)
                return False
            if stat.S_ISDIR(record.mode):
                tree.down(name)
        except FileNotFoundError:
            return False  # removed while we looked
        self.out.put(ENTRY, record.pack())
        return stat.S_ISDIR(record.mode)

    def file(self, fd: int, record: FileRecord, path: bytes) -> None:
        """Send a file as long as it is now. What fits one chunk is read before its size is told, so that files of
        /proc, which have none, come whole; what shrinks under us, or lies, is ESTALE.
        """
        try:
            chunk = _read_up_to(fd, CHUNK)
            size = len(chunk) if len(chunk) < CHUNK else os.fstat(fd).st_size
            if size < len(chunk):
                raise failure(errno.ESTALE, path)
            self.left -= size
            if self.left < 0:
                raise failure(errno.EFBIG, path)
            self.out.put(ENTRY, record._replace(size=size).pack())
            while size:
                if not chunk:
                    raise failure(errno.ESTALE, path)
                self.out.put(DATA, chunk)
                size -= len(chunk)
                chunk = os.read(fd, min(CHUNK, size))
        finally:
            os.close(fd)


def _read_up_to(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size and (chunk := os.read(fd, size - len(data))):
        data += chunk
    return data


class Importer:
    """Makes entries as they come. `here` is the path, below the directory one started in, of where one is."""

    def __init__(self, path: bytes) -> None:
        self.parent, self.top = os.path.split(path.rstrip(b"/"))
        self.tree = DirStack(os.open(self.parent or b"/", OPEN_DIRECTORY))
        self.here = b""
        self.made: list[FileRecord | None] = []  # of each directory down to `here`: what it still has to become
        self.fd = -1
        self.record = FileRecord(0)

    def close(self) -> None:
        """Close what an error left open."""
        if self.fd >= 0:
            os.close(self.fd)
        self.tree.close()

    def run(self, content: FrameReader) -> None:
        path = self.top
        try:
            while (frame := content.next())[0] != END:
                kind, payload = frame
                if kind == DATA and self.fd >= 0:
                    write_all(self.fd, payload)
                    continue
                if kind != ENTRY:
                    raise FrameError("content that belongs to no file")
                self.close_file()
                self.record = FileRecord.unpack(payload)
                path = b"/".join(filter(None, (self.top, self.record.name)))
                self.make(path)
            self.close_file()
            while self.here:
                self.leave()
        except OSError as error:
            raise failure(error.errno or errno.EIO, self.parent.rstrip(b"/") + b"/" + path) from error

    def make(self, path: bytes) -> None:
        parent, _, name = path.rpartition(b"/")
        while self.here and parent != self.here and not parent.startswith(self.here + b"/"):
            self.leave()
        for step in filter(None, parent[len(self.here) :].split(b"/")):
            self.enter(step, None)
        mode = self.record.mode
        if not name:  # the root directory itself
            if not stat.S_ISDIR(mode):
                raise failure(errno.EISDIR, path)
        elif name in (b".", b".."):
            raise failure(errno.EINVAL, path)
        elif stat.S_ISDIR(mode):
            self.directory(name)
        elif stat.S_ISREG(mode):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN_FILE
            self.fd = self.replace(name, lambda: os.open(name, flags, 0o600, dir_fd=self.tree.fd))
        else:
            self.other(name, mode)

    def replace(self, name: bytes, make: Callable[[], int | None]) -> int:
        """Make an entry in the place of what is there, unless that is a directory (EISDIR)."""
        try:
            return make() or 0
        except FileExistsError:
            os.unlink(name, dir_fd=self.tree.fd)
            return make() or 0

    def directory(self, name: bytes) -> None:
        """An existing one, also behind a link, keeps its mode: copying into /tmp must not close it for others."""
        try:
            os.mkdir(name, 0o700, dir_fd=self.tree.fd)
        except FileExistsError:
            self.enter(name, None)
        else:
            self.enter(name, self.record)

    def other(self, name: bytes, mode: int) -> None:
        fd = self.tree.fd
        if stat.S_ISLNK(mode):
            self.replace(name, lambda: os.symlink(self.record.target, name, dir_fd=fd))
        elif stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            self.replace(name, lambda: os.mknod(name, mode, dir_fd=fd))
        else:
            raise failure(errno.EPERM, name)  # as mknod(2) says to whom may not make devices
        if self.record.mtime_ns:
            os.utime(name, ns=(self.record.mtime_ns,) * 2, dir_fd=fd, follow_symlinks=False)

    def enter(self, name: bytes, made: FileRecord | None) -> None:
        if name in (b".", b".."):
            raise failure(errno.EINVAL, name)
        self.tree.down(name, follow=True)
        self.here += b"/" + name if self.here else name
        self.made.append(made)

    def leave(self) -> None:
        """Go up; what was made gets its mode and time only now, after its entries."""
        made = self.made.pop()
        if made is not None:
            _finish(self.tree.fd, made)
        self.tree.up()
        self.here = self.here.rpartition(b"/")[0]

    def close_file(self) -> None:
        if self.fd < 0:
            return
        fd, self.fd = self.fd, -1
        try:
            _finish(fd, self.record)
        finally:
            os.close(fd)


def _finish(fd: int, record: FileRecord) -> None:
    os.fchmod(fd, stat.S_IMODE(record.mode))
    if record.mtime_ns:  # 0 = not known
        os.utime(fd, ns=(record.mtime_ns, record.mtime_ns))


def remove_tree(path: bytes, *, directory: int | None = None) -> None:
    """Like shutil.rmtree a link or a file at the top is an error, and what vanishes by itself is not.

    `path` is relative to the open `directory`, if that is given. An empty one is ENOENT, as for every call of the kernel.
    """
    if not path:
        raise failure(errno.ENOENT, path)
    top = path.rstrip(b"/") or b"/"
    place = [top]
    with contextlib.closing(DirStack(os.open(top, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory))) as tree:
        pending = [names(tree.fd)]
        try:
            while True:
                if pending[-1]:
                    place.append(pending[-1].pop())
                    if _unlink(place[-1], tree.fd):
                        place.pop()
                    else:
                        tree.down(place[-1])
                        pending.append(names(tree.fd))
                    continue
                pending.pop()
                if not pending:
                    break
                tree.up()
                os.rmdir(place[-1], dir_fd=tree.fd)
                place.pop()
        except OSError as error:
            raise failure(error.errno or errno.EIO, b"/".join(place)) from error
    os.rmdir(top, dir_fd=directory)


def _unlink(name: bytes, directory: int) -> bool:
    """Remove what is not a directory; False if it is one."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            return False
        os.unlink(name, dir_fd=directory)
    return True
