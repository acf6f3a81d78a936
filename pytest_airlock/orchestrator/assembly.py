"""The real collaborators, put together."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pytest_airlock.models import SandboxSpec
from pytest_airlock.orchestrator.contracts import (
    Clock,
    Detector,
    Insufficient,
    MountRules,
    Plan,
    Profiles,
    Providers,
    ResourceChecker,
    Store,
)
from pytest_airlock.orchestrator.manager import SandboxManager
from pytest_airlock.orchestrator.waiting import DEFAULT_WAIT

__all__ = ["Setup", "default_manager"]


@dataclass
class Setup:
    """What a run is configured with. What is None is made as design and defaults have it, at first use.

    `state_dir` None = AIRLOCK_STATE_DIR, else the platform's; `run_id` is shared by the workers of a run. `refresh`: what
    earlier runs provisioned is not used.
    """

    state_dir: Path | None = None
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    worker: str = "main"
    project_root: Path | None = None
    inipath: Path | None = None
    default_profile: str | None = None
    max_profile: str | None = None
    default_provider: str = "auto"
    insufficient: Insufficient = "error"
    wait: float = DEFAULT_WAIT
    refresh: bool = False
    say: Callable[[str], None] = lambda _: None
    profiles: Profiles | None = None
    providers: Providers | None = None
    detector: Detector | None = None
    mount_rules: MountRules | None = None
    resources: ResourceChecker | None = None
    store: Store | None = None
    clock: Clock | None = None

    def planner(self) -> Callable[[SandboxSpec, str], Plan]:
        """`planner(spec, name)` answers the open questions of a spec."""
        from pytest_airlock.orchestrator.policy.detection import RuntimeDetector
        from pytest_airlock.orchestrator.policy.mounts import HostMountRules
        from pytest_airlock.orchestrator.policy.planning import plan
        from pytest_airlock.orchestrator.policy.profiles import DEFAULT_PROFILE, ProfileRegistry
        from pytest_airlock.orchestrator.storage.layer_files import default_cache_dir
        from pytest_airlock.providers.places import run_time_dir

        prepared = partial(
            plan,
            profiles=ProfileRegistry() if self.profiles is None else self.profiles,
            mount_rules=HostMountRules(private=[self._state_dir(), default_cache_dir(), run_time_dir()])
            if self.mount_rules is None
            else self.mount_rules,
            detector=RuntimeDetector() if self.detector is None else self.detector,
            project_root=self.project_root,
            inipath=self.inipath,
            default_profile=DEFAULT_PROFILE if self.default_profile is None else self.default_profile,
            max_profile=self.max_profile,
            default_provider=self.default_provider,
        )
        return lambda spec, name: prepared(spec, name=name)

    def manager(self) -> SandboxManager:
        from pytest_airlock.orchestrator.clock import SystemClock
        from pytest_airlock.orchestrator.policy.mounts import MountRegistry
        from pytest_airlock.orchestrator.policy.names import generated_name
        from pytest_airlock.orchestrator.policy.resources import HostResources
        from pytest_airlock.orchestrator.providers import ProviderRegistry
        from pytest_airlock.orchestrator.provisioned import Provisioned
        from pytest_airlock.orchestrator.storage.layer_files import LayerFiles, default_cache_dir
        from pytest_airlock.orchestrator.storage.process_identity import current_owner
        from pytest_airlock.orchestrator.storage.store import FileStore

        planner, numbers = self.planner(), itertools.count(1)
        owner = current_owner(run_id=self.run_id, worker=self.worker)
        clock = SystemClock() if self.clock is None else self.clock

        def plan(spec: SandboxSpec) -> Plan:
            number = next(numbers)
            name = generated_name("sandbox", run_id=self.run_id, worker=self.worker, number=number)
            return planner(spec, name if spec.name is None else spec.name)

        return SandboxManager(
            store=FileStore(self._state_dir(), warn=self.say) if self.store is None else self.store,
            providers=ProviderRegistry() if self.providers is None else self.providers,
            resources=HostResources() if self.resources is None else self.resources,
            mounts=MountRegistry(),
            clock=clock,
            owner=owner,
            planner=plan,
            insufficient=self.insufficient,
            wait=self.wait,
            say=self.say,
            provisioned=Provisioned(
                lambda: LayerFiles(default_cache_dir() / "layers", owner, clock), say=self.say, refresh=self.refresh
            ),
        )

    def _state_dir(self) -> Path:
        from pytest_airlock.orchestrator.storage.state_files import default_state_dir

        return default_state_dir() if self.state_dir is None else self.state_dir


def default_manager(setup: Setup | None = None) -> SandboxManager:
    """A manager over the real store, providers and rules."""
    return (Setup() if setup is None else setup).manager()
