"""Views above the synthesised tree: which there are, in which order, and what each must not show."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from pytest_airlock.errors import InvalidSpec, MountForbidden
from pytest_airlock.providers.base import ResolvedMount
from pytest_airlock.providers.namespaces.engine.world import View, World

from .hostview import HostView, is_below
from .masks import Masks
from .memory import Memory
from .tree import Tree

__all__ = ["Layout"]

#: Where the kernel's own file systems are mounted: a mount there would stand in their place.
_KERNEL = ("/proc", "/sys", "/dev")
#: Files of the image that its package manager locks, links or edits in place: only an owner may. And a directory of `_apt`'s.
_EDITED = {
    "/var/lib/dpkg": (
        *("lock", "lock-frontend", "status", "available", "diversions", "statoverride"),
        *("triggers/Lock", "triggers/File", "triggers/Unincorp"),
    ),
    "/var/lib/apt": ("lists/lock", "lists/partial", "extended_states"),
}


class _Place(NamedTuple):
    source: str
    mode: str
    system: bool


class _Search(NamedTuple):
    top: str
    modes: bool
    beside: tuple[str, ...] = ()


class Layout:
    """Collects views. Whatever is shown keeps its path; its parents are made, empty, in the tree.

    Masks: mounts and the interpreter are looked at by names and contents; with `root_mode` the interpreter, /usr/local
    and /opt by modes as well. The rest of /usr is the distribution's.
    """

    def __init__(self, tree: Tree, host: HostView, *, root_mode: bool, memory: Memory | None = None) -> None:
        self.tree, self.host, self.root_mode = tree, host, root_mode
        self.memory = memory or Memory()
        self.places: dict[str, _Place] = {}
        self.project: str | None = None
        self.interpreter: list[str] = []

    def show(self, path: str, *, interpreter: bool = False) -> None:
        """Show a host directory as part of the image; nothing if there is none, or a part of the image shows it.

        Raises MountForbidden if a mount stands in the way.
        """
        real = self.links_of(path)
        if not os.path.isdir(self.host.at(real)):
            return
        if interpreter:
            self.interpreter.append(real)
        above = self._innermost(real)
        if above is None or (above != real and not self.places[above].system):
            self._add(real, _Place(self.host.at(real), "cow", system=True))

    def links_of(self, path: str) -> str:
        """Make the links that `path` runs through, where no view has them; returns the path without links."""
        try:
            trace = self.host.trace(path)
        except OSError:  # a loop: nothing can be behind it
            return path
        for place, text in trace.links:
            if self._innermost(place) is None and place not in self.tree:
                self.tree.link(place, text)
        return trace.real

    def add_mounts(self, mounts: Iterable[ResolvedMount]) -> None:
        """Views of the spec's mounts. Raises MountForbidden for a target that cannot be."""
        for mount in sorted(mounts, key=lambda mount: mount.target.split("/")):
            place = _Place(self.host.at(mount.source), mount.mode, system=False)
            if not os.path.exists(place.source):
                raise MountForbidden("mounts", mount.source, "there is no such file or directory on this machine")
            try:
                target = self.tree.trace(mount.target).real
            except OSError as error:
                raise MountForbidden("mounts", mount.target, error.strerror or str(error)) from error
            self._check_target(target, place)
            if mount.project:
                self.project = target
            self._add(target, place)

    def world(self, expose: Iterable[str] = (), root: str = "") -> World:
        """All together, views sorted so that parents come first. Raises InvalidSpec for an `expose` that is nowhere."""
        order = sorted(self.places, key=lambda target: target.split("/"))
        exposed = self._exposed(expose)
        views = tuple(self._view(target, order, exposed) for target in order)
        covered = tuple(f"{target}/" for target in order)
        entries = self.tree.entries(hidden=lambda path: path.startswith(covered) and path not in self.places)
        return World(entries, views, root)

    def _add(self, target: str, place: _Place) -> None:
        above = self._innermost(target)
        if above is not None:
            self._check_inside(target, above)
        elif os.path.isdir(place.source):
            self.tree.directory(target)
        else:
            self.tree.text(target, "")
        self.places[target] = place

    def _check_target(self, target: str, place: _Place) -> None:
        """What a mount may not take the place of."""
        if target == "/" or any(is_below(target, top) for top in _KERNEL):
            why = "the kernel's own file systems are there"
        elif target in self.places:
            why = "part of the image is there" if self.places[target].system else "another mount is there already"
        elif any(is_below(other, target) for other in self.places):
            why = "parts of the image are below it"
        elif self.tree.in_the_way(target, directory=os.path.isdir(place.source)):
            why = "files of the image are there"
        else:
            return
        raise MountForbidden("mounts", target, why, hint="give another target")

    def _check_inside(self, target: str, above: str) -> None:
        """A mount point inside a view: no link on the way (it could lead anywhere), and never made on the host."""
        path = self.places[above].source
        for part in os.path.relpath(target, above).split("/"):
            path = f"{path}/{part}"
            if os.path.islink(path):
                raise MountForbidden("mounts", target, f"it runs through the symbolic link {path}")
        if self.places[above].mode == "rw" and not os.path.exists(path):
            why = f"it does not exist in {above}, which is shared with the host, and would have to be made there"
            raise MountForbidden("mounts", target, why, hint=f"make {path} first, or give another target")

    def _innermost(self, path: str) -> str | None:
        """The target of the view that shows `path`."""
        while path != "/":
            if path in self.places:
                return path
            path = os.path.dirname(path)
        return None

    def _exposed(self, expose: Iterable[str]) -> tuple[str, ...]:
        """`expose` as paths inside. What is not shown at all needs no exception, what does not exist is a mistake."""
        paths = []
        for given in expose:
            if not os.path.isabs(given) and self.project is None:
                continue
            path = os.path.normpath(os.path.join(self.project or "/", given))
            above = self._innermost(path)
            if above is not None:
                found = os.path.normpath(os.path.join(self.places[above].source, os.path.relpath(path, above)))
            else:
                found = self.host.at(path)
            if not os.path.lexists(found):
                hint = "paths are absolute, or relative to the project directory"
                raise InvalidSpec("expose", given, f"there is no {path}", hint=hint)
            paths.append(path)
        return tuple(paths)

    def _view(self, target: str, order: list[str], exposed: tuple[str, ...]) -> View:
        place = self.places[target]
        whole = any(is_below(target, path) for path in exposed)
        masks = Masks() if whole or not os.path.isdir(place.source) else self._masks(target, order, exposed)
        owned = _EDITED.get(target, ()) if place.system else ()
        return View(place.source, target, place.mode, masks.hidden, masks.replaced, place.system, owned)

    def _masks(self, target: str, order: list[str], exposed: tuple[str, ...]) -> Masks:
        place = self.places[target]
        skip = [_relative(path, target) for path in order if path != target and is_below(path, target)]
        expose = tuple(_relative(path, target) for path in exposed if is_below(path, target))
        hidden: set[str] = set()
        replaced: dict[str, str] = {}
        for search in self._searches(target):
            found = self.memory.masks(
                place.source,
                start=_relative(search.top, target),
                skip=(*skip, *(_relative(path, target) for path in search.beside)),
                expose=expose,
                modes=search.modes,
                stable=place.system,
            )
            hidden.update(found.hidden)
            replaced.update(found.replaced)
        return Masks(tuple(sorted(hidden)), tuple(sorted(replaced.items())))

    def _searches(self, target: str) -> list[_Search]:
        """What of a view is to be searched, and how."""
        if not self.places[target].system:
            return [_Search(target, modes=False)]
        inside = {path for path in self.interpreter if self._innermost(path) == target and path != "/usr"}
        tops = [path for path in inside if not any(path != other and is_below(path, other) for other in inside)]
        # A private interpreter was made under a strict umask: its modes tell nothing, and hidden it could not run.
        searches = [_Search(top, modes=self.root_mode and _is_open(self.host.at(top))) for top in sorted(tops)]
        return searches + [
            _Search(path, modes=True, beside=tuple(top for top in tops if is_below(top, path)))
            for path in (("/usr/local", "/opt") if self.root_mode else ())
            if self._innermost(path) == target and not any(is_below(path, top) for top in tops)
        ]


def _relative(path: str, top: str) -> str:
    return "" if path == top else os.path.relpath(path, top)


def _is_open(path: str) -> bool:
    """True if others may search it."""
    try:
        return bool(os.stat(path).st_mode & 0o001)
    except FileNotFoundError:
        return True
