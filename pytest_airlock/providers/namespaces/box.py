"""What the client knows of one sandbox: its number at the fork server, its life, its layers and its snapshots."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from typing import Any

from pytest_airlock.errors import InvalidSpec, SandboxDied, SnapshotNotFound, UnsupportedFeature
from pytest_airlock.providers.base import Absence, Attempts, Command, ProviderSpec
from pytest_airlock.providers.namespaces.engine import protocol
from pytest_airlock.providers.namespaces.engine.protocol import Request
from pytest_airlock.providers.namespaces.images import Look
from pytest_airlock.providers.namespaces.process import Life

__all__ = ["USERS", "Box"]

USERS = {"root": 0, "airlock": 1000}
_serial = itertools.count(1)


class Box:
    """`layers` is what the present life stands on; `untouched` is True until something could have been changed.

    `limits` are the fork server's words for the spec (limits.py); `one_id` is why there is one user id in it, if so: then
    commands run as the spec's user and no other. `base` is the number of the base image, `planned` what its mounts were
    like when that was planned; `born` is the number of its last life, `forwards`
    are the ports of the host that lead there, `tried` what it tried over the network before a snapshot began another life;
    `opened` is whether its present life may ever have had another network policy than the one it was born with.
    """

    def __init__(
        self,
        number: int,
        spec: ProviderSpec,
        *,
        limits: Mapping[str, Any],
        environ: Mapping[str, str],
        one_id: Absence | None,
        base: int,
        planned: Look,
    ) -> None:
        self.number, self.spec, self.limits, self.environ, self.one_id = number, spec, limits, environ, one_id
        self.base, self.planned = base, planned
        self.cwd = spec.cwd or environ["HOME"]
        self.life: Life | None = None
        self.layers: tuple[int, ...] = ()
        self.snapshots: dict[str, tuple[int, ...]] = {}
        self.untouched = True
        self.visits = 0
        self.nonce = ""
        self.born = 0
        self.forwards: set[int] = set()
        self.opened = False
        self.tried = Attempts()

    def words(self) -> dict[str, Any]:
        """What the fork server must know to make a life of it."""
        return {"id": self.number, "base": self.base, "spec": self.limits}

    @property
    def running(self) -> bool:
        """The kernel's word, not a memory."""
        return self.life is not None and self.life.alive()

    @property
    def shares(self) -> bool:
        """Whether code inside can change a directory of the host."""
        return any(mount.mode == "rw" for mount in self.spec.mounts)

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
        return self.asked(command, self.spec.user, self.cwd, self.one_id)

    @staticmethod
    def asked(command: Command, own: str, cwd: str, one_id: Absence | None) -> Request:
        """The same for a sandbox whose user is `own`. Raises InvalidSpec, UnsupportedFeature, ValueError."""
        uid = _uid(command.user or own, own, one_id)
        return Request(
            protocol.EXEC,
            uid=uid,
            gid=uid,
            argv=tuple(map(_word, command.argv)),
            env=tuple(_word(f"{name}={value}") for name, value in command.env),
            cwd=_word(command.cwd or cwd),
        )


def _uid(name: str, own: str, one_id: Absence | None) -> int:
    if name not in USERS:
        raise InvalidSpec("user", name, f"the users of a sandbox are {', '.join(USERS)}")
    if name != own and one_id is not None:
        raise UnsupportedFeature("many_users", "namespaces", one_id.why, hint=one_id.fix)
    return USERS[name]


def _word(text: str) -> bytes:
    """One word of a command; a NUL would end it early, so it is refused as subprocess refuses it."""
    if "\0" in text:
        raise ValueError("embedded null byte")
    return os.fsencode(text)
