"""Images that are a root file system of their own: a directory, or a tarball that is unpacked once."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pytest_airlock.errors import InvalidSpec
from pytest_airlock.providers.base import ProviderSpec
from pytest_airlock.providers.namespaces.engine.world import World

from .accounts import image_accounts
from .etc import MACHINE_ID, add_accounts, add_identity, shell_of
from .host import add_skeleton
from .hostview import HostView
from .memory import Memory
from .tarball import unpack
from .tree import Tree
from .views import Layout

__all__ = ["check_rootfs", "plan_rootfs"]

_PROGRAMS = ("/bin", "/usr/bin", "/sbin", "/usr/sbin", "/usr/local/bin")
_MOUNT_POINTS = ("/proc", "/dev", "/sys")
_MAX_ACCOUNTS = 1 << 20


def plan_rootfs(spec: ProviderSpec, host: HostView, cache: Path, *, memory: Memory | None = None) -> World:
    """The world of image=DIRECTORY or image=TARBALL (an absolute path): the image, with what a sandbox adds to it.

    Owners of a tarball's files are not kept: they are the sandbox root's. The host's interpreter is not shown; the
    spec's mounts are. Raises InvalidSpec if the image is missing, no root file system or an unsafe tarball, or a
    mount cannot be where it should; StoreError if `cache` cannot be written.
    """
    image = spec.image or ""
    if not os.path.isabs(image):
        hint = 'image="host", or the absolute path of a directory or of a tarball'
        raise InvalidSpec("image", image, "the namespaces provider has no image of that name", hint=hint)
    place = os.path.realpath(host.at(image))
    if not os.path.lexists(place):
        raise InvalidSpec("image", image, "there is no such file or directory", hint="docker export makes one")
    if os.path.isdir(place):
        check_rootfs(place, image)
        root = place
    else:
        root = unpack(place, cache, check=lambda directory: check_rootfs(directory, image))
    inside = HostView(root=root)
    tree = Tree(base=inside.readlink)
    try:
        _add_directories(tree, inside)
        _add_files(tree, inside)
    except OSError as error:
        raise InvalidSpec("image", image, f"it cannot be used: {error.strerror} ({error.filename})") from error
    layout = Layout(tree, host, root_mode=False, memory=memory)
    layout.add_mounts(spec.mounts)
    return layout.world(spec.expose, root)


def check_rootfs(root: str, image: str) -> None:
    """Raise InvalidSpec unless the directory looks like `/`: a shell, or at least a directory with programs."""
    inside = HostView(root=root)
    try:
        if os.path.isfile(inside.at(inside.trace("/bin/sh").real)) or any(
            _has_entries(inside, path) for path in _PROGRAMS
        ):
            return
        names = sorted(os.listdir(root))
    except OSError as error:
        raise InvalidSpec("image", image, f"it cannot be looked at: {error.strerror}") from error
    why = f"it is no root file system: it has neither /bin/sh nor programs in {', '.join(_PROGRAMS)}"
    hint = "give the directory that holds bin, etc and usr"
    if {"manifest.json", "oci-layout", "index.json"} & set(names):
        hint = (
            "it is a saved docker or OCI image; a root file system is made with: docker export CONTAINER > rootfs.tar"
        )
    elif len(names) == 1:
        hint = f"all of it is below {names[0]!r}: give that one"
    raise InvalidSpec("image", image, why, hint=hint)


def _has_entries(inside: HostView, path: str) -> bool:
    try:
        return bool(os.listdir(inside.at(inside.trace(path).real)))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _add_directories(tree: Tree, inside: HostView) -> None:
    """What the image lacks of the directories every machine has. Mount points are ours, whatever the image has there."""
    usual = Tree()
    add_skeleton(usual)
    for entry in usual.entries():
        if entry.kind == "dir" and (entry.path in _MOUNT_POINTS or not os.path.lexists(inside.at(entry.path))):
            real = tree.trace(entry.path).real if entry.path not in _MOUNT_POINTS else entry.path
            tree.directory(real, entry.mode, entry.owner)


def _add_files(tree: Tree, inside: HostView) -> None:
    etc = tree.trace("/etc").real
    if os.path.lexists(inside.at(etc)) and not os.path.isdir(inside.at(etc)):
        raise InvalidSpec("image", inside.root, "its /etc is no directory")
    files = Tree()
    add_identity(files)
    files.text("/etc/machine-id", f"{MACHINE_ID}\n", 0o444)
    accounts = image_accounts(_text(inside, "/etc/passwd"), _text(inside, "/etc/group"), shell=shell_of(inside))
    add_accounts(files, accounts)
    for entry in files.entries():
        if entry.kind == "file":
            tree.content(etc + entry.path.removeprefix("/etc"), entry.data.encode("latin-1"), entry.mode)


def _text(inside: HostView, path: str) -> str:
    """A small file of the image, links resolved inside it; empty if it has none."""
    try:
        fd = os.open(inside.at(inside.trace(path).real), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        return file.read(_MAX_ACCOUNTS).decode("utf-8", "replace")
