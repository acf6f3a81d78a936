"""What of a host directory must not be seen inside: credentials by name and content, and, as root, private files.

A directory is walked once, without following links. What could not be looked at (too deep, too many, not
readable) is hidden as well: an unknown file is never shown because it was unknown.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from . import credentials

__all__ = ["MAX_DEPTH", "MAX_ENTRIES", "Masks", "scan"]

MAX_ENTRIES = 2_000_000
MAX_DEPTH = 64
_MAX_READ = 1 << 20

#: Hidden wherever they are, files and directories.
# fmt: off
_NAMES = frozenset((
    ".git-credentials", ".netrc", "_netrc", ".pypirc", ".npmrc", "pip.conf", "pip.ini", ".pgpass", ".my.cnf", ".s3cfg",
    ".boto", ".dockercfg", ".terraformrc", ".vault-token", ".htpasswd", ".databrickscfg", ".gitconfig",
    ".bash_history", ".zsh_history", ".python_history", ".psql_history", ".mysql_history", ".node_repl_history",
    ".aws", ".ssh", ".gnupg", ".kube", ".azure", ".password-store",
))
# fmt: on
#: Hidden below a directory of that name.
_BELOW = {
    ".config": frozenset(("gh", "gcloud", "hub", "glab-cli", "doctl", "rclone", "containers", "git", "pip")),
    ".docker": frozenset(("config.json",)),
    ".cargo": frozenset(("credentials", "credentials.toml")),
    ".gem": frozenset(("credentials",)),
    ".composer": frozenset(("auth.json",)),
    ".terraform.d": frozenset(("credentials.tfrc.json",)),
    ".streamlit": frozenset(("secrets.toml",)),
    ".envs": frozenset((".production",)),
    ".git": frozenset(("credentials",)),
}
_ENV_SAMPLES = (".example", ".sample", ".template", ".dist", ".tmpl", ".tpl", ".schema", ".md")
_KEY_STORES = (".p12", ".pfx", ".pkcs12", ".jks", ".keystore", ".bks", ".kdbx")
_KEY_FILES = (".pem", ".key", ".p8", ".ppk", ".asc", ".gpg", ".pgp")
_KEY_NAMES = ("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519")
_DER_FILES = (".key", ".p8")
_TOKEN_FILES = (".yarnrc", ".yarnrc.yml")
_SUFFIXES = _KEY_STORES + _KEY_FILES
_PREFIXES = (".env", *_KEY_NAMES)
_READ = frozenset((*_TOKEN_FILES, "direct_url.json", "config.worktree"))
_SUSPECT = _NAMES | _READ


class Masks(NamedTuple):
    """Paths relative to what was scanned. `unseen` are those of `hidden` that were beyond the bounds of the walk."""

    hidden: tuple[str, ...] = ()
    replaced: tuple[tuple[str, str], ...] = ()
    unseen: tuple[str, ...] = ()
    judged: tuple[str, ...] = ()


def scan(
    top: str,
    *,
    start: str = "",
    skip: Collection[str] = (),
    expose: Collection[str] = (),
    modes: bool = False,
    max_entries: int = MAX_ENTRIES,
    max_depth: int = MAX_DEPTH,
) -> Masks:
    """Masks of the directory `top`, or of `start` below it.

    `skip` are relative paths that other views cover: neither walked nor hidden. `expose` are exceptions, with all
    below them. `modes` hides what others than its owner may not read or search: for directories of which an id
    shift would make the sandbox's root the owner.
    """
    walk = _Walk(top, frozenset(skip), frozenset(expose), modes, max_entries, max_depth)
    walk.run(start)
    return Masks(
        tuple(sorted(walk.hidden)), tuple(sorted(walk.replaced)), tuple(sorted(walk.unseen)), tuple(walk.judged)
    )


@dataclass
class _Walk:
    top: str
    skip: frozenset[str]
    expose: frozenset[str]
    modes: bool
    max_entries: int
    max_depth: int
    hidden: list[str] = field(default_factory=list)
    replaced: list[tuple[str, str]] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    judged: list[str] = field(default_factory=list)
    count: int = 0

    def run(self, start: str) -> None:
        stack = [(start, start.count("/"))]
        self.open_above = set(_ancestors(self.skip | self.expose))
        while stack:
            relative, depth = stack.pop()
            if depth > self.max_depth or self.count > self.max_entries:
                self._unseen(relative)
                continue
            stack.extend((path, depth + 1) for path in self._directory(relative))

    def _directory(self, relative: str) -> Iterator[str]:
        """Look at one directory; yields those below it that want a look."""
        path = f"{self.top}/{relative}" if relative else self.top
        lead = f"{relative}/" if relative else ""
        below = _BELOW.get(os.path.basename(relative), frozenset())
        directories: list[str] = []
        try:
            with _opened(path) as fd, os.scandir(fd) as entries:
                for entry in entries:
                    self.count += 1
                    name = entry.name
                    if self.modes and _is_private(entry):
                        self._hide(lead + name)
                    elif name == "config" and os.path.basename(relative) == ".git":
                        # By its name alone: in a worktree or with shared objects nothing else tells a git directory.
                        self._replace(lead + name, credentials.clean_git_config)
                    elif name in _SUSPECT or name in below:
                        self._suspect(lead, name, entry, directories)
                    elif entry.is_dir(follow_symlinks=False):
                        directories.append(name)
                    elif name.startswith(_PREFIXES) or name.endswith(_SUFFIXES):
                        self._named(lead + name, name)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError:
            self._unseen(relative)
            return
        if "objects" in directories and "refs" in directories:
            self._git_directory(path, lead, directories)
        for name in directories:
            # Byte code has the mode of its source, and no names of its own.
            if (name != "__pycache__" or self.modes) and lead + name not in self.skip:
                yield lead + name

    def _suspect(self, lead: str, name: str, entry: os.DirEntry[str], directories: list[str]) -> None:
        if name not in _READ:
            self._hide(lead + name)
        elif entry.is_dir(follow_symlinks=False):
            directories.append(name)
        elif name in _TOKEN_FILES:
            self._hide_if(lead + name, credentials.holds_token)
        elif name == "direct_url.json":
            self._replace(lead + name, credentials.clean_direct_url)
        else:
            self._replace(lead + name, credentials.clean_git_config)

    def _named(self, relative: str, name: str) -> None:
        if name.endswith(_KEY_STORES):
            self._hide(relative)
        elif name.startswith(".env"):
            if not name.endswith(_ENV_SAMPLES):
                self._hide(relative)
        else:
            der = name.endswith(_DER_FILES)
            self._hide_if(relative, lambda data: credentials.holds_private_key(data, der=der))

    def _git_directory(self, path: str, lead: str, directories: list[str]) -> None:
        """The rules of a git directory: .git, a bare repository, .git/modules/NAME."""
        if os.path.lexists(f"{path}/HEAD"):
            directories.remove("objects")  # thousands of entries, named by hashes
            if os.path.basename(lead[:-1]) != ".git":  # which was cleaned by its name
                self._replace(f"{lead}config", credentials.clean_git_config)

    def _hide(self, relative: str) -> None:
        if relative in self.skip or self._exposed(relative):
            return
        if relative not in self.open_above:
            self.hidden.append(relative)
            return
        # Something below it is to be seen: hide all but that.
        try:
            names = os.listdir(f"{self.top}/{relative}")
        except OSError:
            names = []
        for name in names:
            self._hide(f"{relative}/{name}")

    def _hide_if(self, relative: str, secret: Callable[[bytes], bool]) -> None:
        if self._exposed(relative):
            return
        data = self._content(relative)
        if data is _UNREADABLE or (data is not None and secret(data)):
            self._hide(relative)

    def _replace(self, relative: str, clean: Callable[[bytes], bytes | None]) -> None:
        if self._exposed(relative):
            return
        data = self._content(relative)
        if data is None:
            return
        if data is _UNREADABLE:
            self._hide(relative)
            return
        text = clean(data)
        if text is not None and text != data:
            self.replaced.append((relative, text.decode("latin-1")))

    def _content(self, relative: str) -> bytes | None:
        path = f"{self.top}/{relative}"
        self.judged.append(path)
        return _read(path)

    def _unseen(self, relative: str) -> None:
        before = len(self.hidden)
        if relative:
            self._hide(relative)
        self.unseen.extend(self.hidden[before:])

    def _exposed(self, relative: str) -> bool:
        return bool(self.expose) and not self.expose.isdisjoint((relative, *_ancestors((relative,))))


_UNREADABLE = b"\0unreadable"


@contextmanager
def _opened(path: str) -> Iterator[int]:
    """A directory's descriptor: with it, the many stats of a walk need no path look-up, and no link can slip in."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _read(path: str) -> bytes | None:
    """The content of a regular file; None for anything else; _UNREADABLE if it may not be read or is too big to judge."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError:
        return None if os.path.islink(path) else _UNREADABLE
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        data = file.read(_MAX_READ + 1)
    return data if len(data) <= _MAX_READ else _UNREADABLE


def _is_private(entry: os.DirEntry[str]) -> bool:
    if entry.is_symlink():
        return False
    try:
        mode = entry.stat(follow_symlinks=False).st_mode
    except FileNotFoundError:
        return False
    return not mode & (stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH)


def _ancestors(paths: Collection[str]) -> Iterator[str]:
    for path in paths:
        while "/" in path:
            path = path.rpartition("/")[0]
            yield path
