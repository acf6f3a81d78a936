"""Which host paths a sandbox may see, and where inside (r41); and which sandbox has which (r24).

A path is judged after links, `..` and `//` are resolved, and by identity (device and inode) beside its text, so that
bind mounts and file systems that ignore case open no second door. The check is of the moment: the engine mounts the
resolved path that is returned here, never the text that was asked for.
"""

from __future__ import annotations

import os
import posixpath
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from pytest_airlock.errors import MountForbidden, ProfileForbids
from pytest_airlock.models import Mount, MountMode, Profile
from pytest_airlock.orchestrator.policy.profiles import default_mount_mode
from pytest_airlock.orchestrator.policy.sensitive import (
    HOME_PARENTS,
    HOME_SECRETS,
    SYSTEM,
    account_homes,
    runtime_paths,
)
from pytest_airlock.providers.base import ResolvedMount

__all__ = ["HostMountRules", "MountRegistry", "check_target"]

_Identity = tuple[int, int]

#: Never mounted over, nor below: the kernel's own trees.
_KERNEL_TARGETS = ("/proc", "/sys", "/dev")
#: Never mounted over: without them nothing runs inside. Below them is fine.
_SYSTEM_TARGETS = frozenset(
    [
        "/",
        "/bin",
        "/boot",
        "/etc",
        "/home",
        "/lib",
        "/lib32",
        "/lib64",
        "/libx32",
        "/opt",
        "/root",
        "/run",
        "/run/lock",
        "/sbin",
        "/tmp",
        "/usr",
        "/usr/bin",
        "/usr/lib",
        "/usr/lib32",
        "/usr/lib64",
        "/usr/libexec",
        "/usr/local",
        "/usr/sbin",
        "/usr/share",
        "/var",
        "/var/lib",
        "/var/tmp",
    ]
)


_SENSITIVE = "sensitive: never visible in a sandbox"


def _identity(path: str) -> _Identity | None:
    try:
        found = os.stat(path)
    except OSError:
        # Unreadable counts as absent: what cannot be reached cannot be mounted either.
        return None
    return found.st_dev, found.st_ino


class _Table(NamedTuple):
    """Forbidden paths, and the directories above them, by text and by identity; values are what to name in the error."""

    paths: Mapping[object, str]
    above: Mapping[object, str]


