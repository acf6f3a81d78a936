"""The image `host`: a view of this machine that shows its programs and nothing of its people.

`/` is a synthesised tree. Above it lie views of /usr and its like, of the running interpreter at its host paths, and
of the mounts. A path that runs through links on the host does so inside.
"""

from __future__ import annotations

import os

from pytest_airlock.errors import ProviderUnavailable
from pytest_airlock.providers.base import ProviderSpec
from pytest_airlock.providers.namespaces.engine.world import USER, World

from .accounts import HOMES
from .etc import add_etc
from .hostview import HostView, is_below
from .memory import Memory
from .tree import Tree
from .views import Layout

__all__ = ["add_skeleton", "plan_world"]

# fmt: off
_DIRECTORIES = (
    "/proc", "/dev", "/sys", "/run", "/etc", "/home", "/srv", "/mnt", "/media", "/boot", "/var", "/var/lib",
    "/var/cache", "/var/log", "/var/spool", "/var/mail", "/var/opt", "/var/local", "/var/backups",
)
#: State directories that install scripts expect to find; empty ones do.
_STATE = (
    "misc", "pam", "ucf", "python", "sgml-base", "xml-core", "dbus", "systemd", "man-db", "polkit-1", "alternatives",
)
# fmt: on
_SYSTEM = ("/usr", "/opt")
_PACKAGES = ("/var/lib/dpkg", "/var/lib/apt", "/var/lib/rpm", "/var/lib/pacman")
_DEBIAN = ("/var/cache/apt/archives/partial", "/var/cache/debconf", "/var/log/apt")
#: A prefix in a content-addressed store needs its neighbours.
_STORES = ("/nix/store", "/gnu/store")
#: All that is shown of a prefix that is a home as well.
_PARTS_OF_A_HOME = ("bin", "lib", "lib64", "include")


def plan_world(spec: ProviderSpec, host: HostView, *, root_mode: bool, memory: Memory | None = None) -> World:
    """The world of a sandbox with the image `host`. `root_mode`: ids are shifted, so modes must be looked at too.

    Reads directories and some small files, writes nothing. `memory`, kept by the caller, makes all plans but the first
    cheap. Equal mounts and `expose` give equal worlds as long as nothing changes on the host.
    Raises InvalidSpec for a mount target or an `expose` that cannot be; ProviderUnavailable if this machine's own files
    cannot be read.
    """
    memory = memory or Memory()
    tree = memory.tree(host, lambda: _own_tree(host))
    layout = Layout(tree, host, root_mode=root_mode, memory=memory)
    _add_system(layout, host, root_mode=root_mode)
    layout.add_mounts(spec.mounts)
    _add_interpreter(layout, host)
    for path in _SYSTEM:
        if path not in tree:
            tree.directory(path)
    return layout.world(spec.expose)


def _own_tree(host: HostView) -> Tree:
    """All that does not depend on the spec."""
    tree = Tree()
    add_skeleton(tree)
    for path in _DEBIAN if os.path.isdir(host.at("/var/lib/dpkg")) else ():
        tree.directory(path)
    for name in _STATE:
        if os.path.isdir(host.at(f"/var/lib/{name}")):
            tree.directory(f"/var/lib/{name}")
    tree.link("/var/lib/dbus/machine-id", "/etc/machine-id")
    add_etc(tree, host)
    return tree


def add_skeleton(tree: Tree) -> None:
    """The directories every machine has; /proc, /dev and /sys are empty places for the engine to mount on."""
    for path in _DIRECTORIES:
        tree.directory(path)
    for path in ("/tmp", "/var/tmp", "/run/lock"):
        tree.directory(path, 0o1777)
    # Searchable, because an interpreter or a project may be shown below it to the ordinary user.
    tree.directory(HOMES["root"], 0o755)
    tree.directory(HOMES["airlock"], 0o755, USER)
    tree.link("/var/run", "../run")
    tree.link("/var/lock", "../run/lock")


def _add_system(layout: Layout, host: HostView, *, root_mode: bool) -> None:
    try:
        top = os.listdir(host.at("/"))
    except OSError as error:
        raise ProviderUnavailable("namespaces", f"/ cannot be listed: {error.strerror}") from error
    libraries = sorted(name for name in top if name in ("bin", "sbin") or name.startswith("lib"))
    for path in (*_SYSTEM, *(f"/{name}" for name in libraries), *_PACKAGES):
        if not (root_mode and path == "/opt" and _is_private(host.at(path))):
            layout.show(path)


def _add_interpreter(layout: Layout, host: HostView) -> None:
    prefixes = dict.fromkeys((host.base_prefix, host.prefix, *host.site_dirs))
    for prefix in sorted(prefixes, key=len):
        real = layout.links_of(prefix)
        store = next((store for store in _STORES if is_below(real, store)), None)
        if store:
            layout.show(store)
        elif host.is_home(real):
            for part in _PARTS_OF_A_HOME:
                layout.show(f"{real.rstrip('/')}/{part}", interpreter=True)
        else:
            layout.show(real, interpreter=True)
    layout.links_of(host.executable)


def _is_private(path: str) -> bool:
    try:
        return not os.stat(path).st_mode & 0o001
    except FileNotFoundError:
        return False
