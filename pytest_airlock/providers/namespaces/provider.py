"""NamespacesProvider: the contract of providers/base.py over one fork server per process."""

from __future__ import annotations

import _socket
import itertools
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

from pytest_airlock.errors import (
    AirlockError,
    AlreadyExists,
    InvalidSpec,
    ProviderError,
    ProviderUnavailable,
    ResetFailed,
    SandboxBusy,
    SandboxDied,
    UnsupportedFeature,
)
from pytest_airlock.providers.base import (
    Absence,
    Attempts,
    Change,
    Command,
    Features,
    FileAction,
    FileStat,
    Finding,
    Handle,
    ProviderSpec,
    ResetProof,
    TreeEntry,
)
from pytest_airlock.providers.namespaces import diagnosis, examination, features
from pytest_airlock.providers.namespaces.bases import Bases
from pytest_airlock.providers.namespaces.box import USERS, Box
from pytest_airlock.providers.namespaces.client import Engine, StepFailed
from pytest_airlock.providers.namespaces.diff_client import read_changes
from pytest_airlock.providers.namespaces.engine import cgroups, protocol
from pytest_airlock.providers.namespaces.engine.protocol import Request
from pytest_airlock.providers.namespaces.files_client import FileClient
from pytest_airlock.providers.namespaces.layer_client import export_layers, import_layers
from pytest_airlock.providers.namespaces.limits import sandbox_limits
from pytest_airlock.providers.namespaces.networking import Networking
from pytest_airlock.providers.namespaces.process import PATIENCE, Life, NamespaceProcess, spawn
from pytest_airlock.providers.namespaces.visiting import Door, NamespaceVisit, enter, facts
from pytest_airlock.providers.namespaces.worker import Worker

__all__ = ["NamespacesProvider"]

_DIFF_LIMIT = 1_000_000


