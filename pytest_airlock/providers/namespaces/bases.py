"""What sandboxes stand on: base images, planned from the host as it is now and built by the fork server once for all alike."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import platformdirs

from pytest_airlock.providers.base import ProviderSpec
from pytest_airlock.providers.namespaces import images
from pytest_airlock.providers.namespaces.box import Box
from pytest_airlock.providers.namespaces.engine.world import World

__all__ = ["Bases"]

_Call = Callable[..., tuple[Any, list[int]]]


class Bases:
    """The base images of one fork server, by what they are made of. `found` is what the server told of this host, `call`
    asks it.
    """

    def __init__(self) -> None:
        self._host = images.HostView.current()
        self._memory = images.Memory()
        self._built: dict[str, int] = {}
        self._planned: dict[
            Any, tuple[images.Look, int]
        ] = {}  # what a plan is made from -> its mounts then, base image

    def clear(self) -> None:
        """The server that had them is gone."""
        self._built.clear()
        self._planned.clear()

    def seen(self, spec: ProviderSpec) -> images.Look:
        """What the mounts of a spec were like when they were last looked at."""
        return self._memory.seen(self._sources(spec))

    def environ(self, spec: ProviderSpec) -> dict[str, str]:
        host = self._host if images.is_host_image(spec.image) else None
        return {**images.base_environ(spec.user, host), **dict(spec.env)}

    def number(self, spec: ProviderSpec, found: Mapping[str, Any], call: _Call) -> int:
        """The base image of a spec as the host is now, built if there is none like it yet.

        What came into the project since the last plan (a key, a token) must not be seen: then it is planned anew.
        The machine's own files are looked at once per process.
        """
        # A base is bound to the very files and directories it was built on, whatever stands at their paths since.
        bound = tuple(map(_identity, sorted(self._sources(spec))))
        known = (spec.image, spec.mounts, spec.expose, bound)
        seen, base = self._planned.get(known, (None, 0))
        if seen == self._memory.look(self._sources(spec)):
            return base
        world = self._world(spec, found).to_json()
        key = hashlib.sha256(world + repr((bound, self._shape(spec, found))).encode()).hexdigest()
        if key not in self._built:
            self._built[key] = call("base", world=world.decode(), cache=str(_cache()))[0]
        if images.is_host_image(spec.image):  # whether a tarball has changed, only a plan tells
            self._planned[known] = self.seen(spec), self._built[key]
        return self._built[key]

    def renew(self, box: Box, boxes: Iterable[Box], found: Mapping[str, Any], call: _Call) -> None:
        """Have a sandbox stand on the host as it is now from its next life on; a base that none of `boxes` has goes."""
        if box.planned == self._memory.look(self._sources(box.spec)):
            return
        old, box.base = box.base, self.number(box.spec, found, call)
        box.planned = self.seen(box.spec)
        if box.base == old:
            return
        if all(other.base != old for other in boxes):
            self._built = {key: base for key, base in self._built.items() if base != old}
            self._planned = {known: plan for known, plan in self._planned.items() if plan[1] != old}
            call("forget", base=old)

    def origin(self, spec: ProviderSpec, found: Mapping[str, Any]) -> str:
        """What decides which files there are, as one line; "" if that cannot be told."""
        return images.origin(self._world(spec, found), self._memory.known)

    def _shape(self, spec: ProviderSpec, found: Mapping[str, Any]) -> images.Look:
        """What a base depends on beside its world: own directories above a mount of foreign ids are made when it is built."""
        if found["privileged"]:
            foreign = bool(spec.mounts) and not found["idmap_host"]
        else:
            foreign = any(os.stat(source).st_uid != os.getuid() for source in self._sources(spec))
        return self.seen(spec) if foreign else ()

    def _sources(self, spec: ProviderSpec) -> set[str]:
        return {self._host.at(mount.source) for mount in spec.mounts}

    def _world(self, spec: ProviderSpec, found: Mapping[str, Any]) -> World:
        return images.plan_image(spec, self._host, root_mode=found["privileged"], cache=_cache(), memory=self._memory)


def _identity(path: str) -> tuple[int, int]:
    """Which file or directory this is; (0, 0) if there is none: what that means, a plan tells."""
    try:
        info = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return info.st_dev, info.st_ino


def _cache() -> Path:
    """Where unpacked images and skeletons are kept between runs."""
    return Path(platformdirs.user_cache_dir("pytest-airlock"))
