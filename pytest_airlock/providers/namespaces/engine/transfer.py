"""Layers out of this fork server and into it: what parcel.py does, in children of their own."""

from __future__ import annotations

import os

from . import helpers, syscalls
from .identity import Identity, Slot
from .mounts import attach, clone_to
from .parcel import pack_layer, unpack_layer
from .scratch import Uppers
from .syscalls import MS_NODEV, MS_NOSUID, MS_RDONLY, MS_REMOUNT

__all__ = ["begin_export", "begin_import", "discard", "place"]

_INODES = 1_000_000
_ATTRIBUTES = 64 << 20  # bytes of a tmpfs beside the content of files
# CHOWN DAC_OVERRIDE FOWNER, see capabilities(7)
_CAPABILITIES = 1 << 0 | 1 << 1 | 1 << 3


def begin_export(layer: int, views: list[int], sink: int, slot: Slot, limit: int) -> int:
    """Write a layer of a sandbox in `slot` to a pipe; returns the pid to be joined."""
    return helpers.begin(lambda: pack_layer(f"/l/{layer}", views, sink, owner=slot.first, limit=limit))


def begin_import(
    layer: int, source: int, slot: Slot, *, views: int, who: Identity, limit: int, shift: bool, uppers: Uppers
) -> int:
    """Fill a new tmpfs, or directory on disk, at /p/LAYER from a pipe; returns the pid to be joined.

    The child can reach nothing but that and its pipe: whoever wrote the stream may be an enemy. `shift`: place()
    will map the ids, so that root inside is 0 there.
    """
    top = f"/p/{layer}"
    os.mkdir(top)
    upper = uppers.take(slot)
    if upper is not None:
        uppers.freeze(layer, upper)
        upper.release()
        attach(f"/u/{upper.name}", top)
    else:
        options = f"mode=755,size={limit + _ATTRIBUTES},nr_inodes={_INODES}"
        syscalls.mount("tmpfs", top, "tmpfs", MS_NOSUID | MS_NODEV, options)

    def fill() -> None:
        os.closerange(3, source)
        os.closerange(source + 1, 1 << 16)
        os.chroot(top)
        os.chdir("/")
        os.umask(0)
        syscalls.capset(_CAPABILITIES, _CAPABILITIES)
        unpack_layer(source, "", views, owner=0 if shift else slot.first, ids=who.ids, limit=limit)

    return helpers.begin(fill)


def place(layer: int, slot: Slot, *, shift: bool, in_memory: bool) -> None:
    """Make what was filled /l/LAYER, in the ids of `slot`; nobody writes to it any more."""
    if in_memory:
        syscalls.mount(None, f"/p/{layer}", None, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)
    clone_to(f"/p/{layer}", f"/l/{layer}", slot.userns if shift else 0, read_only=not in_memory)


def discard(layer: int) -> None:
    """Forget what was begun at /p/LAYER."""
    syscalls.umount(f"/p/{layer}")
    os.rmdir(f"/p/{layer}")
