"""SandboxManager: the life of sandboxes, for any provider and any number of threads and processes.

Every change of a sandbox happens under its lock, after its record was read again (r25); commands and files need no
lock. What another live process holds is looked at, never touched; what a dead one left can be destroyed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pytest_airlock.errors import ProfileForbids, ResetFailed, SandboxNotFound, SnapshotNotFound, UnsupportedFeature
from pytest_airlock.models import Network, Owner, SandboxInfo, SandboxRecord, SandboxSpec, State
from pytest_airlock.orchestrator.contracts import (
    Clock,
    Insufficient,
    Manager,
    Mounts,
    Plan,
    Providers,
    ResourceChecker,
    Store,
)
from pytest_airlock.orchestrator.creation import Creation, clamped
from pytest_airlock.orchestrator.destruction import destroy
from pytest_airlock.orchestrator.handout import Handout
from pytest_airlock.orchestrator.holdings import Holdings
from pytest_airlock.orchestrator.keeping import let_go
from pytest_airlock.orchestrator.live import LiveSandbox
from pytest_airlock.orchestrator.orphans import Orphans, handle_of
from pytest_airlock.orchestrator.policy.networks import allowing, locking, replacing, unlocking
from pytest_airlock.orchestrator.preparation import CLEAN
from pytest_airlock.orchestrator.probing import look
from pytest_airlock.orchestrator.provisioned import Provisioned
from pytest_airlock.orchestrator.routes import put_in_force, set_routes
from pytest_airlock.orchestrator.states import require_healthy
from pytest_airlock.orchestrator.steering import Steering
from pytest_airlock.orchestrator.undo import Undo
from pytest_airlock.orchestrator.visiting import visit
from pytest_airlock.orchestrator.waiting import DEFAULT_WAIT, Reservations
from pytest_airlock.providers.attaching import Attaches, Visit
from pytest_airlock.providers.base import Change, Command, Process, ResetProof, Resets, Retires, Route, Snapshots

__all__ = ["SandboxManager"]

#: Seconds between asking processes to end and killing them.
GRACE = 5.0


class SandboxManager:
    """All collaborators are given (contracts.py); `default_manager()` assembles the real ones.

    `planner(spec)` answers a spec's open questions; `say` is told what a user should know (waiting, clean-up).
    """

    def __init__(
        self,
        *,
        store: Store,
        providers: Providers,
        resources: ResourceChecker,
        mounts: Mounts,
        clock: Clock,
        owner: Owner,
        planner: Callable[[SandboxSpec], Plan],
        insufficient: Insufficient = "error",
        wait: float = DEFAULT_WAIT,
        say: Callable[[str], None] = lambda _: None,
        provisioned: Provisioned | None = None,
    ) -> None:
        self.store = store
        self.providers = providers
        self.owner = owner
        self.reservations = Reservations(store, resources, clock, owner, wait=wait, say=say)
        self.orphans = Orphans(store, providers, owner)
        self._resources = resources
        self._mounts = mounts
        self._clock = clock
        self._planner = planner
        self._insufficient = insufficient
        self._say = say
        self._holdings = Holdings(store, owner)
        self._steering = Steering(store, providers, self._holdings)
        self._provisioned = Provisioned() if provisioned is None else provisioned

    # -- Making and removing ---------------------------------------------------------------------------------------

    def create(self, what: Plan | SandboxSpec, *, test: str = "", wait: float = 0.0) -> SandboxInfo:
        """A running, pristine sandbox with its final network policy.

        `test` is the test id that others are told; `wait` seconds for a taken name. Raises AlreadyExists,
        InsufficientResources, UnsupportedFeature, ProviderUnavailable, CommandFailed (provisioning), ProviderError,
        StoreError, and for a spec what planning raises; then nothing is left, or an errored record says what.
        """
        plan = what if isinstance(what, Plan) else self._planner(what)
        if self._insufficient == "clamp":
            plan = clamped(plan, self._resources)
        name = plan.provider_spec.name
        provider = self.providers.get(plan.provider_name)
        self.orphans.collect_name(name)
        creation = Creation(
            plan=plan,
            provider=provider,
            owner=self.owner.model_copy(update={"test": test}),
            store=self.store,
            mounts=self._mounts,
            clock=self._clock,
            reservations=self.reservations,
            keep_errored=self._holdings.enter,
            alike=self._holdings.like,
            provisioned=self._provisioned,
        )
        self._holdings.enter(creation.run(wait))
        return self.status(name)

    def destroy(self, name: str, *, missing_ok: bool = False, grace: float = 0.0) -> None:
        """Stop, delete, forget its mounts, remove its record, give its name back.

        `grace` seconds for its processes to end by themselves. Raises SandboxNotFound unless `missing_ok`,
        HeldElsewhere, and any error of asking whether it runs or of deleting it: then the sandbox stays, errored.
        """
        live = self._holdings.get(name)
        if live is None:
            self._destroy_left_over(name, missing_ok=missing_ok)
            return
        with live.lock:
            if live.gone:
                if missing_ok:
                    return
                raise SandboxNotFound(name)
            failures = destroy(live, self._holdings, self.store, self._mounts, grace=grace)
        for failure in failures:
            self._say(f"sandbox {name!r} could not be stopped and was deleted by force: {failure}")

    def let_go(self, name: str) -> SandboxRecord:
        """Keep it beyond its owner, until `airlock destroy` or `airlock gc --kept`.

        A provider with the feature "outlives" leaves it as it is. Of any other its changed files are exported into the
        state directory (`export` of the record), and it is deleted. Raises ProfileForbids, UnsupportedFeature and what
        exporting raises, then it is still held; or an error of deleting it, then it is errored and the export stays.
        """
        with self._holdings.held(name) as (live, record):
            if not live.plan.profile.outlive:
                raise ProfileForbids(live.plan.profile.name, "to keep a sandbox beyond the run")
            return let_go(live, record, self._holdings, self.store, self._mounts)

    # -- Running and stopping --------------------------------------------------------------------------------------

    def run(self, name: str, argv: Sequence[str], **options: Any) -> Any:
        """Start it if it is stopped, then `Sandbox.run(argv, **options)`: its result and its errors."""
        from pytest_airlock.sandbox import Sandbox

        self._ensure_running(name)
        return Sandbox(self._direct(name)).run(argv, **options)

    def spawn(self, name: str, command: Command) -> Process:
        """Start it if it is stopped, then start `command` in it."""
        self._ensure_running(name)
        return self._direct(name).spawn(command)

    def start(self, name: str) -> SandboxInfo:
        """Running already is no error; a record that says otherwise is corrected."""
        with self._holdings.held(name) as (live, record):
            require_healthy(name, record.state)
            if live.provider.is_running(live.handle):
                self._holdings.change(live, state=State.RUNNING)
            else:
                self._start(live)
        return self.status(name)

    def stop(self, name: str, *, grace: float = GRACE) -> SandboxInfo:
        """Ask its processes to end, wait up to `grace` seconds, kill; files stay. Stopped already is no error."""
        if self._holdings.get(name) is None:
            self._stop_left_over(name, grace)
            return self.status(name)
        with self._holdings.held(name) as (live, record):
            require_healthy(name, record.state, State.STOPPED)
            if live.provider.is_running(live.handle):
                live.provider.stop(live.handle, grace=grace)
            self._holdings.change(live, state=State.STOPPED)
        return self.status(name)

    # -- Files as they were ----------------------------------------------------------------------------------------

    def reset(self, name: str) -> ResetProof | None:
        """Back to the clean snapshot, its first network policy and no process; running afterwards.

        Raises SnapshotNotFound before anything is touched. Any other error leaves it errored.
        """
        with self._holdings.locked(name) as live:
            return self._reset(live)

    def _reset(self, live: LiveSandbox) -> ResetProof | None:
        with self._holdings.steered(live) as record:
            require_healthy(live.name, record.state)
            clean = record.snapshots.get(CLEAN)
            if clean is None or not isinstance(live.provider, Snapshots):
                raise SnapshotNotFound(live.name, CLEAN)
            try:
                if isinstance(live.provider, Resets):
                    proof: ResetProof | None = live.provider.reset(live.handle, clean)
                else:
                    proof = None
                    self._rebuild(live, clean)
                live.routes = ()
                put_in_force(live, live.network)
                if (record.state, record.network, record.before_lock) != (State.RUNNING, live.network, None):
                    self._holdings.change(live, state=State.RUNNING, network=live.network, before_lock=None)
            except BaseException as error:
                self._holdings.mark_errored(live, error)
                raise
            return proof

    def retire(self, name: str) -> bool:
        """Take it back from whoever had it: hand-outs end, and all inside begins to die. recycle() then proves the death.

        False from a provider that cannot do that ahead of a reset.
        """
        with self._holdings.locked(name) as live:
            live.end_handouts()
            if not isinstance(live.provider, Retires):
                return False
            live.provider.retire(live.handle)
            return True

    def recycle(self, name: str) -> ResetProof | None:
        """Make it ready for the next one: hand-outs end, reset, and snapshots a test took are deleted."""
        with self._holdings.held(name) as (live, record):
            live.end_handouts()
            proof = self._reset(live)
            taken = {key: snapshot for key, snapshot in record.snapshots.items() if key != CLEAN}
            if taken and isinstance(live.provider, Snapshots):
                for snapshot in taken.values():
                    live.provider.delete_snapshot(live.handle, snapshot)
                self._holdings.change(live, snapshots={CLEAN: record.snapshots[CLEAN]})
            if not live.provider.is_running(live.handle):
                raise ResetFailed(name, "it does not run after the reset")
            return proof

    def snapshot(self, name: str, *, stop: bool = False) -> str:
        """Keep its files; the id is for restore() and diff(). Raises SandboxBusy unless `stop` ends its processes."""
        with self._holdings.held(name) as (live, record):
            require_healthy(name, record.state)
            provider = self._snapshots(live)
            made = provider.snapshot(live.handle, stop=stop)
            try:
                if stop:
                    put_in_force(live, record.network)
                self._holdings.change(live, snapshots={**record.snapshots, made: made})
            except BaseException as error:
                undo = Undo()
                undo.add("the snapshot", lambda: provider.delete_snapshot(live.handle, made))
                undo.run(error)
                raise
            return made

    def restore(self, name: str, snapshot: str) -> None:
        """Files as in the snapshot, no process of before, the network as it is; running afterwards."""
        with self._holdings.locked(name) as live, self._holdings.steered(live) as record:
            require_healthy(name, record.state)
            if snapshot not in record.snapshots.values():
                raise SnapshotNotFound(name, snapshot)
            try:
                self._rebuild(live, snapshot)
                put_in_force(live, record.network)
                self._holdings.change(live, state=State.RUNNING)
            except BaseException as error:
                self._holdings.mark_errored(live, error)
                raise

    def snapshot_id(self, name: str, snapshot: str | None = None) -> str:
        """`snapshot` if the sandbox has it, by default its clean one; else SnapshotNotFound."""
        snapshots = self.store.load(name).snapshots
        found = snapshots.get(CLEAN) if snapshot is None else snapshot
        if found is None or found not in snapshots.values():
            raise SnapshotNotFound(name, snapshot or CLEAN)
        return found

    def diff(self, name: str, since: str | None = None) -> Iterator[Change]:
        """What changed since a snapshot, by default the clean one."""
        return self._direct(name).diff(since)

    # -- Network ---------------------------------------------------------------------------------------------------

    def set_network(self, name: str, network: Network) -> None:
        """In force, and recorded, when it returns; until the next reset. Here and below also of what other runs of this user
        hold; steering.py says what is raised.
        """
        self._steering.change(name, replacing(network))

    def lock(self, name: str) -> Network:
        """Nothing is reached, DNS included. These three return the policy in force."""
        return self._steering.change(name, locking)

    def unlock(self, name: str) -> Network:
        """As before it was locked, and with what was allowed since; else open."""
        return self._steering.change(name, unlocking)

    def allow(self, name: str, *entries: str) -> Network:
        """Besides what is reached already. Raises InvalidSpec for what is no entry (providers/endpoints.py)."""
        return self._steering.change(name, allowing(entries))

    def set_routes(self, name: str, routes: tuple[Route, ...]) -> None:
        """In force when it returns, instead of those before and ahead of the policy; until the next reset. UnsupportedFeature."""
        with self._holdings.locked(name) as live, self._holdings.steered(live) as record:
            require_healthy(name, record.state)
            set_routes(live, record, routes, self._holdings)

    # -- Looking ---------------------------------------------------------------------------------------------------

    def list(self) -> Sequence[SandboxInfo]:
        """Every recorded sandbox, of all runs. What cannot be asked keeps its recorded state, and `error` says why."""
        return [self._look(record, strict=False) for record in self.store.records()]

    def status(self, name: str) -> SandboxInfo:
        """Raises SandboxNotFound, and any error of asking whether it runs."""
        return self._look(self.store.load(name), strict=True)

    def names(self) -> Sequence[str]:
        """The sandboxes this manager holds."""
        return self._holdings.names()

    def close_providers(self) -> None:
        """Close all that were used but those with kept sandboxes that live on."""
        keep = {record.provider for record in self.store.records() if record.kept and record.export is None}
        self.providers.close(keep=keep)

    def backend(self, name: str) -> Handout:
        """A hand-out of the sandbox, for a `Sandbox`; it ends with recycle() or destroy()."""
        with self._holdings.locked(name) as live:
            handout = Handout(self, live)
            live.handouts.append(handout)
            return handout

    def is_running(self, name: str) -> bool:
        """Asks the provider."""
        live = self._holdings.require(name)
        return live.provider.is_running(live.handle)

    def visited(self, name: str) -> bool:
        """Whether somebody entered it from another process since its last reset."""
        live = self._holdings.require(name)
        return isinstance(live.provider, Attaches) and live.provider.visited(live.handle)

    def attach(self, name: str) -> Visit:
        """Enter a running sandbox, of whatever run of this user. Raises SandboxNotFound and what visiting.py says."""
        return visit(self.store.load(name), self.providers, self.store)

    # --------------------------------------------------------------------------------------------------------------

    def _look(self, record: SandboxRecord, *, strict: bool) -> SandboxInfo:
        return look(record, self._holdings, self.providers, self.store, strict=strict)

    def _destroy_left_over(self, name: str, *, missing_ok: bool) -> None:
        try:
            record = self.store.load(name)
            if record.export is not None and self._holdings.is_ours(record):  # of this run, which let it go
                self.providers.get(record.provider).delete(handle_of(record))
                self.store.remove(name)
                return
            self._holdings.refuse_unless_orphan(record)
            self.orphans.collect(name)
        except SandboxNotFound:
            if not missing_ok:
                raise

    def _stop_left_over(self, name: str, grace: float) -> None:
        record = self.store.load(name)
        self._holdings.refuse_unless_orphan(record)
        require_healthy(name, record.state, State.STOPPED)
        if record.export is None:
            self.orphans.stop(name, grace=grace)

    def _ensure_running(self, name: str) -> None:
        with self._holdings.held(name) as (live, record):
            require_healthy(name, record.state)
            if not live.provider.is_running(live.handle):
                self._start(live)

    def _start(self, live: LiveSandbox) -> None:
        """Under its lock. A sandbox is born locked, so its policy is put in force again; or it does not run."""
        with self._holdings.steered(live) as record:
            undo = Undo()
            try:
                live.provider.start(live.handle)
                undo.add("the started sandbox", lambda: live.provider.stop(live.handle, grace=0))
                put_in_force(live, record.network)
                self._holdings.change(live, state=State.RUNNING)
            except BaseException as error:
                undo.run(error)
                raise

    def _rebuild(self, live: LiveSandbox, snapshot: str) -> None:
        live.provider.stop(live.handle, grace=0)
        self._snapshots(live).restore(live.handle, snapshot)
        live.provider.start(live.handle)

    def _direct(self, name: str) -> Handout:
        live = self._holdings.require(name)
        with live.lock:
            if live.direct is None:
                live.direct = Handout(self, live)
            return live.direct

    def _snapshots(self, live: LiveSandbox) -> Snapshots:
        if not isinstance(live.provider, Snapshots):
            raise UnsupportedFeature("snapshots", live.provider.name, "it cannot keep files and bring them back")
        return live.provider


if TYPE_CHECKING:
    _is_manager: type[Manager] = SandboxManager
