"""What the orchestrator's tests share: records, owners, processes that end when told."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pytest_airlock.errors import InsufficientResources
from pytest_airlock.models import Network, Owner, Profile, SandboxRecord, SandboxSpec, State
from pytest_airlock.orchestrator.contracts import Need, Plan
from pytest_airlock.orchestrator.manager import SandboxManager
from pytest_airlock.orchestrator.policy.mounts import MountRegistry
from pytest_airlock.orchestrator.providers import ProviderRegistry
from pytest_airlock.orchestrator.storage.process_identity import current_owner
from pytest_airlock.orchestrator.storage.store import FileStore
from pytest_airlock.providers.base import Provider, ProviderSpec
from pytest_airlock.testing import FakeClock


def make_record(name: str = "box", owner: Owner | None = None, **fields: object) -> SandboxRecord:
    values = {
        "name": name,
        "provider": "fake",
        "state": State.RUNNING,
        "spec": SandboxSpec(),
        "profile": "cautious",
        "owner": owner or current_owner(),
        "created": 1.0,
        **fields,
    }
    return SandboxRecord.model_validate(values)


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked child; its wait status: 0 = it returned."""
    return ended(begun(work))


def ended(pid: int) -> int:
    """Wait for a child; its wait status."""
    return os.waitpid(pid, 0)[1]


def begun(work: Callable[[], object]) -> int:
    """The pid of a forked child that runs `work` and ends."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            _show_error()
            os._exit(status)
    return pid


@contextlib.contextmanager
def living_child(work: Callable[[], object]) -> Iterator[int]:
    """A forked child that has done `work` and lives on; killed and reaped at the end. Yields its pid."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os.write(told, b"1")
            signal.pause()
        finally:
            _show_error()
            os._exit(1)
    os.close(told)
    try:
        if os.read(ready, 1) != b"1":
            raise AssertionError("the child failed before it was ready")
        yield pid
    finally:
        os.close(ready)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _show_error() -> None:
    if sys.exc_info()[0]:
        traceback.print_exc()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def dead_owner(**fields: object) -> Owner:
    """An owner that has really lived and died."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, current_owner(**fields).model_dump_json().encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    return Owner.model_validate_json(data)


def make_profile(**fields: object) -> Profile:
    values = {
        "name": "cautious",
        "rank": 1,
        "project": "absent",
        "mounts": ("ro", "cow"),
        "network": "locked",
        "network_allowed": ("locked", "allow", "open"),
        "provision_network": True,
        "user": "root",
        "nested": False,
        "outlive": False,
        **fields,
    }
    return Profile.model_validate(values)


def make_plan(name: str = "box", **fields: object) -> Plan:
    """A resolved spec as planning makes it; `spec`, `provider_spec` and `profile` given as mappings are changes."""
    profile = make_profile(**fields.pop("profile", {}))
    spec = SandboxSpec.model_validate({"name": name, **fields.pop("spec", {})})
    required = frozenset({"network_locked"})
    provider_spec = ProviderSpec(**{"name": name, "required": required, **fields.pop("provider_spec", {})})
    values = {
        "spec": spec,
        "profile": profile,
        "provider_name": "fake",
        "provider_spec": provider_spec,
        "network": Network(),
        "need": Need(name, spec.cpu, spec.memory, spec.disk),
        "key": "key",
        **fields,
    }
    return Plan(**values)


class FakeResources:
    """A machine of so many processors."""

    def __init__(self, cpu: int = 2) -> None:
        self.cpu = cpu

    def ceiling(self) -> dict[str, int]:
        return {"cpu": self.cpu, "memory": 2**40, "disk": 2**40}

    def check(self, need: Need, held: Iterable[Need]) -> None:
        wanted = need.cpu or 0
        used = sum(other.cpu or 0 for other in held)
        if wanted > self.cpu - used:
            raise InsufficientResources("cpu", wanted, self.cpu - used, can_ever_fit=wanted <= self.cpu)

    def clamp(self, need: Need) -> Need:
        return dataclasses.replace(need, cpu=need.cpu and min(need.cpu, self.cpu))


def make_providers(*providers: Provider) -> ProviderRegistry:
    registry = ProviderRegistry(discover=tuple)
    for provider in providers:
        registry.register(provider.name, lambda provider=provider: provider)
    return registry


def make_manager(root: Path, provider: Provider, **given: object) -> SandboxManager:
    """A manager of fakes over a real store."""
    said: list[str] = []
    values = {
        "store": FileStore(root),
        "providers": make_providers(provider),
        "resources": FakeResources(),
        "mounts": MountRegistry(),
        "clock": FakeClock(),
        "owner": current_owner(run_id="run", worker="gw0"),
        "planner": lambda spec: make_plan(spec.name or "unnamed", spec=spec.model_dump(exclude_unset=True)),
        "say": said.append,
        **given,
    }
    manager = SandboxManager(**values)
    manager.said = said
    return manager
