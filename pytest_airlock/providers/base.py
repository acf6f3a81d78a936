"""The Provider contract: what an orchestrator may rely on, numbered in the order of the calls.

Everything that crosses it is plain data and byte streams, so that a provider can be served from elsewhere.
`pytest_airlock.conformance` has one test for each numbered sentence.

 1. `probe()` tries, by really doing it, what this host can enforce; it raises ProviderUnavailable with cause and
    fix where the provider cannot work at all. A second call answers from memory.
 2. `create(spec)` makes a sandbox that is not running and returns its Handle; a handle survives JSON.
 3. `create` raises UnsupportedFeature, and leaves nothing behind, if a feature in `spec.required` cannot be enforced, or
    a mount not on the file system it is on. `Handle.enforced` lists what is; a value of the spec that is not in it was
    only a wish.
 4. `create` of a name that this provider instance already has raises AlreadyExists and touches nothing.
 5. `start(handle)` returns when `spawn` works; the sandbox is born locked: nothing inside reaches a network, DNS
    included, unless `spec.shares_network` asked for the host's. On a running sandbox it does nothing.
 6. `is_running(handle)` asks the live world, not a memory: a sandbox that died by itself is not running. An error
    while asking is raised, never answered with False.
 7. `spawn(handle, command)` keeps argument boundaries byte for byte, uses exactly the given environment and
    working directory, and runs as `command.user`; a user other than the spec's needs the feature "many_users".
 8. `spawn` of a program that is missing raises FileNotFoundError, one that may not be executed PermissionError, a
    missing working directory FileNotFoundError, each with `filename` set; what a shell would look up on PATH is looked up
    inside the sandbox, on the PATH of `command.env`.
 9. `spawn` on a sandbox that is not running raises SandboxDied.
10. A process' exit is known when its direct child has ended, even if a daemon holds its streams. Exit.returncode is
    the status as subprocess reports it: negative for a signal.
11. `kill_tree()` returns when the command, its descendants and every orphan born in the sandbox since its start are dead.
12. Files: `read`, `write`, `stat`, `listdir`, `change`, `export_tree`, `import_tree` act inside the sandbox, as its
    root user; a symbolic link is resolved inside and leads nowhere else. `read` refuses what is not a regular
    file without opening it, and stops at `limit` bytes with OSError(EFBIG).
13. A missing path raises FileNotFoundError, and so on: OSError with the errno of the sandbox's kernel and `filename`.
14. `stop(handle, grace)` asks processes to end (SIGTERM), waits up to `grace` seconds, then kills; files stay. On a
    stopped sandbox it does nothing. After `start` the files are as they were.
15. `delete(handle)` ends it, forced, and leaves no process, mount, file or other trace; for an unknown or already deleted
    handle it does nothing, also from another process once the owner is dead.
16. Calls on different handles may run concurrently. On one handle: spawn and files may; create, start, stop, delete,
    snapshot, restore and reset are never called concurrently by the orchestrator.
17. `close()` deletes whatever this provider instance still has; twice is fine. If the owner is killed instead, nothing
    of the sandbox outlives it by more than 50 ms (local providers).

Optional protocols, looked up with isinstance:
20. `Snapshots.snapshot(handle, stop=False)` keeps the files, not the processes: if a process is alive in the sandbox it
    raises SandboxBusy naming it, or kills it with stop=True. The sandbox runs on afterwards with the same files.
21. `Snapshots.restore(handle, snapshot)` on a stopped sandbox makes its files those of the snapshot; snapshots taken
    later stay valid. Unknown ids raise SnapshotNotFound before anything is touched.
22. What a snapshot keeps gives no power: set-uid and set-gid bits have no effect inside, and whatever of it lies on the
    host as files has modes masked to 0755, no links that lead out and no devices.
23. `Resets.reset(handle, snapshot)` = stop, restore, start, in one: when it returns, all that ran before is dead by the
    word of the kernel (or the hypervisor), files are those of the snapshot, the network is locked, and the sandbox runs.
    What it cannot prove it raises as ResetFailed.
24. `Diffs.diff(handle, since)` lists every path that was added, modified or deleted since the snapshot, mounts excluded.
25. `Networks.set_network(handle, rule)` is in force when it returns, for open connections too: those that it forbids end, with
    a reset. Stop, start and reset lock.
26. `Networks.attempts(handle)` is every try since start or reset, in order; of more than are kept the first ones, and
    how many are `lost`. Texts in them are printable.
27. `Adopts.adopt(handle, donor, snapshot)` gives a sandbox that was created from an equal spec (but for the name) and never
    started the files of the donor's snapshot, as a snapshot of its own, whose id it returns: it outlives the donor.
28. `Retires.retire(handle)` has all that runs inside begin to die and does not wait for it. Until the next `reset`, which
    proves the death, nothing but `reset`, `delete`, `is_running` and `close` is called.
29. `Stores.origin(handle)` tells what a sandbox begins with: as long as the texts of two are equal, in whichever process and
    run, what commands in them can read is the same, and a file exported from one is right for the other. Empty if it
    cannot be told, as with a mount that is shared read-write.
30. `Stores.export_snapshot(handle, snapshot, file, limit)` writes the files of a snapshot, as far as the sandbox did not
    begin with them, in a form of the provider's own; more than `limit` bytes of content raise OSError(EFBIG).
31. `Stores.import_snapshot(handle, file, limit)` gives a sandbox of the same origin that was never started the files of what
    was exported, as a snapshot of its own, whose id it returns. Contents, modes (without set-id bits), owners, times, links
    and what was removed are as they were.
32. `import_snapshot` raises ProviderError for a file that is cut off or none; then the sandbox starts as if nothing was. Whatever
    the file says, it has no more power than what runs inside: it may come from an enemy.
33. `Attaches.attach(handle)` (attaching.py) is a visit to a running sandbox by any process of the same user: its `spawn` and
    `terminal` run commands with the sandbox's limits and users. SandboxDied if it does not run, or its owner is dead.
34. The owner's world does not depend on a visit: what a visit started ends with it, and nothing else does. If the sandbox
    is stopped, reset or deleted meanwhile, what the visit started is dead and its calls raise SandboxDied.
35. `Visit.terminal(command, size)` runs it on a terminal made inside, which is its controlling one and has that size;
    UnsupportedFeature from a provider that has none.
36. `Attaches.visited(handle)` tells whether anybody attached since start or reset: then it is not pristine.
37. `Examines.examine()` tells what of this host counts for the provider, in the order in which it is to be read. It answers
    also where `probe` raises, raises nothing for what is missing, and leaves nothing behind. Of a Finding that is not ok,
    `why` says the cause and `fix` what to do, or that nothing can be done.
38. `Forwards.connect(handle, (host, port), "tcp" | "udp")` is a socket of the calling process, connected to what listens
    there inside, whatever the network policy; ConnectionRefusedError if nobody does, TimeoutError after `timeout` seconds.
39. `Forwards.forward(handle, (host, port))` makes a TCP port of this host's 127.0.0.1, which it returns, lead there until
    `end_forward(handle, port)`, stop, reset or delete; what is connected then sees a reset. No forward there is no error.
40. `Forwards.listening(handle, port)` tells whether a program inside accepts TCP connections at that port, and is not
    noticed by it.
41. `Visit.set_network(rule)` is sentence 25 for the life that is visited. It has no routes: those of the owner stay, unless it
    locks. SandboxDied if that life is over, UnsupportedFeature for what cannot be enforced; then nothing has changed.
42. `Forwards.connect_path(handle, path, "stream" | "datagram" | "packet")` is the same for a unix socket inside, by its path as it
    is seen there; FileNotFoundError if there is none.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Literal, Protocol, runtime_checkable

from pytest_airlock.providers.values import (
    FEATURES,
    Absence,
    Attempt,
    Attempts,
    Change,
    ChangeKind,
    Command,
    Exit,
    Fault,
    Features,
    FileAction,
    FileKind,
    FileStat,
    Finding,
    Handle,
    MountMode,
    NetworkMode,
    NetworkRule,
    ProviderSpec,
    Redirect,
    ResetProof,
    ResolvedMount,
    Route,
    TreeEntry,
)

__all__ = [
    "FEATURES",
    "Absence",
    "Adopts",
    "Attempt",
    "Attempts",
    "Change",
    "ChangeKind",
    "Command",
    "Diffs",
    "Examines",
    "Exit",
    "Fault",
    "Features",
    "FileAction",
    "FileKind",
    "FileStat",
    "Finding",
    "Forwards",
    "Handle",
    "MountMode",
    "NetworkMode",
    "NetworkRule",
    "Networks",
    "Process",
    "Provider",
    "ProviderSpec",
    "Redirect",
    "ResetProof",
    "Resets",
    "ResolvedMount",
    "Retires",
    "Route",
    "Snapshots",
    "Stores",
    "TreeEntry",
]


@runtime_checkable
class Process(Protocol):
    """A started command. Streams are unbuffered binary files with a pollable descriptor; None where not "pipe"."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None
    stderr: IO[bytes] | None

    def fileno(self) -> int:
        """A descriptor that polls readable when the exit is known, or the sandbox is gone."""
        ...

    def poll(self) -> Exit | None:
        """The exit if it is known. Raises SandboxDied if the sandbox ended first."""
        ...

    def wait(self, timeout: float | None = None) -> Exit:
        """Wait for the exit. Raises TimeoutError after `timeout` seconds, SandboxDied as poll does."""
        ...

    def send_signal(self, signal: int) -> None:
        """Signal the direct child; nothing if it has ended."""
        ...

    def kill_tree(self) -> None:
        """Contract 11. Raises SandboxDied if the whole sandbox had to be ended to be sure."""
        ...

    def close(self) -> None:
        """Close the streams and forget the process; it is not killed. Twice is fine."""
        ...


