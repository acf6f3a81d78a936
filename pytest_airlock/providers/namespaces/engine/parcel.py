"""A frozen layer as a stream of bytes, to be made anew elsewhere. PYTEST_DONT_REWRITE.

    stream = for each view: ENTRY of kind TOP for its top directory, then (ENTRY DATA*)* of what is below, parents first; END

Whiteouts and opaque directories of overlayfs, hard links and user.* attributes are entries of their own; nothing else of
overlayfs is carried. What is written was made inside a sandbox, and what is read may have been made by anybody: names are plain
ones below open directories, no link is followed, no device is made but the whiteout, set-id bits are dropped, and all is bounded.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Sequence
from typing import NamedTuple

from .dirstack import OPEN_DIRECTORY, DirStack, names
from .frames import CHUNK, DATA, END, ENTRY, FrameError, FrameReader, FrameWriter, read_from, write_to

__all__ = ["pack_layer", "unpack_layer"]

TOP, DIRECTORY, OPAQUE, FILE, SAME, LINK, FIFO, SOCKET, WHITEOUT, ATTRIBUTE = range(10)

_RECORD = struct.Struct("!BHIIIqQHI")
_TIME_LIMIT = 2**63 - 1
_NAME_MAX = 255
_PAGE = 4096  # what a small file takes of a tmpfs
MAX_DEPTH = 4096
MAX_TARGET = 4096  # of a link, PATH_MAX; of an attribute's value, far more than anybody uses
IDS = 65_536
OVERLAY = "user.overlay."
#: Bytes of a stream besides the content of files.
OVERHEAD = 256 << 20
#: Where the first of several names of a file waits for the others while a layer is unpacked.
_SHARED = b"shared"


class Record(NamedTuple):
    """One entry. `number` is the same for all names of one file (0: it has one name), of a TOP that of its view.

    `target` is the text of a LINK, the value of an ATTRIBUTE, which belongs to the entry before it.
    """

    kind: int
    depth: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    number: int = 0
    name: bytes = b""
    target: bytes = b""

    def pack(self) -> bytes:
        time = max(-_TIME_LIMIT, min(self.mtime_ns, _TIME_LIMIT))
        head = (
            self.kind,
            self.depth,
            self.mode,
            self.uid,
            self.gid,
            time,
            self.number,
            len(self.name),
            len(self.target),
        )
        return _RECORD.pack(*head) + self.name + self.target

    @classmethod
    def unpack(cls, data: bytes) -> Record:
        """Raises FrameError for what no honest writer writes."""
        if len(data) < _RECORD.size:
            raise FrameError("a record that is too short")
        kind, depth, mode, uid, gid, time, number, name, target = _RECORD.unpack_from(data)
        at = _RECORD.size + name
        record = cls(kind, depth, mode, uid, gid, time, number, data[_RECORD.size : at], data[at:])
        if len(data) != at + target or target > MAX_TARGET or not record.sane():
            raise FrameError("a record that is none")
        return record

    def sane(self) -> bool:
        name = self.name
        if self.depth > MAX_DEPTH or self.mode > 0o1777 or max(self.uid, self.gid) >= IDS:
            return False
        if self.kind == TOP:
            return self.depth == 0 and not name
        plain = 0 < len(name) <= _NAME_MAX and b"\0" not in name and name not in (b".", b"..")
        if self.kind == ATTRIBUTE:
            return plain
        return plain and b"/" not in name and b"\0" not in self.target and self.kind < ATTRIBUTE and self.depth > 0


# ---------------------------------------------------------------------- from a layer


def pack_layer(layer: str, views: Sequence[int], sink: int, *, owner: int, limit: int) -> None:
    """Write the upper directories `layer`/uI of these views to `sink`; `owner` is the id there of root inside.

    More than `limit` bytes of content, in whole pages, are OSError(EFBIG); what else fails is OSError, too, and the stream has no END then.
    """
    out = FrameWriter(write_to(sink), bound=limit + OVERHEAD)
    packer = _Packer(out, owner, limit)
    for view in views:
        packer.top(view, os.open(f"{layer}/u{view}", OPEN_DIRECTORY | os.O_NOFOLLOW))
    out.finish(END)


class _Packer:
    def __init__(self, out: FrameWriter, owner: int, limit: int) -> None:
        self.out, self.owner, self.left = out, owner, limit
        self.seen: dict[tuple[int, int], int] = {}

    def top(self, view: int, root: int) -> None:
        with contextlib.closing(DirStack(root)) as tree:
            self.put(self.describe(os.fstat(root))._replace(kind=TOP, number=view))
            pending = [names(tree.fd)]
            while pending:
                if not pending[-1]:
                    pending.pop()
                    if pending:
                        tree.up()
                elif self.entry(tree, pending[-1].pop(), len(pending)):
                    pending.append(names(tree.fd))

    def entry(self, tree: DirStack, name: bytes, depth: int) -> bool:
        """Write one entry; True if it is a directory, which is entered then."""
        info = os.stat(name, dir_fd=tree.fd, follow_symlinks=False)
        kind, record = stat.S_IFMT(info.st_mode), self.describe(info)._replace(depth=depth, name=name)
        if depth > MAX_DEPTH:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if kind == stat.S_IFDIR:
            tree.down(name)
            opaque = _attribute(tree.fd, f"{OVERLAY}opaque") == b"y"
            self.put(record._replace(kind=OPAQUE if opaque else DIRECTORY))
            self.attributes(tree.fd, depth)
            return True
        if kind == stat.S_IFREG:
            self.file(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=tree.fd), record)
        elif kind == stat.S_IFLNK:
            self.put(record._replace(kind=LINK, target=os.readlink(name, dir_fd=tree.fd)))
        elif kind == stat.S_IFCHR and info.st_rdev == 0:
            self.put(record._replace(kind=WHITEOUT))
        elif kind in (stat.S_IFIFO, stat.S_IFSOCK):
            self.put(record._replace(kind=FIFO if kind == stat.S_IFIFO else SOCKET))
        else:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))  # a device: nobody inside can make one
        return False

    def describe(self, info: os.stat_result) -> Record:
        ids = [number - self.owner for number in (info.st_uid, info.st_gid)]
        uid, gid = (number if 0 <= number < IDS else 0 for number in ids)
        return Record(FILE, 0, info.st_mode & 0o1777, uid, gid, info.st_mtime_ns)

    def file(self, fd: int, record: Record) -> None:
        try:
            info = os.fstat(fd)
            if info.st_nlink > 1:
                key = info.st_dev, info.st_ino
                if key in self.seen:
                    self.put(record._replace(kind=SAME, number=self.seen[key]))
                    return
                self.seen[key] = len(self.seen) + 1
                record = record._replace(number=self.seen[key])
            self.left -= -(-info.st_size // _PAGE) * _PAGE
            if self.left < 0:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            self.put(record)
            self.attributes(fd, record.depth)
            while chunk := os.read(fd, CHUNK):
                self.out.put(DATA, chunk)
        finally:
            os.close(fd)

    def attributes(self, fd: int, depth: int) -> None:
        for name in os.listxattr(fd):
            # What overlayfs keeps for itself is carried as what it means, or not at all.
            if name.startswith("user.") and not name.startswith(OVERLAY):
                value = os.getxattr(fd, name)
                if len(value) > MAX_TARGET:
                    raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
                self.put(Record(ATTRIBUTE, depth, name=os.fsencode(name), target=value))

    def put(self, record: Record) -> None:
        self.out.put(ENTRY, record.pack())


def _attribute(fd: int, name: str) -> bytes | None:
    try:
        return os.getxattr(fd, name)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


# ---------------------------------------------------------------------- to a layer


def unpack_layer(source: int, layer: str, views: int, *, owner: int, ids: int, limit: int) -> None:
    """Make what `pack_layer` wrote in the empty directory `layer`, where uI is made for each of so many `views`.

    `owner` becomes the root inside, who may be the only one of `ids`. The umask is to be 0. Raises FrameError, EOFError or OSError; then what is
    there by then is of no use.
    """
    reader = FrameReader(read_from(source), bound=limit + OVERHEAD)
    for view in range(views):
        os.mkdir(f"{layer}/u{view}", 0o755)
    os.mkdir(os.fsencode(layer) + b"/" + _SHARED, 0o700)
    with contextlib.closing(_Unpacker(layer, views, owner, ids)) as unpacker:
        while True:
            kind, payload = reader.next()
            if kind == ENTRY:
                unpacker.entry(Record.unpack(payload))
            elif kind == DATA:
                unpacker.data(payload)
            elif kind == END:
                break
            else:
                raise FrameError(f"a frame of kind {kind} out of place")
        unpacker.finish()


class _Unpacker:
    """Makes entries as they come. `record` is the last one, `fd` what is open of it to be written and finished."""

    def __init__(self, layer: str, views: int, owner: int, ids: int) -> None:
        self.layer, self.views, self.owner, self.ids = layer, views, owner, ids
        self.tree: DirStack | None = None
        self.above: list[Record] = []
        self.record = Record(TOP)
        self.fd = -1
        self.shared_fd = os.open(os.fsencode(layer) + b"/" + _SHARED, OPEN_DIRECTORY)
        self.shared: set[int] = set()

    def entry(self, record: Record) -> None:
        if record.kind == ATTRIBUTE:
            self.attribute(record)
            return
        self.close_file()
        if record.kind == TOP:
            self.top(record)
            return
        tree = self.climb(record.depth)
        self.record = record
        if record.kind in (DIRECTORY, OPAQUE):
            os.mkdir(record.name, 0o700, dir_fd=tree.fd)
            tree.down(record.name)
            self.above.append(record)
            if record.kind == OPAQUE:
                os.setxattr(tree.fd, f"{OVERLAY}opaque", b"y")
        elif record.kind == FILE:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self.fd = os.open(record.name, flags, 0o600, dir_fd=tree.fd)
            if record.number:
                self.share(tree.fd)
        else:
            self.other(record, tree.fd)

    def top(self, record: Record) -> None:
        self.leave_all()
        if record.number >= self.views:
            raise FrameError("a view that is not there")
        self.tree = DirStack(os.open(f"{self.layer}/u{record.number}", OPEN_DIRECTORY | os.O_NOFOLLOW))
        self.record = record
        self.above = [record]

    def climb(self, depth: int) -> DirStack:
        """To the directory in which an entry of this depth is to be made."""
        if self.tree is None or depth > len(self.above):
            raise FrameError("an entry below no directory")
        while len(self.above) > depth:
            self.leave()
        return self.tree

    def share(self, directory: int) -> None:
        number = self.record.number
        if number in self.shared:
            raise FrameError("two files of one number")
        os.link(
            self.record.name, b"%d" % number, src_dir_fd=directory, dst_dir_fd=self.shared_fd, follow_symlinks=False
        )
        self.shared.add(number)

    def other(self, record: Record, directory: int) -> None:
        name = record.name
        if record.kind == SAME:
            if record.number not in self.shared:
                raise FrameError("a name of no file")
            os.link(b"%d" % record.number, name, src_dir_fd=self.shared_fd, dst_dir_fd=directory, follow_symlinks=False)
            return
        if record.kind == LINK:
            os.symlink(record.target, name, dir_fd=directory)
        elif record.kind == WHITEOUT:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory)
        else:
            os.mknod(name, (stat.S_IFIFO if record.kind == FIFO else stat.S_IFSOCK) | record.mode, dir_fd=directory)
        self.own(record, name, directory)
        os.utime(name, ns=(record.mtime_ns,) * 2, dir_fd=directory, follow_symlinks=False)

    def own(self, record: Record, name: bytes, directory: int) -> None:
        if self.ids > 1:
            uid, gid = self.owner + record.uid, self.owner + record.gid
            os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)

    def attribute(self, record: Record) -> None:
        """Of the file or directory that was made last."""
        name = os.fsdecode(record.name)
        if self.tree is None or self.record.kind not in (FILE, DIRECTORY, OPAQUE):
            raise FrameError("an attribute of nothing")
        if not name.startswith("user.") or name.startswith(OVERLAY):
            raise FrameError("an attribute that is not the user's")
        os.setxattr(self.fd if self.record.kind == FILE else self.tree.fd, name, record.target)

    def data(self, data: bytes) -> None:
        if self.fd < 0:
            raise FrameError("content that belongs to no file")
        view = memoryview(data)
        while view:
            view = view[os.write(self.fd, view) :]

    def close_file(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            try:
                self.complete(fd, self.record)
            finally:
                os.close(fd)

    def complete(self, fd: int, record: Record) -> None:
        if self.ids > 1:
            os.fchown(fd, self.owner + record.uid, self.owner + record.gid)
        os.fchmod(fd, record.mode)
        os.utime(fd, ns=(record.mtime_ns,) * 2)

    def leave(self) -> None:
        """A directory gets its mode and time after its entries."""
        if self.tree is not None:
            self.complete(self.tree.fd, self.above.pop())
            if self.above:
                self.tree.up()
            else:
                self.tree.close()
                self.tree = None

    def leave_all(self) -> None:
        while self.above:
            self.leave()

    def finish(self) -> None:
        """All has come: now the layer is as it was."""
        self.close_file()
        self.leave_all()
        for number in self.shared:
            os.unlink(b"%d" % number, dir_fd=self.shared_fd)
        os.rmdir(os.fsencode(self.layer) + b"/" + _SHARED)

    def close(self) -> None:
        """Let go of what an error left open."""
        for fd in (self.fd, self.shared_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self.shared_fd = -1
        if self.tree is not None:
            self.tree.close()
