"""The small contracts between SandboxManager and its collaborators; each can be replaced in tests (r10)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pytest_airlock.models import Mount, Network, Owner, Profile, RuntimeGuess, SandboxInfo, SandboxRecord, SandboxSpec
from pytest_airlock.providers.attaching import Visit
from pytest_airlock.providers.base import Command, Process, Provider, ProviderSpec, ResetProof, ResolvedMount, Route

__all__ = [
    "Clock",
    "Detector",
    "Insufficient",
    "Lease",
    "Manager",
    "MountRules",
    "Mounts",
    "Need",
    "Plan",
    "Profiles",
    "Providers",
    "ResourceChecker",
    "Store",
]

#: What to do when the machine is too small: raise, skip the test, or take what there is.
Insufficient = Literal["error", "skip", "clamp"]


@runtime_checkable
class Clock(Protocol):
    """Time, so that tests need none."""

    def time(self) -> float: ...
    def monotonic(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


@runtime_checkable
class Profiles(Protocol):
    """Named security policies: the four built-ins and what users add."""

    def get(self, name: str) -> Profile:
        """Raises UnknownName listing the known ones."""
        ...

    def names(self) -> Sequence[str]: ...
    def register(self, profile: Profile) -> None: ...


@runtime_checkable
class Detector(Protocol):
    """Guesses how a project is built and run from the files it has; never runs anything."""

    def detect(self, source: Path, runtime: str | None = None) -> RuntimeGuess:
        """The best guess; `runtime` given wins, with commands for it. Raises UnknownName for an unknown one."""
        ...


@runtime_checkable
class MountRules(Protocol):
    """Which host paths may be seen inside (r41)."""

    def resolve(self, mount: Mount, profile: Profile, *, project: bool = False) -> ResolvedMount:
        """Raises MountForbidden (sensitive, missing) or ProfileForbids (mode)."""
        ...

    def check_image(self, image: str) -> str:
        """A directory or archive used as image, links resolved. Raises MountForbidden."""
        ...


@runtime_checkable
class Mounts(Protocol):
    """Which sandbox of this process has which mounts (r24)."""

    def register(self, name: str, mounts: Iterable[ResolvedMount]) -> None: ...
    def list(self, name: str) -> Sequence[ResolvedMount]: ...
    def unregister_all(self, name: str) -> Sequence[ResolvedMount]:
        """Forget every mount of that sandbox and of no other."""
        ...


@dataclass(frozen=True, slots=True)
class Need:
    """What was *set* for one sandbox: processors, bytes, bytes; None = not set, so not reserved."""

    name: str
    cpu: int | None = None
    memory: int | None = None
    disk: int | None = None


@runtime_checkable
class ResourceChecker(Protocol):
    """Has this machine what is asked for?"""

    def ceiling(self) -> Mapping[str, int]:
        """What the machine could give to one sandbox if nothing else ran: cpu, memory, disk."""
        ...

    def check(self, need: Need, held: Iterable[Need]) -> None:
        """Raises InsufficientResources; `can_ever_fit` tells waiting from giving up."""
        ...

    def clamp(self, need: Need) -> Need:
        """`need`, lowered to the ceiling."""
        ...


@runtime_checkable
class Lease(Protocol):
    """A name held for as long as its owner lives."""

    name: str

    def release(self) -> None:
        """Give the name back; twice is fine."""
        ...


@runtime_checkable
class Store(Protocol):
    """Cross-process truth: one JSON record per sandbox, and the leases that say whose it is."""

    def reserve(self, name: str, owner: Owner, *, wait: float = 0.0) -> Lease:
        """Atomic; raises AlreadyExists naming the owner. `wait` seconds for it to become free."""
        ...

    def save(self, record: SandboxRecord) -> None: ...
    def load(self, name: str) -> SandboxRecord:
        """Raises SandboxNotFound, CorruptRecord (moved aside)."""
        ...

    def remove(self, name: str) -> None:
        """Remove the record, and what was exported to its `kept_dir`; none there is no error."""
        ...

    def kept_dir(self, name: str) -> Path:
        """Where what is exported of a kept sandbox lies, in the state directory; it need not be there."""
        ...

    def records(self) -> Sequence[SandboxRecord]:
        """All readable records; corrupt ones are moved aside and reported once through `warn`."""
        ...

    def is_orphan(self, record: SandboxRecord) -> bool:
        """The owner is proved dead and the lease is free."""
        ...

    def adopt(self, name: str, owner: Owner) -> Lease | None:
        """Take the lease of an orphan, None if somebody else was faster or the owner lives."""
        ...

    def sweep(self) -> None:
        """Remove what killed processes left of names without a record."""
        ...

    def locked(self, name: str) -> AbstractContextManager[None]:
        """The short-held lock under which the record of `name` is read and changed (r25)."""
        ...

    def network_lock(self, name: str) -> AbstractContextManager[None]:
        """Held by whoever puts a network policy in force, until it is recorded, too: so for as long as a provider takes.

        Looking at a sandbox never needs it. locked() may be entered within it, and not the other way round.
        """
        ...


@runtime_checkable
class Providers(Protocol):
    """Names to providers, made at first use and kept for the process."""

    def get(self, name: str) -> Provider:
        """`auto` is the first that exists and works. Raises UnknownName, ProviderUnavailable."""
        ...

    def names(self) -> Sequence[str]: ...
    def register(self, name: str, factory: Callable[[], Provider]) -> None: ...
    def close(self, *, keep: Collection[str] = ()) -> None:
        """Close those that were made; those in `keep` have sandboxes that outlive the run."""
        ...


@runtime_checkable
class Manager(Protocol):
    """What the plugin, the command line and other programs may do with sandboxes (r08); implemented by SandboxManager."""

    def create(self, what: Plan | SandboxSpec, *, test: str = "", wait: float = 0.0) -> SandboxInfo: ...
    def run(self, name: str, argv: Sequence[str], **options: Any) -> Any: ...
    def spawn(self, name: str, command: Command) -> Process: ...
    def start(self, name: str) -> SandboxInfo: ...
    def stop(self, name: str, *, grace: float = 5.0) -> SandboxInfo: ...
    def destroy(self, name: str, *, missing_ok: bool = False) -> None: ...
    def reset(self, name: str) -> ResetProof | None: ...
    def snapshot(self, name: str, *, stop: bool = False) -> str: ...
    def restore(self, name: str, snapshot: str) -> None: ...
    def list(self) -> Sequence[SandboxInfo]: ...
    def status(self, name: str) -> SandboxInfo: ...
    def set_network(self, name: str, network: Network) -> None: ...
    def lock(self, name: str) -> Network: ...
    def unlock(self, name: str) -> Network: ...
    def allow(self, name: str, *entries: str) -> Network: ...
    def set_routes(self, name: str, routes: tuple[Route, ...]) -> None: ...
    def attach(self, name: str) -> Visit: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """A spec with every question answered: what create() carries out.

    `key` is the pool's: equal keys are interchangeable sandboxes (everything but name, time-out and test id).
    `network` is the final policy; `provision` the commands as argv, run before the clean snapshot, with
    `provision_network` (None = locked) while they run; `notes` are said once in the report.
    """

    spec: SandboxSpec
    profile: Profile
    provider_name: str
    provider_spec: ProviderSpec
    network: Network
    need: Need
    key: str
    provision: tuple[tuple[str, ...], ...] = ()
    provision_network: Network | None = None
    timeout: float | None = None
    runtime: RuntimeGuess | None = None
    notes: tuple[str, ...] = ()
