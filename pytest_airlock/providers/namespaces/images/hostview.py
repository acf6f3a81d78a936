"""What the planner knows of this machine: a root to look below, and where the running interpreter lives."""

from __future__ import annotations

import errno
import os
import site
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

__all__ = ["HostView", "Trace", "follow", "is_below"]

_MAX_LINKS = 40  # path_resolution(7)


def is_below(path: str, top: str) -> bool:
    """True if `path` is `top` or lies below it; both absolute and normalised."""
    return path == top or top == "/" or path.startswith(top + "/")


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a path leads: `real` without links, and every (place, text) of a link met on the way."""

    real: str
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class HostView:
    """A machine to make an image of. Paths are its own; `at()` finds them below `root` ("" = this very machine).

    `prefix`, `base_prefix`, `executable` and `site_dirs` are of the interpreter that shall run inside; `homes` are
    directories that are never shown whole, even if an interpreter calls one its prefix.
    """

    root: str = ""
    prefix: str = "/usr"
    base_prefix: str = "/usr"
    executable: str = "/usr/bin/python3"
    site_dirs: tuple[str, ...] = ()
    homes: tuple[str, ...] = ()

    @classmethod
    def current(cls) -> HostView:
        """This machine and the running interpreter. The user's own site directory is left out: it is in a home."""
        library = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
        places = {os.path.normpath(path) for path in (*site.getsitepackages(), *library) if os.path.isabs(path)}
        homes = {os.path.normpath(os.path.expanduser(name)) for name in ("~", "~root")}
        return cls(
            prefix=os.path.normpath(sys.prefix),
            base_prefix=os.path.normpath(sys.base_prefix),
            executable=os.path.normpath(sys.executable or "/usr/bin/python3"),
            site_dirs=tuple(sorted(places)),
            homes=tuple(sorted(home for home in homes if os.path.isabs(home))),
        )

    def at(self, path: str) -> str:
        """Where `path` is found from here."""
        return self.root + path if path != "/" else self.root or "/"

    def is_home(self, path: str) -> bool:
        """True if `path` is somebody's home (or holds homes), or the `.local` of one."""
        place = PurePosixPath(path)
        if place.name == ".local":
            place = place.parent
        home = str(place)
        return home in ("/", "/home", "/Users", "/root", *self.homes) or str(place.parent) in ("/home", "/Users")

    def trace(self, path: str) -> Trace:
        """Resolve `path` as the kernel would if `root` were its root; missing parts stay as they are.

        Raises OSError(ELOOP), as path_resolution(7) says.
        """
        return follow(path, self.readlink)

    def readlink(self, path: str) -> str | None:
        """The text of the link at `path`, None if it is none."""
        try:
            return os.readlink(self.at(path))
        except OSError:  # no link, nothing at all, or not for us to see
            return None


def follow(path: str, readlink: Callable[[str], str | None]) -> Trace:
    """Resolve an absolute path with `readlink(place)`, which answers None where no link is. Raises OSError(ELOOP)."""
    done = "/"
    todo = _parts(path)
    links: list[tuple[str, str]] = []
    while todo:
        part = todo.pop(0)
        if part == "..":
            done = os.path.dirname(done)
            continue
        here = os.path.join(done, part)
        text = readlink(here)
        if text is None:
            done = here
            continue
        links.append((here, text))
        if len(links) > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if text.startswith("/"):
            done = "/"
        todo = _parts(text) + todo
    return Trace(done, tuple(dict.fromkeys(links)))


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
