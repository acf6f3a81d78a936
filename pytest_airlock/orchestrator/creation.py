"""Making a sandbox, step by step; whatever fails undoes what came before it (r01, r21, r22, r29)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pytest_airlock.models import Network, Owner, SandboxRecord, State
from pytest_airlock.orchestrator.contracts import Clock, Lease, Mounts, Plan, ResourceChecker, Store
from pytest_airlock.orchestrator.keeping import lives_on
from pytest_airlock.orchestrator.live import LiveSandbox
from pytest_airlock.orchestrator.preparation import CLEAN, effective_network, prepare
from pytest_airlock.orchestrator.provisioned import Provisioned
from pytest_airlock.orchestrator.undo import Undo
from pytest_airlock.orchestrator.waiting import Reservations
from pytest_airlock.providers.base import Adopts, Handle, Provider

__all__ = ["Creation", "clamped"]


@dataclass(slots=True)
class Creation:
    """One attempt to carry out a plan.

    `keep_errored` is told of a sandbox that could not be removed again; `alike` knows live ones made from an equal plan,
    `provisioned` what other processes provisioned.
    """

    plan: Plan
    provider: Provider
    owner: Owner
    store: Store
    mounts: Mounts
    clock: Clock
    reservations: Reservations
    keep_errored: Callable[[LiveSandbox], None]
    alike: Callable[[Plan], Iterable[LiveSandbox]] = lambda _: ()
    provisioned: Provisioned = field(default_factory=Provisioned)

    def run(self, wait: float) -> LiveSandbox:
        """Raises what failed first, with the errors of the clean-up attached."""
        # What does not live on is kept only once it was exported: an owner killed before that leaves an orphan.
        kept = self.plan.spec.keep and lives_on(self.provider)
        network = effective_network(self.plan, self.provider)
        record = self._record().model_copy(update={"network": network, "kept": kept})
        lease = self.reservations.reserve(self.plan.need, record, wait=wait)
        undo = Undo()
        handle = None
        try:
            self.mounts.register(record.name, self.plan.provider_spec.mounts)
            undo.add("its mounts", lambda: self.mounts.unregister_all(record.name))
            handle = self.provider.create(self.plan.provider_spec)
            made = handle
            undo.add("the sandbox", lambda: self.provider.delete(made))
            # Who finds us killed from here on needs the handle to remove what there is.
            mounts = tuple(dataclasses.asdict(mount) for mount in self.mounts.list(record.name))
            record = record.model_copy(update={"handle": handle.to_json(), "mounts": mounts})
            self.store.save(record)
            snapshots = self._start(handle, network)
            self.store.save(record.model_copy(update={"state": State.RUNNING, "snapshots": snapshots}))
        except BaseException as error:
            self._roll_back(error, undo, record, lease, handle)
            raise
        return LiveSandbox(record.name, self.plan, lease, self.provider, handle, network)

    def _start(self, handle: Handle, network: Network) -> dict[str, str]:
        """Start and provision it, or start it from what was provisioned before; returns its snapshots."""
        adopted = self._adopt(handle)
        if adopted is not None:
            self.provider.start(handle)
            return prepare(self.plan, self.provider, handle, network, adopted=adopted)
        with self.provisioned.claim(self.plan, self.provider, handle, network) as claim:
            adopted = claim.load()
            self.provider.start(handle)
            snapshots = prepare(self.plan, self.provider, handle, network, adopted=adopted)
            if adopted is None:
                claim.save(snapshots.get(CLEAN))
        return snapshots

    def _adopt(self, handle: Handle) -> str | None:
        """Provisioning runs once for equal plans: the clean snapshot of another such sandbox, made this one's own."""
        if not self.plan.provision or not isinstance(self.provider, Adopts):
            return None
        for donor in self.alike(self.plan):
            clean = self.store.load(donor.name).snapshots.get(CLEAN)
            if clean is not None and donor.provider is self.provider:
                return self.provider.adopt(handle, donor.handle, clean)
        return None

    def _record(self) -> SandboxRecord:
        plan = self.plan
        resolved = {
            "user": plan.provider_spec.user,
            # What others see as reserved is what is needed, which clamping may have lowered.
            "cpu": plan.need.cpu,
            "memory": plan.need.memory,
            "disk": plan.need.disk,
        }
        return SandboxRecord(
            name=plan.provider_spec.name,
            provider=self.provider.name,
            state=State.CREATING,
            spec=plan.spec.model_copy(update=resolved),
            profile=plan.profile.name,
            network_allowed=plan.profile.network_allowed,
            owner=self.owner,
            created=self.clock.time(),
            runtime=plan.runtime,
        )

    def _roll_back(
        self, error: BaseException, undo: Undo, record: SandboxRecord, lease: Lease, handle: Handle | None
    ) -> None:
        """Leave nothing, or an errored record that says what remains."""
        remains = undo.run(error)
        name = record.name
        forget = Undo()
        if remains and handle is not None:
            text = f"{type(error).__name__}: {error}"
            errored = record.model_copy(
                update={"state": State.ERRORED, "error": text, "remains": ", ".join(remains), "kept": False}
            )
            self.keep_errored(LiveSandbox(name, self.plan, lease, self.provider, handle, record.network, error=text))
            forget.add("its record, which should say errored,", lambda: self.store.save(errored))
        else:
            forget.add("its lease", lease.release)
            forget.add("its record", lambda: self.store.remove(name))
        forget.run(error)


def clamped(plan: Plan, resources: ResourceChecker) -> Plan:
    """`plan` with what was set lowered to what the machine has."""
    need = resources.clamp(plan.need)
    lowered = {
        resource: getattr(need, resource)
        for resource in ("cpu", "memory", "disk")
        if getattr(need, resource) != getattr(plan.need, resource)
    }
    return (
        dataclasses.replace(plan, need=need, provider_spec=dataclasses.replace(plan.provider_spec, **lowered))
        if lowered
        else plan
    )
