"""One pytest process, or one create_sandbox block: what it made is gone at its end, whatever happens."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_airlock.errors import AirlockError, AlreadyExists
from pytest_airlock.models import SandboxSpec
from pytest_airlock.orchestrator.assembly import Setup
from pytest_airlock.orchestrator.contracts import Plan
from pytest_airlock.orchestrator.policy.names import generated_name, marker_name
from pytest_airlock.orchestrator.pool import Listener, Nobody, Pool
from pytest_airlock.orchestrator.undo import add_note

if TYPE_CHECKING:
    from pytest_airlock.sandbox import Sandbox

__all__ = ["AirlockSession", "Listener", "create_sandbox"]


@dataclass(frozen=True, slots=True)
class _Lent:
    sandbox: Sandbox
    name: str
    plan: Plan
    pooled: bool


class AirlockSession:
    """Hands out sandboxes and takes them back. Thread-safe; of the process that made it alone.

    Making it collects what dead runs left; `messages` says so, and whatever else a user should be told.
    """

    def __init__(self, setup: Setup | None = None, *, listener: Listener | None = None) -> None:
        setup = Setup() if setup is None else setup
        self.messages: list[str] = []
        self.run_id = setup.run_id
        self.worker = setup.worker
        self._tell = setup.say
        setup = dataclasses.replace(setup, say=self._say)
        self.manager = setup.manager()
        self.owner = self.manager.owner
        self._listener: Listener = Nobody() if listener is None else listener
        self.pool = Pool(self.manager, say=self._say, listener=self._listener)
        self._planner = setup.planner()
        self._pid = os.getpid()
        self._lent: dict[int, _Lent] = {}
        self._plans: dict[str, Plan] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._closed = False
        for collected in self.manager.orphans.collect_all():
            self._say(collected.text)

    def acquire(self, spec: SandboxSpec, test_id: str = "") -> Sandbox:
        """A pristine sandbox: from the pool, or made. A `name` in the spec gets the worker and a number behind it."""
        self._check()
        if spec.name is not None:
            return self._make_numbered(spec, spec.name, test_id)
        plan = self._plan(spec)
        pooled = not spec.keep
        name = self.pool.take(plan.key) if pooled else None
        if name is None:
            plan = _renamed(plan, self._generate("sandbox"))
            return self._make(plan, test_id, pooled=pooled)
        return self._lend(name, plan, pooled=True)

    def create_named(self, spec: SandboxSpec, test_id: str = "") -> Sandbox:
        """A new sandbox whose name is taken literally; never pooled."""
        self._check()
        name = self._generate(test_id or "sandbox") if spec.name is None else spec.name
        return self._make(self._planner(spec, name), test_id, pooled=False)

    def release(self, sandbox: Sandbox, *, keep: bool | None = None) -> None:
        """Take it back: into the pool, destroyed, or kept (`keep`, by default what its spec says). Twice is fine."""
        if os.getpid() != self._pid:
            return  # of a forked child: it is the parent's
        with self._lock:
            lent = self._lent.pop(id(sandbox), None)
        if lent is None:
            return
        if lent.plan.spec.keep if keep is None else keep:
            self._keep(lent)
        elif lent.pooled:
            self.pool.give_back(lent.name, lent.plan)
        else:
            self._destroy(lent.name)

    def close(self) -> None:
        """Destroy all that was not kept, then close the providers. Everything is tried; then the first error is raised."""
        if os.getpid() != self._pid or self._closed:
            return
        self._closed = True
        errors: list[Exception] = []
        for lent in list(self._lent.values()):
            if lent.plan.spec.keep:
                _attempt(errors, partial(self._keep, lent))
        self._lent.clear()
        for name in self.manager.names():
            _attempt(errors, partial(self._destroy, name))
        _attempt(errors, self.manager.close_providers)
        if errors:
            for other in errors[1:]:
                add_note(errors[0], f"at the end of the session, too: {type(other).__name__}: {other}")
            raise errors[0]

    def _make_numbered(self, spec: SandboxSpec, name: str, test_id: str) -> Sandbox:
        """The number only tells tests apart: where another run has it, the next will do."""
        for _ in range(100):
            numbered = marker_name(name, self.worker, next(self._numbers))
            try:
                return self._make(self._planner(spec, numbered), test_id, pooled=False)
            except AlreadyExists as error:
                taken = error
        raise taken

    def _make(self, plan: Plan, test_id: str, *, pooled: bool) -> Sandbox:
        name = plan.provider_spec.name
        try:
            self.manager.create(plan, test="" if pooled else test_id)
        except Exception as error:
            self._listener.failed(name, error)
            raise
        for note in plan.notes:
            self._say(note)
        return self._lend(name, plan, pooled=pooled)

    def _lend(self, name: str, plan: Plan, *, pooled: bool) -> Sandbox:
        from pytest_airlock.sandbox import Sandbox

        sandbox = Sandbox(self.manager.backend(name))
        with self._lock:
            self._lent[id(sandbox)] = _Lent(sandbox, name, plan, pooled)
        return sandbox

    def _destroy(self, name: str) -> None:
        self.manager.destroy(name, missing_ok=True)
        self._listener.destroyed(name)

    def _keep(self, lent: _Lent) -> None:
        record = self.manager.let_go(lent.name)
        place = ""
        if record.export is not None:
            place = f" as files in {record.export.path}"
            self._listener.destroyed(lent.name)
        self._say(
            f"sandbox {lent.name!r} of provider {record.provider!r} was kept{place}: "
            f"`airlock destroy {lent.name}` removes it"
        )

    def _plan(self, spec: SandboxSpec) -> Plan:
        """Plans of unnamed specs, made once: what files the host has is looked at when a sandbox is first asked for."""
        asked = spec.model_dump_json()
        plan = self._plans.get(asked)
        if plan is None:
            plan = self._plans[asked] = self._planner(spec, "sandbox")
        return plan

    def _generate(self, words: str) -> str:
        return generated_name(words, run_id=self.run_id, worker=self.worker, number=next(self._numbers))

    def _say(self, message: str) -> None:
        if message not in self.messages:
            self.messages.append(message)
            self._tell(message)

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise AirlockError(
                f"this session belongs to process {self._pid}",
                why="a child made by fork must not use its parent's sandboxes",
                hint="make a session, or call create_sandbox, in the child",
            )
        if self._closed:
            raise AirlockError("this session is closed", hint="make a new one")


@contextmanager
def create_sandbox(**spec: object) -> Iterator[Sandbox]:
    """A sandbox for as long as the block lasts; the words are those of the marker `airlock`.

    The project is the current directory, if it is one. What there is to say goes to the logger `pytest_airlock`. Raises
    InvalidSpec and whatever making a sandbox raises.
    """
    from pytest_airlock.orchestrator.policy.merge import validate_spec

    checked = validate_spec(spec, where="create_sandbox")
    session = AirlockSession(Setup(project_root=Path.cwd(), say=logging.getLogger("pytest_airlock").warning))
    try:
        yield session.create_named(checked)
    except BaseException as error:
        try:
            session.close()
        except Exception as failed:  # noqa: BLE001 - attached to the error under way, which is the one to raise
            add_note(error, f"while cleaning up: {type(failed).__name__}: {failed}")
        raise
    session.close()


def _renamed(plan: Plan, name: str) -> Plan:
    return dataclasses.replace(
        plan,
        provider_spec=dataclasses.replace(plan.provider_spec, name=name),
        need=dataclasses.replace(plan.need, name=name),
    )


def _attempt(errors: list[Exception], step: Callable[[], object]) -> None:
    try:
        step()
    except Exception as error:  # noqa: BLE001 - close() raises the first, the others are its notes
        errors.append(error)
