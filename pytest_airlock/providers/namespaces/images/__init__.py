"""Images of the namespaces provider: what a sandbox's file system consists of, planned as data (a World).

hostview   what is known of this machine      tree      builder of the synthesised tree
host       image=None or "host"               views     views above it, and their order
etc        its /etc                           masks     what views must not show
accounts   passwd and group                   credentials   the same for texts: recognise, clean
rootfs     image=DIRECTORY or TARBALL         tarball   unpack safely, once
identity   has a view's source changed?       environ   the base environment
origins    has anything changed at all?
"""

from __future__ import annotations

from pathlib import Path

from pytest_airlock.providers.base import ProviderSpec
from pytest_airlock.providers.namespaces.engine.world import World

from .environ import base_environ
from .host import plan_world
from .hostview import HostView
from .identity import image_identity
from .memory import Look, Memory
from .origins import origin
from .rootfs import plan_rootfs

__all__ = [
    "HostView",
    "Look",
    "Memory",
    "base_environ",
    "image_identity",
    "is_host_image",
    "origin",
    "plan_image",
    "plan_rootfs",
    "plan_world",
]


def is_host_image(image: str | None) -> bool:
    """True if the image is a view of this machine."""
    return image is None or image == "host"


def plan_image(
    spec: ProviderSpec, host: HostView, *, root_mode: bool, cache: Path, memory: Memory | None = None
) -> World:
    """The world of any image. Raises what plan_world and plan_rootfs raise; tarballs are unpacked below `cache`."""
    if is_host_image(spec.image):
        return plan_world(spec, host, root_mode=root_mode, memory=memory)
    return plan_rootfs(spec, host, cache, memory=memory)