@runtime_checkable
class Provider(Protocol):
    """Makes sandboxes. See the contract above; `name` is the word of --airlock-provider."""

    name: str

    def probe(self) -> Features: ...
    def create(self, spec: ProviderSpec) -> Handle: ...
    def start(self, handle: Handle) -> None: ...
    def stop(self, handle: Handle, *, grace: float = 5.0) -> None: ...
    def delete(self, handle: Handle) -> None: ...
    def is_running(self, handle: Handle) -> bool: ...
    def spawn(self, handle: Handle, command: Command) -> Process: ...
    def environ(self, handle: Handle) -> Mapping[str, str]:
        """The base environment of a command for the spec's user, before the spec's `env`."""
        ...

    def read(self, handle: Handle, path: str, *, limit: int) -> bytes: ...
    def write(self, handle: Handle, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Replace or create a regular file; its directory must exist."""
        ...

    def stat(self, handle: Handle, path: str, *, follow_symlinks: bool = True) -> FileStat: ...
    def listdir(self, handle: Handle, path: str) -> Sequence[FileStat]:
        """lstat of every entry, sorted by path; at most 100,000, else OSError(EOVERFLOW)."""
        ...

    def change(
        self,
        handle: Handle,
        action: FileAction,
        path: str,
        *,
        to: str | None = None,
        mode: int = 0o777,
    ) -> None:
        """One change: `to` is the new path of rename, or the text of a symlink; `mode` for mkdir and chmod."""
        ...

    def export_tree(self, handle: Handle, path: str, *, limit: int) -> Iterator[TreeEntry]:
        """The file or tree at `path`, parents first; links as links, special files as entries without content.

        `limit` bounds the bytes of content in all (OSError(EFBIG) beyond). Each entry's chunks are consumed before
        the next entry is asked for.
        """
        ...

    def import_tree(self, handle: Handle, path: str, entries: Iterable[TreeEntry]) -> None:
        """Make the entries at `path`, whose parent must exist; existing files are replaced, directories merged."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Snapshots(Protocol):
    """Optional: contract 20-22."""

    def snapshot(self, handle: Handle, *, stop: bool = False) -> str: ...
    def restore(self, handle: Handle, snapshot: str) -> None: ...
    def delete_snapshot(self, handle: Handle, snapshot: str) -> None: ...


@runtime_checkable
class Resets(Protocol):
    """Optional: contract 23."""

    def reset(self, handle: Handle, snapshot: str) -> ResetProof: ...


@runtime_checkable
class Retires(Protocol):
    """Contract 28."""

    def retire(self, handle: Handle) -> None: ...


@runtime_checkable
class Adopts(Protocol):
    """Optional: contract 27. Lets provisioning be done once for many sandboxes."""

    def adopt(self, handle: Handle, donor: Handle, snapshot: str) -> str: ...


@runtime_checkable
class Stores(Protocol):
    """Optional: contract 29-32. Lets what was provisioned be kept between runs; needs Snapshots."""

    def origin(self, handle: Handle) -> str: ...
    def export_snapshot(self, handle: Handle, snapshot: str, file: IO[bytes], *, limit: int) -> None: ...
    def import_snapshot(self, handle: Handle, file: IO[bytes], *, limit: int) -> str: ...


@runtime_checkable
class Diffs(Protocol):
    """Optional: contract 24."""

    def diff(self, handle: Handle, since: str) -> Iterator[Change]: ...


@runtime_checkable
class Networks(Protocol):
    """Optional: contract 25-26. A provider without it is locked, always."""

    def set_network(self, handle: Handle, rule: NetworkRule) -> None: ...
    def attempts(self, handle: Handle) -> Attempts: ...


@runtime_checkable
class Forwards(Protocol):
    """Optional: contract 38-40 and 42."""

    def connect(
        self, handle: Handle, address: tuple[str, int], kind: Literal["tcp", "udp"], *, timeout: float | None
    ) -> socket.socket: ...
    def connect_path(
        self, handle: Handle, path: str, kind: Literal["stream", "datagram", "packet"], *, timeout: float | None
    ) -> socket.socket: ...
    def forward(self, handle: Handle, address: tuple[str, int]) -> int: ...
    def end_forward(self, handle: Handle, port: int) -> None: ...
    def listening(self, handle: Handle, port: int) -> bool: ...


@runtime_checkable
class Examines(Protocol):
    """Optional: contract 40. What `airlock doctor` shows beside the features."""

    def examine(self) -> Sequence[Finding]: ...