class HostMountRules:
    """The mount rules of this machine (contracts.MountRules).

    `private` are directories of airlock itself (state, cache); `homes`, `home_parents` and `environ` default to what
    this machine has. What is forbidden is collected at first use, once.
    """

    def __init__(
        self,
        *,
        private: Iterable[str | os.PathLike[str]] = (),
        homes: Iterable[str | os.PathLike[str]] | None = None,
        home_parents: Iterable[str | os.PathLike[str]] = HOME_PARENTS,
        environ: Mapping[str, str] | None = None,
        identity: Callable[[str], _Identity | None] = _identity,
    ) -> None:
        self._private = tuple(os.fspath(path) for path in private)
        self._given_homes = None if homes is None else tuple(os.fspath(path) for path in homes)
        self._given_parents = tuple(os.fspath(path) for path in home_parents)
        self._environ = os.environ if environ is None else environ
        self._identity = identity
        self._secrets: dict[str, _Table] = {}

    def resolve(self, mount: Mount, profile: Profile, *, project: bool = False) -> ResolvedMount:
        """The mount with links resolved, its mode and target decided.

        Raises ProfileForbids (mounts or mode), MountForbidden (sensitive, missing, special file, bad target).
        """
        mode = _mode(mount, profile, project=project)
        source = self._checked(mount.source, "source" if project else "mounts")
        return ResolvedMount(source, check_target(mount.target or _same(mount.source, source)), mode, project)

    def check_image(self, image: str) -> str:
        """The directory or archive that is an image, links resolved. Raises MountForbidden."""
        return self._checked(image, "image")

    def _checked(self, given: str, field: str) -> str:
        if "\0" in given:
            raise MountForbidden(field, given, "it has a NUL in it")
        expanded = os.path.expanduser(given)
        if not os.path.isabs(expanded):
            raise MountForbidden(
                field, given, "it is not an absolute path", hint=f"write {os.path.abspath(expanded)!r}"
            )
        try:
            path = _real(expanded)
            named = "it" if path == given else f"it leads to {path}, which"
            reason, hint = self._reason(path)
            if reason:
                raise MountForbidden(field, given, f"{named} {reason}", hint=hint)
            # Not strict, realpath leaves a link that it cannot read in the path, or raises, as the Python is.
            os.path.realpath(path, strict=True)
            kind = os.lstat(path).st_mode
        except OSError as error:
            raise MountForbidden(
                field, given, f"it cannot be reached: {error.strerror}", hint="create it first, or correct the path"
            ) from error
        if not stat.S_ISDIR(kind) and not stat.S_ISREG(kind):
            raise MountForbidden(field, given, f"{named} is a socket, pipe or device: only files and directories pass")
        return path

    def _reason(self, path: str) -> tuple[str, str]:
        """Why `path` (resolved) is refused, and what to do; ("", "") if it is not."""
        below_home = "mount a project below it instead"
        if path == "/":
            return "is the whole machine", "as an image, image='host' is the copy-on-write view of this machine"
        chain = tuple(_upwards(path))
        found = self._found(chain, self._system)
        if found:
            return found
        if self._is(path, self._parents):
            return "is where the homes are", below_home
        for place in chain:
            if not self._is_home(place):
                continue
            if place == path:
                return "is a home", below_home
            found = self._found(chain[: chain.index(place)], self._secrets_of(place))
            if found:
                return found
        home = self._homes.above.get(path) or self._homes.above.get(self._identity(path))
        return (f"contains the home {home}", below_home) if home else ("", "")

    def _found(self, chain: Sequence[str], table: _Table) -> tuple[str, str] | None:
        """`chain`: a path and the directories above it, as far as the table reaches."""
        hint = "copy what the test needs into a directory of its own"
        for place in chain:
            name = table.paths.get(place) or table.paths.get(self._identity(place))
            if name:
                return f"{'is' if place == chain[0] else f'lies in {name}, which is'} {_SENSITIVE}", hint
        name = table.above.get(chain[0]) or table.above.get(self._identity(chain[0]))
        if not name:
            return None
        if any(name in (path, _real(path)) for path in self._private):
            hint = "move airlock's own directory: AIRLOCK_STATE_DIR"
        return f"contains {name}, which is {_SENSITIVE}", hint

    def _is(self, path: str, table: _Table) -> bool:
        return path in table.paths or self._identity(path) in table.paths

    def _is_home(self, path: str) -> bool:
        return self._is(path, self._homes) or self._is(posixpath.dirname(path), self._parents)

    def _secrets_of(self, home: str) -> _Table:
        if home not in self._secrets:
            self._secrets[home] = self._table((f"{home}/{name}" for name in HOME_SECRETS), home)
        return self._secrets[home]

    @cached_property
    def _system(self) -> _Table:
        # A secret of a home may be a link to somewhere else: there it is sensitive, too.
        linked = (f"{home}/{name}" for home in self._own for name in HOME_SECRETS)
        elsewhere = [_real(path) for path in linked if _real(path) != path]
        return self._table((*SYSTEM, *self._private, *runtime_paths(self._environ), *elsewhere), "/")

    @cached_property
    def _parents(self) -> _Table:
        return self._table(self._given_parents, "/")

    @cached_property
    def _own(self) -> tuple[str, ...]:
        homes = (os.path.expanduser("~"),) if self._given_homes is None else self._given_homes
        return tuple(posixpath.normpath(home) for home in homes if os.path.isabs(home))

    @cached_property
    def _homes(self) -> _Table:
        homes = account_homes() if self._given_homes is None else frozenset(self._given_homes)
        # Identities of own homes only: to stat everybody's could start as many automounts.
        table = self._table(self._own, "/")
        paths, above = dict(table.paths), dict(table.above)
        for home in homes - {"/"}:
            paths.setdefault(home, home)
            for place in list(_upwards(home))[1:]:
                above.setdefault(place, home)
        return _Table(paths, above)

    def _table(self, forbidden: Iterable[str], top: str) -> _Table:
        """Both the paths as written and what they are links to; `top` and what is above it is not in `above`."""
        paths: dict[object, str] = {}
        above: dict[object, str] = {}
        for name in forbidden:
            for path in dict.fromkeys((posixpath.normpath(name), _real(name))):
                if path == "/":
                    continue
                _add(paths, path, name, self._identity)
                for place in list(_upwards(path))[1:]:
                    if place == top:
                        break
                    _add(above, place, name, self._identity)
        return _Table(paths, above)


