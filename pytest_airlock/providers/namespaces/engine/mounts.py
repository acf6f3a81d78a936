"""Clones of mounts: shifted into a range of ids, read-only, or without set-uid and devices (open_tree(2), mount_setattr(2))."""

from __future__ import annotations

import contextlib
import os

from . import syscalls
from .syscalls import MOUNT_ATTR_IDMAP, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, StepError

__all__ = ["attach", "clone_to", "protect", "shift_to"]


def clone_to(source: str, place: str, userns: int, *, read_only: bool = False) -> None:
    """Mount a clone of the mount at `source` at the new directory `place`, shifted by a user name space (0 = as it is)."""
    os.mkdir(place)
    shift_to(source, place, userns, read_only=read_only)


def shift_to(source: str, place: str, userns: int, *, read_only: bool = False) -> None:
    """clone_to() at a place that exists."""
    tree = syscalls.open_tree(source)
    try:
        if userns:
            syscalls.mount_setattr(tree, MOUNT_ATTR_IDMAP, userns=userns)
        if read_only:
            syscalls.mount_setattr(tree, MOUNT_ATTR_RDONLY)
        syscalls.move_mount(tree, place)
    finally:
        os.close(tree)


def protect(place: str) -> None:
    """Read-only, so that no mistake of the fork server can change the machine through it. Sandboxes write elsewhere: where
    the kernel cannot do it they are no weaker.
    """
    tree = os.open(place, syscalls.O_PATH | os.O_CLOEXEC)
    try:
        with contextlib.suppress(StepError):
            syscalls.mount_setattr(tree, MOUNT_ATTR_RDONLY, recursive=True)
    finally:
        os.close(tree)


def attach(place: str, target: str) -> None:
    """Bind a prepared rw view: a private clone, without set-uid and devices."""
    tree = syscalls.open_tree(place, recursive=True)
    try:
        syscalls.mount_setattr(tree, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, recursive=True)
        syscalls.move_mount(tree, target)
    finally:
        os.close(tree)
