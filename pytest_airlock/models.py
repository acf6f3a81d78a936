"""Validated data that crosses the borders of the package: specs, profiles, records, information.

Units: memory and disk are bytes (texts such as "512M" or "4GiB" are powers of 1024), times are seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool

from pytest_airlock.providers.endpoints import parse

__all__ = [
    "DEFAULT_DISK",
    "DEFAULT_TIMEOUT",
    "MAX_ALLOW",
    "Export",
    "Mount",
    "Network",
    "Owner",
    "Profile",
    "RuntimeGuess",
    "SandboxInfo",
    "SandboxRecord",
    "SandboxSpec",
    "State",
    "parse_size",
]

#: The defaults of a spec, in exactly this place (r27). None = as much as the host gives.
DEFAULT_DISK = 2 * 1024**3
DEFAULT_TIMEOUT: float | None = None

#: Entries of an allow-list at most, and characters of one.
MAX_ALLOW = 1_000
_LONGEST_ENTRY = 300

_SIZE = re.compile(r"([0-9]+)\s*(?:([KMGT])(?:i?B)?|B)?", re.ASCII | re.IGNORECASE)
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(value: object) -> int:
    """Bytes, of a number or a text such as "512M". Raises ValueError."""
    if isinstance(value, bool):
        raise ValueError("a size is a number of bytes or a text such as '512M', not true or false")
    if isinstance(value, int):
        size = value
    elif isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if not match:
            raise ValueError("a size is a number of bytes or a text such as '512M', '4G' or '4GiB'")
        size = int(match[1]) * 1024 ** _UNITS[(match[2] or "").upper()]
    else:
        raise ValueError("a size is a number of bytes or a text such as '512M'")
    if not 0 < size < 2**63:
        raise ValueError("a size is at least 1 byte and less than 8 EiB")
    return size


def _address_space(value: int) -> int:
    if value < 64 * 1024**2:
        raise ValueError(
            "address_space is at least 64M: each process has that, and a small interpreter takes half of it"
        )
    return value


def _count(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"cpu is a whole number of processors, at least 1, not {value!r}")
    return value


def _env_name(env: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in env.items():
        if not name or "=" in name or "\0" in name:
            raise ValueError(f"{name!r} is no environment variable name: it is empty or has '=' or NUL in it")
        if "\0" in value:
            raise ValueError(f"the value of {name} has a NUL in it")
    return env


def _seconds(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("a time-out is a number of seconds")
    if not 0 < value < 1e9:
        raise ValueError("a time-out is more than 0 seconds")
    return value


def _entry(text: str) -> str:
    if len(text) > _LONGEST_ENTRY:
        raise ValueError(f"it has {len(text):,} characters, and no name or address has more than {_LONGEST_ENTRY}")
    return str(parse(text))


def _few(entries: object) -> object:
    # Before each of them is looked at.
    if isinstance(entries, (list, tuple)) and len(entries) > MAX_ALLOW:
        raise ValueError(f"it has {len(entries):,} entries, and {MAX_ALLOW:,} is the most: one can stand for a network")
    return entries


def _unique(entries: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entries))


Size = Annotated[int, BeforeValidator(parse_size)]
AddressSpace = Annotated[Size, AfterValidator(_address_space)]
Cpu = Annotated[int, BeforeValidator(_count), Field(ge=1, le=65_536)]
Seconds = Annotated[float, BeforeValidator(_seconds)]
Environment = Annotated[dict[str, str], AfterValidator(_env_name)]
Port = Annotated[int, Field(strict=True, ge=1, le=65_535)]
AllowList = Annotated[
    tuple[Annotated[str, AfterValidator(_entry)], ...], BeforeValidator(_few), AfterValidator(_unique)
]
MountMode = Literal["ro", "cow", "rw"]
NetworkMode = Literal["locked", "allow", "open", "host"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)


class State(str, Enum):
    """What the store holds of a sandbox; `errored` is sticky until destroy."""

    CREATING = "creating"
    RUNNING = "running"
    STOPPED = "stopped"
    ERRORED = "errored"

    def __str__(self) -> str:
        return self.value


class Mount(_Model):
    """A host path seen inside. `mode` None = what the profile gives; `target` None = the same path."""

    source: str
    target: str | None = None
    mode: MountMode | None = None


class Network(_Model):
    """A network policy; `allow` entries are `host:port`, `*.domain:port`, `address/prefix:port`, port `*` = every one.

    With mode "allow" they are all that is reached; with "open" what is reached besides the outside world, as private
    addresses. They are kept in their canonical form, in order, each once; at most 1,000.
    """

    mode: NetworkMode = "locked"
    allow: AllowList = ()


def _network(value: object) -> object:
    if isinstance(value, str):
        if value == "allow":
            raise ValueError("an allow-list is given as a list of 'host:port' texts")
        return {"mode": value}
    if isinstance(value, (list, tuple)):
        return {"mode": "allow", "allow": tuple(value)}
    return value


def _mounts(value: object) -> object:
    """A list of mounts, each a mapping or the text 'source[:target[:mode]]'."""
    if isinstance(value, (list, tuple)):
        return tuple(_mount(item) for item in value)
    return value


def _mount(value: object) -> object:
    if isinstance(value, str):
        parts = value.split(":")
        if len(parts) > 3:
            raise ValueError("a mount is 'source', 'source:target' or 'source:target:mode'")
        if len(parts) == 2 and parts[1] in ("ro", "cow", "rw"):
            parts = [parts[0], "", parts[1]]
        source, target, mode = (*parts, "", "")[:3]
        return {"source": source, "target": target or None, "mode": mode or None}
    return value


def _provision(value: object) -> object:
    """A list of commands: shell text (allow-listed characters) or an argv list."""
    if isinstance(value, str):
        raise ValueError("provision is a list of commands")
    if isinstance(value, (list, tuple)):
        return tuple(tuple(item) if isinstance(item, (list, tuple)) else item for item in value)
    return value


class SandboxSpec(_Model):
    """What is asked for. None means "not set": the profile or the provider decides.

    The same words are the arguments of `@pytest.mark.airlock(...)`, of `airlock_factory`, of `create_sandbox` and the
    keys of a configuration file.
    """

    name: str | None = None
    profile: str | None = None
    provider: str | None = None
    image: str | None = None
    runtime: str | None = None
    user: Literal["root", "airlock"] | None = None
    cpu: Cpu | None = None
    memory: Size | None = None
    disk: Size | None = None
    address_space: AddressSpace | None = None
    nesting: StrictBool | None = None
    env: Environment = Field(default_factory=dict)
    mounts: Annotated[tuple[Mount, ...], BeforeValidator(_mounts)] = ()
    source: str | Literal[False] | None = None
    expose: tuple[str, ...] = ()
    provision: Annotated[tuple[str | tuple[str, ...], ...], BeforeValidator(_provision)] = ()
    network: Annotated[Network, BeforeValidator(_network)] | None = None
    network_attempts: Literal["ignore", "warn", "forbid"] | None = None
    ports: tuple[Port, ...] = ()
    timeout: Seconds | None = None
    keep: StrictBool = False


class Profile(_Model):
    """A named security policy (design: strict, cautious, dev, trusted). `rank` orders strictness, 0 the strictest."""

    name: str
    rank: int
    project: Literal["absent", "cow", "rw"]
    mounts: tuple[MountMode, ...]
    network: Literal["locked", "open"]
    network_allowed: tuple[NetworkMode, ...]
    provision_network: bool
    user: Literal["root", "airlock"]
    nested: bool
    outlive: bool
    cpu: Cpu | None = None
    memory: Size | None = None
    disk: Size | None = None
    pass_env: tuple[str, ...] = ()


class RuntimeGuess(_Model):
    """What a project is made with: commands as argv, confidence 0..1, the files that say so as evidence."""

    runtime: str
    confidence: float = Field(ge=0, le=1)
    install: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()


class Owner(_Model):
    """The process that holds a lease. Death is proved by pid gone, or another start time or boot id.

    A pid means something in its own pid namespace only (inode of /proc/self/ns/pid; 0 where there are none).
    """

    pid: int
    start_time: int
    boot_id: str
    pid_namespace: int = 0
    run_id: str = ""
    worker: str = ""
    test: str = ""


class Export(_Model):
    """What is left of a kept sandbox that could not live on: its changed files, in the directory `path` on the host.

    `files` and `bytes` are there, of `changes` in all; `left_out` of these are without content, changes.json says why.
    """

    path: str
    files: int
    bytes: int
    changes: int
    left_out: int = 0


class SandboxRecord(_Model):
    """Identity and intent of a sandbox, one JSON file each; what is live is probed, not stored.

    `network` is the policy in force, `before_lock` what unlocking goes back to. `network_allowed` are the profile's modes:
    a process that did not make the sandbox may not know the profile.
    """

    version: Literal[1] = 1
    name: str
    provider: str
    state: State
    spec: SandboxSpec
    profile: str
    owner: Owner
    created: float
    network: Network = Field(default_factory=Network)
    before_lock: Network | None = None
    network_allowed: tuple[NetworkMode, ...] = ("locked",)
    handle: dict[str, Any] | None = None
    snapshots: dict[str, str] = Field(default_factory=dict)
    mounts: tuple[dict[str, Any], ...] = ()
    runtime: RuntimeGuess | None = None
    kept: bool = False
    error: str = ""
    remains: str = ""
    export: Export | None = None


class SandboxInfo(_Model):
    """What `info`, `list` and `status` tell. `enforced` are the features the provider enforces for it.

    `before_lock` is the network policy that unlocking goes back to; None if it was not locked while it ran.
    """

    name: str
    state: State
    provider: str
    profile: str
    image: str | None
    user: str
    network: Network
    before_lock: Network | None = None
    enforced: tuple[str, ...]
    owner: Owner
    created: float
    runtime: RuntimeGuess | None = None
    mounts: tuple[dict[str, Any], ...] = ()
    snapshots: tuple[str, ...] = ()
    kept: bool = False
    error: str = ""
    remains: str = ""
    export: Export | None = None