class MountRegistry:
    """Which sandbox has which mounts in this process. Thread-safe."""

    def __init__(self) -> None:
        self._mounts: dict[str, tuple[ResolvedMount, ...]] = {}
        self._lock = threading.Lock()

    def register(self, name: str, mounts: Iterable[ResolvedMount]) -> None:
        """Add mounts to those of the sandbox `name`."""
        with self._lock:
            self._mounts[name] = (*self._mounts.get(name, ()), *mounts)

    def list(self, name: str) -> tuple[ResolvedMount, ...]:
        """The mounts of that sandbox, in the order they came; none for a sandbox that is not known."""
        with self._lock:
            return self._mounts.get(name, ())

    def unregister_all(self, name: str) -> tuple[ResolvedMount, ...]:
        """Forget, and return, every mount of that sandbox and of no other. Twice is fine."""
        with self._lock:
            return self._mounts.pop(name, ())


def check_target(target: str) -> str:
    """The path inside at which a mount is seen: absolute, no `..`, not over the system. Raises MountForbidden."""
    if "\0" in target:
        raise MountForbidden("mounts.target", target, "it has a NUL in it")
    if not target.startswith("/"):
        raise MountForbidden("mounts.target", target, "a place inside is an absolute path")
    if ".." in target.split("/"):
        raise MountForbidden("mounts.target", target, "it has a '..' in it", hint="write the path it leads to")
    path = "/" + posixpath.normpath(target).lstrip("/")
    if path in _SYSTEM_TARGETS or any(path == tree or path.startswith(f"{tree}/") for tree in _KERNEL_TARGETS):
        raise MountForbidden(
            "mounts.target", target, "the system inside is there", hint="name another target: 'source:/mnt/data'"
        )
    return path


def _mode(mount: Mount, profile: Profile, *, project: bool) -> MountMode:
    if project:
        if profile.project == "absent":
            raise ProfileForbids(profile.name, "showing the project", hint="choose a laxer profile, or source=False")
        mode = mount.mode or profile.project
        if mode == "rw" and profile.project != "rw":
            raise ProfileForbids(profile.name, "a read-write project", hint="profile='dev' allows it")
        return mode
    default = default_mount_mode(profile)
    if default is None:
        raise ProfileForbids(
            profile.name, f"host mounts ({mount.source})", hint="profile='cautious' allows 'ro' and 'cow'"
        )
    if mount.mode is not None and mount.mode not in profile.mounts:
        allowed = ", ".join(map(repr, profile.mounts))
        raise ProfileForbids(profile.name, f"mount mode {mount.mode!r} ({mount.source})", hint=f"it allows {allowed}")
    return mount.mode or default


def _same(given: str, resolved: str) -> str:
    """The path at which a mount without a target appears: as it was written, so that a test finds it there."""
    return resolved if ".." in given.split("/") else os.path.expanduser(given)


def _real(path: str) -> str:
    # POSIX lets "//" mean something of its own, so realpath keeps it; on Linux and macOS it is "/".
    return "/" + os.path.realpath(path).lstrip("/")


def _upwards(path: str) -> Iterator[str]:
    """`path` and every directory above it, "/" last."""
    yield path
    while path != "/":
        path = posixpath.dirname(path)
        yield path


def _add(table: dict[object, str], path: str, name: str, identity: Callable[[str], _Identity | None]) -> None:
    table.setdefault(path, name)
    found = identity(path)
    if found is not None:
        table.setdefault(found, name)
