"""What the client knows of one sandbox: its number at the fork server, its life, its layers and its snapshots."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from typing import Any

from pytest_airlock.errors import InvalidSpec, SandboxDied, SnapshotNotFound, UnsupportedFeature
from pytest_airlock.providers.base import Command, ProviderSpec
from pytest_airlock.providers.namespaces import features
from pytest_airlock.providers.namespaces.engine import protocol
from pytest_airlock.providers.namespaces.engine.protocol import Request
from pytest_airlock.providers.namespaces.process import Life

__all__ = ["USERS", "Box"]

USERS = {"root": 0, "airlock": 1000}
_serial = itertools.count(1)


class Box:
    """`layers` is what the present life stands on; `untouched` is True until something could have been changed.

    `limits` are the fork server's words for the spec (limits.py); `ids` is how many user ids there are in it: with one, commands run as the spec's user and no other. `base` is the
    number of the base image, `planned` the version of what was known of its mounts then.
    """

    def __init__(
        self,
        number: int,
        spec: ProviderSpec,
        *,
        limits: Mapping[str, Any],
        environ: Mapping[str, str],
        ids: int,
        base: int,
        planned: int,
    ) -> None:
        self.number, self.spec, self.limits, self.environ, self.ids = number, spec, limits, environ, ids
        self.base, self.planned = base, planned
        self.cwd = spec.cwd or environ["HOME"]
        self.life: Life | None = None
        self.layers: tuple[int, ...] = ()
        self.snapshots: dict[str, tuple[int, ...]] = {}
        self.untouched = True
        self.nonce = ""

    def words(self) -> dict[str, Any]:
        """What the fork server must know to make a life of it."""
        return {"id": self.number, "base": self.base, "spec": self.limits}

    @property
    def running(self) -> bool:
        """The kernel's word, not a memory."""
        return self.life is not None and self.life.alive()

    def living(self) -> Life:
        """The life to ask something of that may change it. Raises SandboxDied if there is none."""
        if self.life is None:
            raise SandboxDied(self.spec.name, "it is not running")
        self.untouched = False
        return self.life

    def end(self) -> None:
        """Let go of the life's sockets; the fork server ends it."""
        life, self.life = self.life, None
        if life is not None:
            life.close()

    def keep(self) -> str:
        """Name the present layers as a snapshot."""
        name = f"{self.spec.name}.{next(_serial)}"
        self.snapshots[name] = self.layers
        return name

    def kept(self, snapshot: str) -> tuple[int, ...]:
        """The layers of a snapshot. Raises SnapshotNotFound."""
        if snapshot not in self.snapshots:
            raise SnapshotNotFound(self.spec.name, snapshot)
        return self.snapshots[snapshot]

    def needed(self) -> list[int]:
        """Layers that the present or a snapshot stands on."""
        return sorted({*self.layers, *itertools.chain(*self.snapshots.values())})

    def request(self, command: Command) -> Request:
        """The command in the agent's words."""
        uid = self._uid(command.user)
        return Request(
            protocol.EXEC,
            uid=uid,
            gid=uid,
            argv=tuple(map(_word, command.argv)),
            env=tuple(_word(f"{name}={value}") for name, value in command.env),
            cwd=_word(command.cwd or self.cwd),
        )

    def _uid(self, user: str | None) -> int:
        name = user or self.spec.user
        if name not in USERS:
            raise InvalidSpec("user", name, f"the users of a sandbox are {', '.join(USERS)}")
        if name != self.spec.user and self.ids == 1:
            raise UnsupportedFeature("many_users", "namespaces", features.ONE_ID.why, hint=features.ONE_ID.fix)
        return USERS[name]


def _word(text: str) -> bytes:
    """One word of a command; a NUL would end it early, so it is refused as subprocess refuses it."""
    if "\0" in text:
        raise ValueError("embedded null byte")
    return os.fsencode(text)
