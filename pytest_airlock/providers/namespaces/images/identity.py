"""Has the source of a view changed? The kernel forbids changes below a mounted overlay, so spares are checked with it."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from hashlib import blake2b

from pytest_airlock.providers.namespaces.engine.world import View

__all__ = ["IGNORED", "Known", "directories_identity", "file_stamp", "image_identity", "package_stamps"]

#: What a package manager changes whenever it changes anything.
_PACKAGE_STAMPS = (
    "/var/lib/dpkg/status",
    "/lib/apk/db/installed",
    "/usr/lib/apk/db/installed",
    "/var/lib/pacman/local",
    "/var/lib/rpm/rpmdb.sqlite",
    "/var/lib/rpm/Packages",
    "/var/lib/rpm/Packages.db",
    "/usr/lib/sysimage/rpm/rpmdb.sqlite",
    "/usr/lib/sysimage/rpm/Packages.db",
)
#: Views of which a package manager is the author, and the parts of them that are ours to look at.
_PACKAGED = {"/usr": ("local",), "/bin": (), "/sbin": ()}
#: Written by every run of the tools that own them; a stale copy inside harms nobody.
IGNORED = frozenset(("__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"))

#: Directory -> (its stat stamp, its subdirectories): what is unchanged need not be listed again.
Known = MutableMapping[str, tuple[str, tuple[str, ...]]]


def image_identity(view: View, *, root: str = "", known: Known | None = None) -> str:
    """A stamp that differs when the source of `view` may have changed; from stats only, no file is read.

    For /usr and its like the package database's stamp and /usr/local; else path, inode, mode and mtime of every
    directory. `known` is a memory that the caller may keep: with it an unchanged directory costs one stat. `root` is
    where the machine is found (HostView.root). A file rewritten in place goes unseen: the kernel sees to that one.
    """
    digest = blake2b(digest_size=16)
    known = {} if known is None else known
    stamps = package_stamps(root)
    packaged = view.system and stamps and (view.target in _PACKAGED or view.target.startswith("/lib"))
    starts = [view.source]
    if packaged:
        digest.update("\n".join([file_stamp(view.source), *stamps]).encode())
        starts = [f"{view.source}/{name}" for name in _PACKAGED.get(view.target, ())]
    for start in starts:
        _add_directories(start, digest, known)
    return digest.hexdigest()


def package_stamps(root: str = "") -> list[str]:
    """What differs after every change by a package manager; empty if there is none."""
    return [stamp for path in _PACKAGE_STAMPS if (stamp := file_stamp(root + path))]


def directories_identity(top: str, known: Known) -> str:
    """A stamp of all directories of a tree, whatever it is part of."""
    digest = blake2b(digest_size=16)
    _add_directories(top, digest, known)
    return digest.hexdigest()


def _add_directories(top: str, digest: blake2b, known: Known) -> None:
    stack = [top]
    while stack:
        path = stack.pop()
        stamp = file_stamp(path)
        digest.update(f"{path}\0{stamp}\n".encode("utf-8", "surrogateescape"))
        before = known.get(path)
        if before is None or before[0] != stamp:
            before = (stamp, _subdirectories(path) if stamp else ())
            known[path] = before
        stack.extend(f"{path}/{name}" for name in before[1])


def file_stamp(path: str) -> str:
    """inode, mode, size and times of what is there now; empty if nothing is."""
    try:
        info = os.stat(path, follow_symlinks=False)
    except OSError:
        return ""
    return f"{info.st_dev}:{info.st_ino}:{info.st_mode:o}:{info.st_size}:{info.st_mtime_ns}"


def _subdirectories(path: str) -> tuple[str, ...]:
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:  # it may not be listed, or is a file: its own stamp is all there is
        return ()
    is_git = "objects" in names and "refs" in names
    return tuple(sorted(name for name in names if name not in IGNORED and not (is_git and name == "objects")))
