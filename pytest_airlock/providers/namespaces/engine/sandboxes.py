"""What the fork server knows of one sandbox: seat, base, layers and life."""

from __future__ import annotations

import os
from typing import Any

from . import diff, syscalls
from .lives import Life, Recipe
from .scratch import Upper, Uppers
from .seats import Seat
from .syscalls import MS_NODEV, MS_NOSUID, MS_RDONLY, MS_REMOUNT

__all__ = ["Sandbox"]


class Sandbox:
    """What the server knows of one: its seat stays, its base, its life and its layers change."""

    def __init__(self, seat: Seat, recipe: Recipe, uppers: Uppers) -> None:
        self.seat, self.recipe, self.uppers = seat, recipe, uppers
        self.facts: Any = None  # for visitors
        self.made: set[int] = set()
        self.life: Life | None = None

    def drop(self, layers: set[int]) -> None:
        """Unmount layers that nothing stands on any more."""
        for layer in layers:
            for place in (f"/l/{layer}", f"/p/{layer}"):
                if os.path.isdir(place):
                    syscalls.umount(place)
                    os.rmdir(place)
            self.uppers.drop(layer)
        self.made -= layers

    def freeze(self, layer: int, scratch: int, upper: Upper | None) -> None:
        """What its last life wrote is a layer from now on; `scratch` is the mount of it, which is moved."""
        place = f"/l/{layer}"
        os.mkdir(place)
        if upper is not None:
            syscalls.mount_setattr(scratch, syscalls.MOUNT_ATTR_RDONLY)
            self.uppers.freeze(layer, upper)
        syscalls.move_mount(scratch, place)
        if upper is None:
            # The superblock, not only this mount: EBUSY if anything could still write to it.
            syscalls.mount(None, place, None, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)
        self.made.add(layer)
        self.recipe = self.recipe._replace(layers=(*self.recipe.layers, layer))

    def diff_views(self, since: int) -> list[diff.DiffView]:
        """Where its changes are, beyond the lowest `since` layers."""
        tops: list[str] = []
        if self.life is not None:
            tops.append(f"/proc/self/fd/{self.life.scratch}")
        layers = [f"/l/{layer}" for layer in reversed(self.recipe.layers)]
        newer, older = layers[: len(layers) - since], layers[len(layers) - since :]
        views = []
        for index, view in enumerate(self.recipe.image.views(self.seat.slot)):
            if view.mode == "cow" and view.system:
                uppers = tuple(f"{top}/u{index}" for top in (*tops, *newer))
                lowers = tuple(f"{layer}/u{index}" for layer in older) + tuple(f"/{lower}" for lower in view.lowers)
                views.append(diff.DiffView(view.target or "/", uppers, lowers))
        return views
