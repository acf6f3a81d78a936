"""Directories of overlay layers, looked at as the kernel does. PYTEST_DONT_REWRITE.

Format: Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories". Layers of a sandbox are hostile: links
are never followed, only directories are opened to walk, files only to compare two that look the same.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from .dirstack import OPEN_DIRECTORY, DirStack

__all__ = ["Entry", "Found", "Layer", "look_up", "open_layer"]

_NO_XATTR = (errno.ENODATA, errno.EOPNOTSUPP)
#: What a path may be instead of the directory that it just was.
_CHANGED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Layer:
    """One layer, at the directory where the walk is."""

    __slots__ = ("_opaque", "_prefix", "_stack")

    def __init__(self, root: int, prefix: str, *, keep: int) -> None:
        self._stack = DirStack(root, keep=keep)
        self._prefix = prefix
        self._opaque = [self._read_opaque()]

    @property
    def fd(self) -> int:
        return self._stack.fd

    @property
    def opaque(self) -> bool:
        """The directory hides what lower layers have at its place."""
        return self._opaque[-1] == b"y"

    def stat(self, name: str) -> os.stat_result | None:
        """lstat of an entry, None if there is none."""
        try:
            return os.stat(name, dir_fd=self._stack.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def is_whiteout(self, name: str, info: os.stat_result) -> bool:
        """An entry that hides those of its name in lower layers: a 0:0 device, or, in directories marked for it, an
        empty file with an attribute.
        """
        if stat.S_ISCHR(info.st_mode):
            return info.st_rdev == 0
        if self._opaque[-1] != b"x" or not stat.S_ISREG(info.st_mode) or info.st_size:
            return False
        # getxattr(2) knows no directory descriptor; only the way of /proc can name the entry without a long path.
        path = f"/proc/self/fd/{self._stack.fd}/{name}"
        return _xattr(path, self._prefix + "overlay.whiteout") is not None

    def down(self, name: str) -> bool:
        """Enter a directory; False if it is none any more, or may not be read: nobody sees its entries then."""
        try:
            self._stack.down(name)
        except PermissionError:
            return False
        except OSError as error:
            if error.errno in _CHANGED:
                return False
            raise
        self._opaque.append(self._read_opaque())
        return True

    def up(self) -> None:
        self._opaque.pop()
        self._stack.up()

    def names(self) -> list[str]:
        return os.listdir(self._stack.fd)

    def close(self) -> None:
        self._stack.close()

    def _read_opaque(self) -> bytes:
        return _xattr(self._stack.fd, self._prefix + "overlay.opaque") or b""


def open_layer(place: int | str, prefix: str, *, keep: int) -> Layer:
    """A layer by its path, or by the descriptor of its top directory, which stays the caller's."""
    if isinstance(place, int):
        root = os.open(".", OPEN_DIRECTORY, dir_fd=place)
    else:
        root = os.open(place, OPEN_DIRECTORY | os.O_NOFOLLOW)
    try:
        return Layer(root, prefix, keep=keep)
    except OSError:
        os.close(root)
        raise


class Entry(NamedTuple):
    """lstat of an entry, and the layer it is from."""

    info: os.stat_result
    layer: Layer


class Found(NamedTuple):
    """What an overlay of some layers shows under a name: `entry`, None if nothing.

    `entered` are the layers in which it is a directory; they are in it now. `final` tells that still lower layers are
    hidden: by a whiteout, an opaque directory or what is no directory.
    """

    entry: Entry | None
    entered: list[Layer]
    final: bool


def look_up(layers: Sequence[Layer], name: str) -> Found:
    """Look for `name` in layers that are all in one directory, the uppermost first."""
    entry: Entry | None = None
    entered: list[Layer] = []
    for layer in layers:
        info = layer.stat(name)
        if info is None:
            continue
        if not stat.S_ISDIR(info.st_mode):
            if entry is None and not layer.is_whiteout(name, info):
                entry = Entry(info, layer)
            return Found(entry, entered, True)
        if entry is None:
            entry = Entry(info, layer)
        if layer.down(name):
            entered.append(layer)
            if layer.opaque:
                return Found(entry, entered, True)
    return Found(entry, entered, False)


def _xattr(place: int | str, name: str) -> bytes | None:
    try:
        return os.getxattr(place, name, follow_symlinks=isinstance(place, int))
    except OSError as error:
        if error.errno in _NO_XATTR:
            return None
        raise
