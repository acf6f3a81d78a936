"""What crosses the border between orchestrator and providers: plain data, see the contract in base.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "FEATURES",
    "Absence",
    "Attempt",
    "Attempts",
    "Change",
    "ChangeKind",
    "Command",
    "Exit",
    "Fault",
    "Features",
    "FileAction",
    "FileKind",
    "FileStat",
    "Finding",
    "Handle",
    "MountMode",
    "NetworkMode",
    "NetworkRule",
    "ProviderSpec",
    "Redirect",
    "ResetProof",
    "ResolvedMount",
    "Route",
    "TreeEntry",
]

MountMode = Literal["ro", "cow", "rw"]
NetworkMode = Literal["locked", "allow", "open", "host"]
FileKind = Literal["file", "dir", "symlink", "fifo", "socket", "char", "block"]
ChangeKind = Literal["added", "modified", "deleted"]
FileAction = Literal["mkdir", "remove", "rmtree", "rename", "symlink", "chmod"]
Redirect = Literal["pipe", "null", "stdout"]

#: Every word `Features` and `ProviderSpec.required` may use, and what it promises.
FEATURES: Mapping[str, str] = {
    "network_locked": "nothing inside reaches a network, DNS included",
    "network_allow": "an allow-list by host name and port",
    "network_open": "the outside world is reachable",
    "network_host": "the host's own network name space",
    "network_routes": "connections to a name are led to a server of the test",
    "network_attempts": "every try to use the network is recorded",
    "ports": "ports inside are reachable from the host",
    "mount_ro": "host directories visible read-only",
    "mount_cow": "host directories with a writable copy-on-write view",
    "mount_rw": "host directories shared read-write",
    "user_root": "commands run as root of the sandbox",
    "user_ordinary": "commands run as the ordinary user `airlock` (uid 1000)",
    "groups_dropped": "no group of the host's user that gives power over the host is kept",
    "many_users": "files can be owned by any uid below 65,536",
    "cpu": "at most that many processors",
    "memory": "a cap on all memory, tmpfs and kernel memory included",
    "disk": "a cap on what the sandbox can write",
    "address_space": "a cap on the address space of each process, which is none on what they use together",
    "pids": "a cap on the number of processes",
    "syscall_filter": "an allow-list of system calls",
    "landlock": "a second wall: files outside, abstract sockets and signals are refused by Landlock as well",
    "private_proc": "/proc shows the sandbox's processes only",
    "nested": "user name spaces can be made inside",
    "image_host": "a copy-on-write view of this machine as image",
    "image_rootfs": "a directory or tarball as image",
    "snapshots": "files can be kept and brought back",
    "diff": "what changed since a snapshot is known",
    "outlives": "a sandbox can live on after the process that made it",
}


@dataclass(frozen=True, slots=True)
class Absence:
    """Why a feature is not there and the exact fix."""

    why: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Features:
    """What a provider can enforce here and now, found by trying; `absent` has the reason of each missing one."""

    present: frozenset[str]
    absent: Mapping[str, Absence] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __contains__(self, feature: str) -> bool:
        return feature in self.present


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that counts on a host: `subject` in a word or two, `what` it is. ok None = neither good nor bad."""

    subject: str
    what: str
    ok: bool | None = None
    why: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class ResolvedMount:
    """A host path (absolute, links resolved, checked against the mount rules) seen at `target` inside."""

    source: str
    target: str
    mode: MountMode
    project: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """How a network is bad on purpose. Times in seconds, sizes in bytes; the defaults are a network without faults.

    `latency` is what each direction's bytes wait, `bandwidth` how many bytes a second pass in each; `reset_after` is how many
    reach the sandbox before its connection is reset, `cut_after` before it ends as if the server had closed it. `connect`: refuse
    it ("refuse"), or never answer ("black_hole"). `dns`: the answer to a question for the name, `dns_delay` what it waits.
    """

    latency: float = 0.0
    bandwidth: int | None = None
    reset_after: int | None = None
    cut_after: int | None = None
    connect: Literal["accept", "refuse", "black_hole"] = "accept"
    dns: Literal["answer", "nxdomain", "servfail", "silent"] = "answer"
    dns_delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Route:
    """Where connections to `end` (text of an endpoint, endpoints.py) go: to an address of this host, or None = where the network
    policy leads them; and how bad the way there is.
    """

    end: str
    to: tuple[str, int] | None = None
    fault: Fault = Fault()


