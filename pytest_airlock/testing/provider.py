"""FakeProvider: a whole provider in memory, with files, programs, faults and a record of every call."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import IO, TYPE_CHECKING, Literal, Protocol

from pytest_airlock.errors import (
    AlreadyExists,
    ProviderError,
    SandboxBusy,
    SandboxDied,
    SandboxNotFound,
    SnapshotNotFound,
    UnsupportedFeature,
)
from pytest_airlock.providers.attaching import Attaches
from pytest_airlock.providers.base import (
    Absence,
    Adopts,
    Attempt,
    Attempts,
    Change,
    Command,
    Diffs,
    Examines,
    Features,
    FileAction,
    FileStat,
    Finding,
    Handle,
    NetworkRule,
    Networks,
    Provider,
    ProviderSpec,
    ResetProof,
    Resets,
    Snapshots,
    Stores,
    TreeEntry,
)
from pytest_airlock.testing import stores, visiting
from pytest_airlock.testing.faults import FaultScript
from pytest_airlock.testing.files import FakeFiles, Node
from pytest_airlock.testing.handle import FakeProcess
from pytest_airlock.testing.image import HOMES, PATH, build
from pytest_airlock.testing.process import Context, Program, Task, World
from pytest_airlock.testing.programs import BUILTIN
from pytest_airlock.testing.state import FakeSandbox, choose_features
from pytest_airlock.testing.streams import open_streams
from pytest_airlock.testing.visiting import FakeVisit

__all__ = ["FakeProvider"]

_PROTOCOLS = {
    "Snapshots": ("snapshot", "restore", "delete_snapshot"),
    "Resets": ("reset",),
    "Retires": ("retire",),
    "Adopts": ("adopt",),
    "Stores": ("origin", "export_snapshot", "import_snapshot"),
    "Diffs": ("diff",),
    "Networks": ("set_network", "attempts"),
    "Attaches": ("attach", "visited"),
    "Examines": ("examine",),
}
_WISHES = {"cpu", "memory", "disk", "address_space"}


class _Clock(Protocol):
    def time(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class FakeProvider:
    """Satisfies Provider and every optional protocol; `without=("Resets",)` leaves optional ones out.

    `features` are the words it enforces (all of FEATURES by default). `calls` is every (operation, sandbox name),
    `commands` every (sandbox name, Command). `faults` makes operations fail or wait, `die` ends a sandbox by itself.
    A mount of the spec is an empty directory inside; no host file is read. Programs sleep in real time, the
    grace of `stop` passes on `clock` (default: the real one).
    """

    def __new__(cls, *_: object, without: Iterable[str] = (), **__: object) -> FakeProvider:
        """A class in which the methods of the protocols left out are None, which isinstance counts as absent."""
        gone = {method: None for protocol in without for method in _PROTOCOLS[protocol]}
        return object.__new__(type(cls.__name__, (cls,), gone) if gone else cls)

    def __init__(
        self,
        name: str = "fake",
        *,
        faults: FaultScript | None = None,
        clock: _Clock | None = None,
        features: Features | Iterable[str] | None = None,
        programs: Mapping[str, Program] | None = None,
        without: Iterable[str] = (),  # read by __new__
    ) -> None:
        self.name = name
        self.faults = faults or FaultScript()
        self.calls: list[tuple[str, str]] = []
        self.commands: list[tuple[str, Command]] = []
        self.programs: dict[str, Program] = {**BUILTIN, **(programs or {})}
        self._clock: _Clock = clock or time
        self._features = choose_features(features)
        self._sandboxes: dict[str, FakeSandbox] = {}
        self._lock = threading.Lock()
        self._snapshots = 0
        visiting.announce(self)

    # -- Provider ------------------------------------------------------------------------------------------------

    def probe(self) -> Features:
        with self._operation("probe"):
            return self._features

    def examine(self) -> Sequence[Finding]:
        with self._operation("examine"):
            return [Finding("memory", "all of it is in this process")]

    def create(self, spec: ProviderSpec) -> Handle:
        with self._operation("create", spec.name):
            for feature in sorted(spec.required):
                self._need(feature)
            files = FakeFiles(self._clock.time)
            build(files, self.programs, [mount.target for mount in spec.mounts])
            with self._lock:
                if spec.name in self._sandboxes:
                    raise AlreadyExists(spec.name, owner={"provider": self.name})
                self._sandboxes[spec.name] = FakeSandbox(spec, files)
            unset = {word for word in _WISHES if getattr(spec, word) is None}
            return Handle(
                self.name, spec.name, {"fake": visiting.door(self)}, tuple(sorted(self._features.present - unset))
            )

    def start(self, handle: Handle) -> None:
        with self._operation("start", handle.name):
            box = self._sandboxes.get(handle.name)
            if box is None:
                raise SandboxNotFound(handle.name)
            if box.world is None:
                self._boot(handle.name, box)

    def stop(self, handle: Handle, *, grace: float = 5.0) -> None:
        with self._operation("stop", handle.name):
            box = self._sandboxes.get(handle.name)
            if box is None or box.world is None:
                return
            for task in box.world.living():
                box.world.send(task, signal.SIGTERM)
            box.world.settle(min(grace, 1.0))
            if box.world.living():
                self._clock.sleep(grace)
            self._end(box, "it was stopped")

    def delete(self, handle: Handle) -> None:
        with self._operation("delete", handle.name), self._lock:
            box = self._sandboxes.pop(handle.name, None)
            if box is not None:
                self._end(box, "it was deleted")

    def is_running(self, handle: Handle) -> bool:
        with self._operation("is_running", handle.name):
            box = self._sandboxes.get(handle.name)
            return box is not None and box.world is not None

    def spawn(self, handle: Handle, command: Command) -> FakeProcess:
        with self._operation("spawn", handle.name):
            box, world = self._running(handle)
            self.commands.append((handle.name, command))
            user = command.user or box.spec.user
            if user != box.spec.user:
                self._need("many_users")
            env = dict(command.env)
            cwd = command.cwd or box.spec.cwd or HOMES[box.spec.user]
            if not cwd.startswith("/"):
                cwd = f"{(box.spec.cwd or HOMES[box.spec.user]).rstrip('/')}/{cwd}"
            if box.files.stat(cwd).kind != "dir":
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), cwd)
            cwd = box.files.resolve(cwd).path
            program, argv = world.find(command.argv, env, cwd)
            streams, pipes = open_streams(command)
            process = FakeProcess(handle.name, pipes)

            def make(task: Task) -> Context:
                process.adopt(task)
                return Context(task, argv, env, cwd, user, *streams)

            world.start(program, make)
            return process

    def environ(self, handle: Handle) -> Mapping[str, str]:
        with self._operation("environ", handle.name):
            user = self._box(handle).spec.user
            return {
                "HOME": HOMES[user],
                "LANG": "C.UTF-8",
                "LOGNAME": user,
                "PATH": PATH,
                "TMPDIR": "/tmp",
                "USER": user,
            }

    def read(self, handle: Handle, path: str, *, limit: int) -> bytes:
        with self._operation("read", handle.name):
            return self._running(handle)[0].files.read(path, limit=limit)

    def write(self, handle: Handle, path: str, data: bytes, *, mode: int = 0o644) -> None:
        with self._operation("write", handle.name):
            self._running(handle)[0].files.write(path, data, mode=mode)

    def stat(self, handle: Handle, path: str, *, follow_symlinks: bool = True) -> FileStat:
        with self._operation("stat", handle.name):
            return self._running(handle)[0].files.stat(path, follow_symlinks=follow_symlinks)

    def listdir(self, handle: Handle, path: str) -> Sequence[FileStat]:
        with self._operation("listdir", handle.name):
            return self._running(handle)[0].files.listdir(path)

    def change(
        self,
        handle: Handle,
        action: FileAction,
        path: str,
        *,
        to: str | None = None,
        mode: int = 0o777,
    ) -> None:
        with self._operation("change", handle.name):
            files = self._running(handle)[0].files
            actions: dict[str, Callable[[], object]] = {
                "mkdir": lambda: files.mkdir(path, mode),
                "remove": lambda: files.remove(path),
                "rmtree": lambda: files.remove(path, tree=True),
                "rename": lambda: files.rename(path, to or ""),
                "symlink": lambda: files.symlink(path, to or ""),
                "chmod": lambda: files.chmod(path, mode),
            }
            actions[action]()

    def export_tree(self, handle: Handle, path: str, *, limit: int) -> Iterator[TreeEntry]:
        with self._operation("export_tree", handle.name):
            return self._running(handle)[0].files.export(path, limit=limit)

    def import_tree(self, handle: Handle, path: str, entries: Iterable[TreeEntry]) -> None:
        with self._operation("import_tree", handle.name):
            self._running(handle)[0].files.load(path, entries)

    def close(self) -> None:
        with self._operation("close"), self._lock:
            for box in self._sandboxes.values():
                self._end(box, "its provider was closed")
            self._sandboxes.clear()

    # -- Snapshots, Resets, Adopts, Stores, Diffs, Networks ----------------------------------------------------------------------

    def snapshot(self, handle: Handle, *, stop: bool = False) -> str:
        with self._operation("snapshot", handle.name):
            box = self._box(handle)
            if box.world is not None and (living := box.world.living()):
                if not stop:
                    raise SandboxBusy(handle.name, [(task.pid, task.name) for task in living])
                box.world.kill_all()
            with self._lock:
                self._snapshots += 1
                made = f"snapshot-{self._snapshots}"
            box.snapshots[made] = box.files.snapshot()
            return made

    def restore(self, handle: Handle, snapshot: str) -> None:
        with self._operation("restore", handle.name):
            box = self._box(handle)
            root = _kept(handle, box, snapshot)
            if box.world is not None:
                raise ProviderError(self.name, "restore", f"sandbox {handle.name!r} is running", hint="stop it first")
            box.files.restore(root)

    def delete_snapshot(self, handle: Handle, snapshot: str) -> None:
        with self._operation("delete_snapshot", handle.name):
            box = self._box(handle)
            _kept(handle, box, snapshot)
            del box.snapshots[snapshot]

    def reset(self, handle: Handle, snapshot: str) -> ResetProof:
        with self._operation("reset", handle.name):
            box = self._box(handle)
            root = _kept(handle, box, snapshot)
            old = f"{handle.name}#{box.generation}"
            self._end(box, "it was reset")
            box.files.restore(root)
            self._boot(handle.name, box)
            return ResetProof("fake", old, f"{handle.name}#{box.generation}")

    def retire(self, handle: Handle) -> None:
        with self._operation("retire", handle.name):
            self._end(self._box(handle), "it was retired")

    def adopt(self, handle: Handle, donor: Handle, snapshot: str) -> str:
        with self._operation("adopt", handle.name):
            box, root = self._box(handle), _kept(donor, self._box(donor), snapshot)
            box.files.restore(root)
            made = f"{handle.name}:{snapshot}"
            box.snapshots[made] = root
            return made

    def origin(self, handle: Handle) -> str:
        with self._operation("origin", handle.name):
            spec = self._box(handle).spec
            return "" if any(mount.mode == "rw" for mount in spec.mounts) else f"{spec.image} {spec.mounts}"

    def export_snapshot(self, handle: Handle, snapshot: str, file: IO[bytes], *, limit: int) -> None:
        with self._operation("export_snapshot", handle.name):
            stores.save(_kept(handle, self._box(handle), snapshot), file, limit)

    def import_snapshot(self, handle: Handle, file: IO[bytes], *, limit: int) -> str:
        with self._operation("import_snapshot", handle.name):
            box = self._box(handle)
            try:
                root = stores.load(file)
            except ValueError as error:
                raise ProviderError(self.name, "import a snapshot", str(error)) from error
            box.files.restore(root)
            made = f"{handle.name}:imported"
            box.snapshots[made] = root
            return made

    def diff(self, handle: Handle, since: str) -> Iterator[Change]:
        with self._operation("diff", handle.name):
            box = self._box(handle)
            return box.files.diff(_kept(handle, box, since))

    def set_network(self, handle: Handle, rule: NetworkRule) -> None:
        with self._operation("set_network", handle.name):
            self._running(handle)[0].rule = rule

    def attach(self, handle: Handle) -> FakeVisit:
        with self._operation("attach", handle.name):
            return visiting.enter(handle)

    def visited(self, handle: Handle) -> bool:
        return self._box(handle).visits > 0

    def attempts(self, handle: Handle) -> Attempts:
        with self._operation("attempts", handle.name):
            return Attempts(self._box(handle).attempts)

    def visitable(self, handle: Handle) -> FakeSandbox:
        """What a visit looks at; SandboxDied if it does not run."""
        return self._running(handle)[0]

    # -- for tests -----------------------------------------------------------------------------------------------

    def die(self, name: str, why: str = "it was killed by a test") -> None:
        """The sandbox ends by itself, as when the kernel kills its first process. Its files stay."""
        self._end(self._sandboxes[name], why)

    def spec(self, name: str) -> ProviderSpec:
        """What `create` was asked for."""
        return self._sandboxes[name].spec

    def files(self, name: str) -> FakeFiles:
        """The sandbox's files, to look at or prepare, running or not."""
        return self._sandboxes[name].files

    def rule(self, name: str) -> NetworkRule:
        """The network policy in force."""
        return self._sandboxes[name].rule

    def names(self) -> list[str]:
        """The sandboxes that exist."""
        return sorted(self._sandboxes)

    # ------------------------------------------------------------------------------------------------------------

    def _operation(self, operation: str, name: str = "") -> AbstractContextManager[None]:
        self.calls.append((operation, name))
        return self.faults.around(operation, name)

    def _need(self, feature: str) -> None:
        if feature not in self._features:
            absence = self._features.absent.get(feature, Absence("it is no feature of a provider"))
            raise UnsupportedFeature(feature, self.name, absence.why, hint=absence.fix)

    def _box(self, handle: Handle) -> FakeSandbox:
        box = self._sandboxes.get(handle.name)
        if box is None:
            raise SandboxDied(handle.name, "it was deleted, or this provider never made it")
        return box

    def _running(self, handle: Handle) -> tuple[FakeSandbox, World]:
        box = self._box(handle)
        if box.world is None:
            raise SandboxDied(handle.name, "it is not running")
        return box, box.world

    def _boot(self, name: str, box: FakeSandbox) -> None:
        box.rule = NetworkRule()
        box.attempts = []
        box.visits = 0
        box.generation += 1
        box.world = World(name, box.files, self.programs, lambda *asked: self._attempt(box, *asked))

    def _end(self, box: FakeSandbox, why: str) -> None:
        world, box.world = box.world, None
        if world is not None:
            world.die(why)

    def _attempt(self, box: FakeSandbox, protocol: str, host: str, port: int | None) -> bool:
        rule = box.rule
        open_ = rule.mode in ("open", "host") or (
            rule.mode == "allow" and any(entry.rpartition(":")[0] == host for entry in rule.allow)
        )
        verdict: Literal["allowed", "refused"] = "allowed" if open_ else "refused"
        box.attempts.append(Attempt(self._clock.time(), protocol, host, "", port, f"A {host}", verdict))
        return open_


def _kept(handle: Handle, box: FakeSandbox, snapshot: str) -> Node:
    if snapshot not in box.snapshots:
        raise SnapshotNotFound(handle.name, snapshot)
    return box.snapshots[snapshot]


if TYPE_CHECKING:
    _fake = FakeProvider()
    _provider: Provider = _fake
    _snapshots: Snapshots = _fake
    _resets: Resets = _fake
    _diffs: Diffs = _fake
    _networks: Networks = _fake
    _attaches: Attaches = _fake
    _adopts: Adopts = _fake
    _examines: Examines = _fake
    _stores: Stores = _fake
