"""Named security policies: the four built-ins and what users add by extending one (r11, r14).

A profile's rank is computed from what it grants: it is that of the strictest built-in that grants all of it. So a
user's profile can never pass below `--airlock-max-profile` under a harmless name.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from types import MappingProxyType

from pydantic import ValidationError

from pytest_airlock.errors import InvalidSpec, UnknownName
from pytest_airlock.models import MountMode, Profile
from pytest_airlock.orchestrator.policy.merge import DEFAULT_PROFILE, explain, nearest_word

__all__ = ["BUILT_IN", "DEFAULT_PROFILE", "ProfileRegistry", "default_mount_mode", "rank_of"]

_BUILT_IN = (
    Profile(
        name="strict",
        rank=0,
        project="absent",
        mounts=(),
        network="locked",
        network_allowed=("locked",),
        provision_network=False,
        user="airlock",
        nested=False,
        outlive=False,
    ),
    Profile(
        name="cautious",
        rank=1,
        project="cow",
        mounts=("ro", "cow"),
        network="locked",
        network_allowed=("locked",),
        provision_network=True,
        user="root",
        nested=False,
        outlive=False,
    ),
    Profile(
        name="dev",
        rank=2,
        project="rw",
        mounts=("ro", "cow", "rw"),
        network="open",
        network_allowed=("locked", "allow", "open"),
        provision_network=True,
        user="root",
        nested=True,
        outlive=False,
    ),
    Profile(
        name="trusted",
        rank=3,
        project="rw",
        mounts=("ro", "cow", "rw"),
        network="open",
        network_allowed=("locked", "allow", "open", "host"),
        provision_network=True,
        user="root",
        nested=True,
        outlive=True,
    ),
)

#: The built-in profiles by name, strictest first.
BUILT_IN = MappingProxyType({profile.name: profile for profile in _BUILT_IN})

_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", re.ASCII)
_PROJECT = {"absent": 0, "cow": 1, "rw": 2}
_USER = {"airlock": 0, "root": 1}
#: No built-in passes host environment variables; what lets host data in belongs with `dev`, not below.
_PASS_ENV_RANK = BUILT_IN["dev"].rank


class ProfileRegistry:
    """The known profiles (contracts.Profiles). Thread-safe."""

    def __init__(self) -> None:
        self._profiles = dict(BUILT_IN)
        self._lock = threading.Lock()

    def get(self, name: str) -> Profile:
        """Raises UnknownName, which lists the known ones and the nearest."""
        with self._lock:
            profile = self._profiles.get(name)
            known = tuple(self._profiles)
        if profile is None:
            raise UnknownName("profile", name, known, nearest=nearest_word(name, known))
        return profile

    def names(self) -> Sequence[str]:
        """Strictest first."""
        with self._lock:
            return tuple(sorted(self._profiles, key=lambda name: (self._profiles[name].rank, name)))

    def register(self, profile: Profile) -> None:
        """Add a profile, its rank computed anew. InvalidSpec for a built-in's name, a taken name, or a contradiction."""
        if not _NAME.fullmatch(profile.name):
            raise InvalidSpec("profile", profile.name, "a profile's name is made of a-z, 0-9, '-' and '_'")
        if profile.network not in profile.network_allowed:
            raise InvalidSpec(
                "network",
                profile.network,
                f"profile {profile.name!r} allows only {', '.join(profile.network_allowed) or 'nothing'}",
                hint="add the mode to network_allowed",
            )
        ranked = profile.model_copy(update={"rank": rank_of(profile)})
        with self._lock:
            if self._profiles.setdefault(profile.name, ranked) == ranked:
                return
        if profile.name in BUILT_IN:
            raise InvalidSpec("profile", profile.name, "a built-in profile cannot be changed", hint="extend it by name")
        raise InvalidSpec("profile", profile.name, "another profile of that name is registered")

    def extend(self, name: str, base: str, **changes: object) -> Profile:
        """Register and return a profile that is `base` but for `changes` (fields of models.Profile).

        It may be stricter or laxer than its base; its rank follows. Raises UnknownName (base, field), InvalidSpec.
        """
        origin = self.get(base)
        fields = [field for field in Profile.model_fields if field not in ("name", "rank")]
        for field in changes:
            if field not in fields:
                raise UnknownName("profile setting", field, fields, nearest=nearest_word(field, fields))
        try:
            profile = Profile.model_validate({**origin.model_dump(), **changes, "name": name})
        except ValidationError as error:
            first, *others = explain(error, Profile)
            for other in others:
                first.add_note(str(other))
            raise first from None
        self.register(profile)
        return self.get(name)


def rank_of(profile: Profile) -> int:
    """The rank of the strictest built-in that grants everything `profile` grants."""
    rank = next((built_in.rank for built_in in _BUILT_IN if _covers(built_in, profile)), _BUILT_IN[-1].rank)
    return max(rank, _PASS_ENV_RANK) if profile.pass_env else rank


def default_mount_mode(profile: Profile) -> MountMode | None:
    """The safest mode that the profile lets host mounts have; None if it refuses mounts."""
    order: tuple[MountMode, ...] = ("ro", "cow", "rw")
    return next((mode for mode in order if mode in profile.mounts), None)


def _covers(wide: Profile, narrow: Profile) -> bool:
    return (
        _PROJECT[narrow.project] <= _PROJECT[wide.project]
        and _USER[narrow.user] <= _USER[wide.user]
        and set(narrow.mounts) <= set(wide.mounts)
        and set(narrow.network_allowed) <= set(wide.network_allowed)
        and narrow.provision_network <= wide.provision_network
        and narrow.nested <= wide.nested
        and narrow.outlive <= wide.outlive
    )