class NamespacesProvider(Networking):
    """Sandboxes from Linux name spaces, without daemon and without root. Thread-safe as contract 16 says."""

    name = "namespaces"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._door = Door()
        self._features: Features | None = None
        self._boxes: dict[str, Box] = {}
        self._bases = Bases()
        self._numbers = itertools.count(1)

    # ------------------------------------------------------------------ what works here

    def probe(self) -> Features:
        with self._lock:
            if self._features is None:
                self._features = self._probe()
            return self._features

    def _probe(self) -> Features:
        try:
            return self._try()
        except UnsupportedFeature as error:
            # A part no sandbox goes without, as a /proc of its own.
            raise ProviderUnavailable(self.name, error.why, hint=error.hint) from None

    def _try(self) -> Features:
        """Build one sandbox, run one command in it, and take it down."""
        engine = self._start_engine()
        found = features.found(engine.found, diagnosis.HostFacts.read())
        spec = ProviderSpec(name="airlock-probe")
        handle = self._create(spec, found)
        try:
            self.start(handle)
            process = self.spawn(handle, Command(("/bin/sh", "-c", ":"), cwd="/"))
            try:
                status = process.wait(60).returncode
            finally:
                process.close()
            if status:
                raise ProviderError(self.name, "run the probe command", f"/bin/sh -c : returned {status}")
            self._try_openat2(handle)
            self._try_whiteouts(handle)
        finally:
            self.delete(handle)
        return found

    def _try_openat2(self, handle: Handle) -> None:
        """Write a file: an old filter around us answers ENOSYS."""
        try:
            self.write(handle, "/tmp/airlock-probe", b"")
        except OSError as error:
            raise self._explained(StepFailed("openat2", error.errno or 0, error.filename or "")) from None

    def _try_whiteouts(self, handle: Handle) -> None:
        """Remove and remake a directory of the image: EIO where nothing keeps user.* attributes."""
        try:
            self.change(handle, "remove", "/srv")
            self.change(handle, "mkdir", "/srv", mode=0o755)
        except OSError as error:
            raise self._explained(StepFailed("whiteout", error.errno or 0, error.filename or "")) from None

    def _start_engine(self) -> Engine:
        if self._engine is None or not self._engine.usable:
            if self._engine is not None:
                self._engine.close()
            self._door.close()
            try:
                self._engine = Engine()
            except StepFailed as error:
                raise self._explained(error) from None
            # Whatever the server before had is gone with it.
            for box in self._boxes.values():
                box.end()
            self._boxes.clear()
            self._bases.clear()
        return self._engine

    def examine(self) -> Sequence[Finding]:
        """Contract 37. What the fork server found is known only where one starts."""
        try:
            report = self._start_engine().found
        except AirlockError:
            report = None  # probe() tells why
        return examination.findings(report, diagnosis.HostFacts.read())

    def _explained(self, error: StepFailed) -> Exception:
        return diagnosis.explain(error.step, error.errno or 0, error.filename or "", diagnosis.HostFacts.read())

    def _call(self, op: str, fds: tuple[int, ...] = (), **request: object) -> tuple[Any, list[int]]:
        if self._engine is None:
            raise ProviderError(self.name, op, "nothing was created")
        try:
            return self._engine.call(op, fds, **request)
        except StepFailed as error:
            if error.step == "pristine":
                raise ResetFailed(str(request["id"]), "its new file system is not empty") from None
            raise self._explained(error) from None

    # ------------------------------------------------------------------ life

    def create(self, spec: ProviderSpec) -> Handle:
        found = self.probe()
        for feature in sorted(spec.required):
            if feature not in found:
                absence = found.absent.get(feature, Absence("this provider has no such feature"))
                raise UnsupportedFeature(feature, self.name, absence.why, hint=absence.fix)
        self._door.open(self._start_engine())
        return self._create(spec, found)

    def _create(self, spec: ProviderSpec, found: Features) -> Handle:
        if spec.name in self._boxes:
            raise AlreadyExists(spec.name)
        if spec.user not in USERS:
            raise InvalidSpec("user", spec.user, f"the users of a sandbox are {', '.join(USERS)}")
        engine = self._start_engine()
        base = self._bases.number(spec, engine.found, self._call)
        limits = sandbox_limits(spec, found, uid=USERS[spec.user])
        one_id = found.absent.get("many_users")
        self._boxes[spec.name] = Box(
            next(self._numbers),
            spec,
            limits=limits,
            environ=self._bases.environ(spec),
            one_id=one_id,
            base=base,
            planned=self._bases.seen(spec),
        )
        number = self._boxes[spec.name].number
        data = {"engine": engine.found["pid"], "boot": engine.found["born"], "number": number}
        return Handle(self.name, spec.name, data | self._door.address(), features.enforced(spec, found))

    def start(self, handle: Handle) -> None:
        box = self._box(handle)
        if box.running:
            return
        box.end()
        self._live(handle, box, "start", facts=facts(box))
        self._share_resolvers(handle, box)

    def _live(self, handle: Handle, box: Box, op: str, **request: Any) -> None:
        """Have the fork server begin a new life, and wait until it is ready."""
        box.visits = self._door.visits()
        number, (control, pidfd) = self._call(op, **box.words(), **request)
        life = Life(handle.name, _socket.socket(fileno=control), pidfd, self._oom_counter(box))
        try:
            self._ready(life)
        except BaseException:
            life.close()
            self._call("kill", id=box.number)
            raise
        box.tried, box.opened = Attempts(), False
        box.life, box.born, box.untouched, box.nonce = life, number, True, secrets.token_hex(8)

    def _oom_counter(self, box: Box) -> Callable[[], int]:
        """How often the kernel killed for the sandbox's memory limit; nobody is asked where there is none."""
        return (lambda: 0) if box.spec.memory is None else lambda: int(self._call("oom", id=box.number)[0])

    def _ready(self, life: Life) -> None:
        """Wait for the child's word. It is trusted code until it says READY, but what it sends is bounded all the same."""
        life.control.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, protocol.timeval(PATIENCE))
        try:
            message = life.control.recv(4096)
        except BlockingIOError:
            raise SandboxDied(life.name, f"its root was not put together in {PATIENCE:g} seconds") from None
        if message == protocol.READY:
            return
        if message[:1] == protocol.BROKEN:
            step, number, path = json.loads(message[1:])
            raise self._explained(StepFailed(str(step), int(number), str(path)))
        raise SandboxDied(life.name, "its first process ended while the root was put together")

    def stop(self, handle: Handle, *, grace: float = 5.0) -> None:
        box = self._box(handle)
        self._end_forwards(handle, box)
        if box.life is not None and box.running:
            try:
                box.life.call(Request(protocol.TERMINATE, value=int(grace * 1000)), patience=PATIENCE + grace)
            except SandboxDied:
                pass  # it ended by itself meanwhile, which is what was asked for
        self._freeze(box)

    def _freeze(self, box: Box) -> None:
        box.end()
        box.layers = tuple(self._call("freeze", id=box.number)[0])

    def delete(self, handle: Handle) -> None:
        box = self._boxes.pop(handle.name, None)
        if box is None:
            # Nothing of a dead owner's sandbox is left but its control groups.
            cgroups.sweep()
            return
        if self._engine is not None and self._engine.usable and box.running:
            self._end_forwards(handle, box)
        box.end()
        if self._engine is not None and self._engine.pid == os.getpid():
            self._call("delete", id=box.number)

    def is_running(self, handle: Handle) -> bool:
        return handle.name in self._boxes and self._box(handle).running

    def close(self) -> None:
        with self._lock:
            for box in self._boxes.values():
                box.end()
            self._boxes.clear()
            self._bases.clear()
            engine, self._engine, self._features = self._engine, None, None
            if engine is not None:
                engine.close()
            self._door.close()

    def _box(self, handle: Handle) -> Box:
        if self._engine is not None and self._engine.pid != os.getpid():
            hint = "after os.fork, use sandboxes in the process that made them"
            raise ProviderError(self.name, "find the sandbox", "it belongs to another process", hint=hint)
        box = self._boxes.get(handle.name)
        if box is None:
            raise SandboxDied(handle.name, "it was deleted, or is not one of this process'")
        return box

    # ------------------------------------------------------------------ commands

    def environ(self, handle: Handle) -> Mapping[str, str]:
        return self._box(handle).environ

    def spawn(self, handle: Handle, command: Command) -> NamespaceProcess:
        box = self._box(handle)
        return spawn(box.living(), command, box.request(command))

    def attach(self, handle: Handle) -> NamespaceVisit:
        return enter(handle)

    def visited(self, handle: Handle) -> bool:
        box = self._box(handle)
        return box.visits != self._door.visits() and bool(self._call("visited", id=box.number)[0])

    # ------------------------------------------------------------------ files

    def _files(self, handle: Handle) -> FileClient:
        life = self._box(handle).living()
        return FileClient(lambda request: Worker(life, request))

    def read(self, handle: Handle, path: str, *, limit: int) -> bytes:
        return self._files(handle).read(path, limit=limit)

    def write(self, handle: Handle, path: str, data: bytes, *, mode: int = 0o644) -> None:
        self._files(handle).write(path, data, mode=mode)

    def stat(self, handle: Handle, path: str, *, follow_symlinks: bool = True) -> FileStat:
        return self._files(handle).stat(path, follow_symlinks=follow_symlinks)

    def listdir(self, handle: Handle, path: str) -> Sequence[FileStat]:
        return self._files(handle).listdir(path)

    def change(
        self,
        handle: Handle,
        action: FileAction,
        path: str,
        *,
        to: str | None = None,
        mode: int = 0o777,
    ) -> None:
        self._files(handle).change(action, path, to=to, mode=mode)

    def export_tree(self, handle: Handle, path: str, *, limit: int) -> Iterator[TreeEntry]:
        return self._files(handle).export_tree(path, limit=limit)

    def import_tree(self, handle: Handle, path: str, entries: Iterable[TreeEntry]) -> None:
        self._files(handle).import_tree(path, entries)

    # ------------------------------------------------------------------ snapshots, reset, diff

    def snapshot(self, handle: Handle, *, stop: bool = False) -> str:
        box = self._box(handle)
        if box.life is not None and not (box.untouched and not self.visited(handle)):
            if not stop:
                self._refuse_busy(handle.name, box.life)
            self._end_forwards(handle, box)
            tried, policy = self._tried(handle, box), self._policy(handle, box)
            self._freeze(box)
            self.start(handle)
            box.tried = tried
            self._put_back(handle, box, policy)
        return box.keep()

    def _refuse_busy(self, name: str, life: Life) -> None:
        alive = [reply for reply in life.call(Request(protocol.LIST)) if reply.kind == protocol.PROCESS]
        if alive:
            names = [(reply.value, reply.name.rstrip(b"\0").decode("utf-8", "backslashreplace")) for reply in alive]
            raise SandboxBusy(name, names)

    def restore(self, handle: Handle, snapshot: str) -> None:
        box = self._box(handle)
        layers = box.kept(snapshot)
        if box.running:
            raise ProviderError(self.name, "restore", f"{handle.name!r} is running", hint="stop it first")
        self._call("layers", **box.words(), layers=layers)
        box.layers = layers
        self._drop_unused(box)

    def delete_snapshot(self, handle: Handle, snapshot: str) -> None:
        box = self._box(handle)
        box.kept(snapshot)
        del box.snapshots[snapshot]
        self._drop_unused(box)

    def adopt(self, handle: Handle, donor: Handle, snapshot: str) -> str:
        """Contract 27: the donor's layers are cloned mounts, so this takes no time and no space."""
        box, other = self._box(handle), self._box(donor)
        layers = other.kept(snapshot)
        box.layers = tuple(self._call("adopt", **box.words(), layers=layers)[0])
        return box.keep()

    def origin(self, handle: Handle) -> str:
        box = self._box(handle)
        found = self._bases.origin(box.spec, self._start_engine().found)
        return f"{found} {box.one_id is None} {box.spec.user}" if found else ""

    def export_snapshot(self, handle: Handle, snapshot: str, file: IO[bytes], *, limit: int) -> None:
        box = self._box(handle)
        export_layers(self._start_engine().call, box.number, box.kept(snapshot), file, limit=limit)

    def import_snapshot(self, handle: Handle, file: IO[bytes], *, limit: int) -> str:
        box = self._box(handle)
        box.layers = import_layers(self._start_engine().call, box.words(), file, limit=limit)
        return box.keep()

    def retire(self, handle: Handle) -> None:
        box = self._box(handle)
        self._end_forwards(handle, box)
        if box.life is not None:
            box.life.begin_to_die()

    def reset(self, handle: Handle, snapshot: str) -> ResetProof:
        """Contract 23: kill, wait for the kernel to empty the pid name space, build anew on the snapshot's layers."""
        box = self._box(handle)
        layers = box.kept(snapshot)
        old = box.nonce
        self._end_forwards(handle, box)
        box.end()
        if box.shares:
            # Whoever still ran could move what is to be masked while it is looked for.
            self._call("kill", id=box.number)
        if self._engine is not None:  # one that has died is told of below, and not replaced in the middle of a reset
            self._bases.renew(box, self._boxes.values(), self._engine.found, self._call)
        box.layers = layers
        self._live(handle, box, "reset", layers=layers, needed=box.needed())
        return ResetProof("kernel", old, box.nonce)

    def _drop_unused(self, box: Box) -> None:
        """Layers that neither the present nor a snapshot stands on are unmounted by the fork server."""
        self._call("retain", id=box.number, layers=box.needed())

    def diff(self, handle: Handle, since: str) -> Iterator[Change]:
        box = self._box(handle)
        layers = box.kept(since)
        if box.layers[: len(layers)] != layers:
            raise ProviderError(
                self.name, "diff", "the sandbox does not stand on that snapshot any more", hint="restore() it first"
            )
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            self._call("diff", (write,), id=box.number, layers=layers, limit=_DIFF_LIMIT)
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        with os.fdopen(read, "rb", buffering=0) as stream:
            yield from read_changes(stream)
