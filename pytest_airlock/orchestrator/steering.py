"""A network policy is put in force and recorded as one step, by the owner of a sandbox or from any process of its user.

            owner                                     another process
    LiveSandbox.lock                            -
    Store.network_lock(name)                    Store.network_lock(name)
      Store.locked(name): read the record         read the record, enter the sandbox
      provider.set_network                        Visit.set_network
      Store.locked(name): write                   Store.locked(name): read again, write

Whoever begins a life (start, reset, restore) holds the network lock, too: a policy never outlives the life it was set for, and
the record says what is in force. Only a process that is killed between its last two steps leaves them different, until the
next change or life.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing, suppress

from pytest_airlock.errors import SandboxDied, SandboxNotFound
from pytest_airlock.models import Network, SandboxRecord, State
from pytest_airlock.orchestrator.contracts import Providers, Store
from pytest_airlock.orchestrator.holdings import Holdings
from pytest_airlock.orchestrator.live import LiveSandbox
from pytest_airlock.orchestrator.policy.networks import Policy, Step, check_network
from pytest_airlock.orchestrator.preparation import apply_network, require_network
from pytest_airlock.orchestrator.states import require_healthy
from pytest_airlock.orchestrator.undo import Undo
from pytest_airlock.orchestrator.visiting import visit
from pytest_airlock.providers.base import NetworkRule

__all__ = ["Steering"]

_REMAINS = "a network policy that is not the recorded one"


class Steering:
    """Changes of network policies (policy/networks.py), of what `holdings` has and of what other live processes hold."""

    def __init__(self, store: Store, providers: Providers, holdings: Holdings) -> None:
        self._store = store
        self._providers = providers
        self._holdings = holdings

    def change(self, name: str, step: Step) -> Network:
        """The policy that is in force, and recorded, when it returns; if it raises, the one before still is.

        Raises SandboxNotFound, ProfileForbids, InvalidSpec, UnsupportedFeature, InvalidTransition (errored), StoreError; of
        another process' sandbox also what visiting.visit raises. If the old policy cannot be put back, it is errored.
        """
        if self._holdings.get(name) is None:
            return self._change_theirs(name, step)
        with self._holdings.locked(name) as live, self._holdings.steered(live) as record:
            require_healthy(name, record.state)
            policy = _next(record, step)
            require_network(live.provider, policy.network)
            _carry_out(
                record,
                policy,
                # A stopped sandbox is locked; its next start puts in force what is recorded.
                apply=self._applier(live) if live.provider.is_running(live.handle) else None,
                write=lambda changes: self._holdings.change(live, **changes),
                give_up=lambda error: self._holdings.mark_errored(live, error, _REMAINS),
            )
            return policy.network

    def _applier(self, live: LiveSandbox) -> Callable[[Network], None]:
        return lambda network: apply_network(live.provider, live.handle, network, live.routes)

    def _change_theirs(self, name: str, step: Step) -> Network:
        with self._store.network_lock(name):
            record = self._store.load(name)
            policy = _next(record, step)
            with closing(visit(record, self._providers, self._store)) as guest:
                _carry_out(
                    record,
                    policy,
                    apply=lambda network: guest.set_network(NetworkRule(network.mode, network.allow)),
                    write=lambda changes: self._write(record, changes),
                    give_up=lambda error: self._give_up(record, error),
                )
            return policy.network

    def _write(self, seen: SandboxRecord, changes: Mapping[str, object]) -> None:
        with self._store.locked(seen.name):
            record = self._store.load(seen.name)
            if (record.owner, record.created) != (seen.owner, seen.created):
                raise SandboxNotFound(seen.name, hint="it was removed meanwhile, and another has its name now")
            self._store.save(record.model_copy(update=changes))

    def _give_up(self, seen: SandboxRecord, error: BaseException) -> None:
        text = f"{type(error).__name__}: {error}"
        undo = Undo()
        fields = {"state": State.ERRORED, "error": text, "remains": _REMAINS}
        undo.add("its record, which should say errored,", lambda: self._write(seen, fields))
        undo.run(error)


def _next(record: SandboxRecord, step: Step) -> Policy:
    policy = step(Policy(record.network, record.before_lock))
    check_network(policy.network, record.profile, record.network_allowed)
    return policy


def _put_back(network: Network, apply: Callable[[Network], None]) -> None:
    with suppress(SandboxDied):  # a life that is over took its policy along
        apply(network)


def _carry_out(
    record: SandboxRecord,
    policy: Policy,
    *,
    apply: Callable[[Network], None] | None,
    write: Callable[[dict[str, object]], object],
    give_up: Callable[[BaseException], None],
) -> None:
    undo = Undo()
    try:
        if apply is not None:
            # What others read must be what is in force.
            undo.add("the new network policy", lambda: _put_back(record.network, apply))
            apply(policy.network)
        write(policy._asdict())
    except BaseException as error:
        if undo.run(error):
            give_up(error)
        raise