@dataclass(frozen=True, slots=True)
class NetworkRule:
    """A network policy. `allow` holds endpoints (endpoints.py): with mode "allow" all that is reached, with "open" what is reached
    though it is not of the outside world, as private addresses. The first of the `routes` that fits comes before all that.
    """

    mode: NetworkMode = "locked"
    allow: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """What a provider is asked to make. cpu in processors, sizes in bytes, None = its own default.

    `shares_network`: it has the host's own network, for good; needs the feature "network_host".
    """

    name: str
    image: str | None = None
    user: str = "root"
    env: tuple[tuple[str, str], ...] = ()
    cwd: str | None = None
    mounts: tuple[ResolvedMount, ...] = ()
    expose: tuple[str, ...] = ()
    nested: bool = False
    shares_network: bool = False
    cpu: int | None = None
    memory: int | None = None
    disk: int | None = None
    address_space: int | None = None
    required: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Handle:
    """A provider's reference to a sandbox; JSON-able, so that a later process can delete what is left of it."""

    provider: str
    name: str
    data: Mapping[str, Any] = field(default_factory=dict)
    enforced: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "provider": self.provider,
            "name": self.name,
            "data": dict(self.data),
            "enforced": list(self.enforced),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Handle:
        return cls(data["provider"], data["name"], dict(data["data"]), tuple(data["enforced"]))


@dataclass(frozen=True, slots=True)
class Command:
    """One program to run. Strings carry undecodable bytes as surrogates (os.fsencode). cwd None = the spec's.

    `env` is the whole environment, not an addition. stderr="stdout" merges, as subprocess.STDOUT does. `patience`: seconds
    in which it has to start, else the sandbox counts as stuck and is ended: SandboxDied. None = the provider's own.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    cwd: str | None = None
    user: str | None = None
    stdin: Redirect = "null"
    stdout: Redirect = "pipe"
    stderr: Redirect = "pipe"
    patience: float | None = None


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: returncode as subprocess has it, times in seconds, peak memory in bytes."""

    returncode: int
    user_time: float = 0.0
    system_time: float = 0.0
    max_rss: int = 0
    oom_killed: bool = False


@dataclass(frozen=True, slots=True)
class FileStat:
    """lstat or stat of a path inside; `path` absolute, times in ns, `target` of a link as it is written."""

    path: str
    kind: FileKind
    mode: int = 0o644
    size: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    target: str | None = None


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One entry of a tree in transit: `path` relative ('' is the root itself); `chunks` of a regular file in order."""

    path: str
    kind: FileKind
    mode: int = 0o644
    size: int = 0
    mtime_ns: int = 0
    target: str | None = None
    chunks: Iterable[bytes] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """One difference against a snapshot. `mtime_only`: a directory of which nothing but times differ."""

    kind: ChangeKind
    path: str
    file: FileKind
    size: int = 0
    mode: int = 0
    mtime_only: bool = False


@dataclass(frozen=True, slots=True)
class ResetProof:
    """What proves a reset: whose word it is that the old world is gone, and the nonces of both worlds."""

    by: Literal["kernel", "hypervisor", "fake"]
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One recorded try to use the network (time in seconds since the epoch)."""

    time: float
    protocol: str
    host: str | None
    address: str
    port: int | None
    question: str | None
    verdict: Literal["refused", "allowed"]


class Attempts(tuple[Attempt, ...]):  # noqa: SLOT001 - a tuple's size is variable: it cannot have slots
    """Tries to use the network, in order; `lost` is how many more there were than are kept. False if there was none."""

    lost: int

    def __new__(cls, attempts: Iterable[Attempt] = (), *, lost: int = 0) -> Attempts:
        self = super().__new__(cls, attempts)
        self.lost = lost
        return self

    def __bool__(self) -> bool:
        return len(self) > 0 or self.lost > 0
