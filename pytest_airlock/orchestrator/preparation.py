"""From started and locked to pristine: provision, end what that left running, clean snapshot, final network policy."""

from __future__ import annotations

import selectors
from collections.abc import Callable, Mapping

from pytest_airlock.errors import CommandFailed, UnsupportedFeature
from pytest_airlock.models import Network, NetworkMode
from pytest_airlock.orchestrator.contracts import Plan
from pytest_airlock.orchestrator.policy.networks import modes_of
from pytest_airlock.providers.base import (
    Absence,
    Command,
    Handle,
    NetworkRule,
    Networks,
    Process,
    Provider,
    Route,
    Snapshots,
)

__all__ = ["CLEAN", "FEATURE_OF", "apply_network", "effective_network", "prepare", "require_network", "require_routes"]

#: The name under which a record keeps the snapshot that a reset goes back to.
CLEAN = "clean"

FEATURE_OF: Mapping[NetworkMode, str] = {
    "locked": "network_locked",
    "allow": "network_allow",
    "open": "network_open",
    "host": "network_host",
}
_LOCKED = Network()
_ROUTES = "network_routes"
# Bytes of the head and of the tail of a failing command's output that its error shows.
_HEAD, _TAIL = 2_000, 6_000
# The most a pipe can hold (pipe-max-size of pipe(7), its default): what a daemon writes later is not the command's.
_PIPE = 1024**2


def effective_network(plan: Plan, provider: Provider) -> Network:
    """The plan's policy if the provider has the means; locked if it was only a profile's convenience.

    Raises UnsupportedFeature if the spec itself asks for it; nothing has been made yet.
    """
    if FEATURE_OF[plan.network.mode] in plan.provider_spec.required or not _lacking(provider, plan.network):
        require_network(provider, plan.network)
        return plan.network
    return _LOCKED


def require_network(provider: Provider, network: Network) -> None:
    """UnsupportedFeature if the provider cannot enforce the policy here."""
    lacking = _lacking(provider, network)
    if not lacking:
        return
    feature = lacking[0]
    absence = provider.probe().absent.get(feature)
    if isinstance(provider, Networks) and absence is not None:
        raise UnsupportedFeature(feature, provider.name, absence.why, hint=absence.fix)
    raise UnsupportedFeature(
        feature,
        provider.name,
        "it has no control of the network: its sandboxes are locked, always",
        hint="leave network= out, or choose another provider",
    )


def require_routes(provider: Provider) -> None:
    """UnsupportedFeature if the provider cannot lead connections to a server of the test here."""
    features = provider.probe()
    if isinstance(provider, Networks) and _ROUTES in features:
        return
    absence = features.absent.get(_ROUTES, Absence("it cannot lead connections to a server of the test"))
    hint = absence.fix or "leave network.route() and network.serve() out, or choose another provider"
    raise UnsupportedFeature(_ROUTES, provider.name, absence.why, hint=hint)


def apply_network(provider: Provider, handle: Handle, network: Network, routes: tuple[Route, ...] = ()) -> None:
    """Put a policy, and routes that come before it, in force. A provider without Networks is locked, always."""
    if isinstance(provider, Networks):
        provider.set_network(handle, NetworkRule(network.mode, network.allow, routes))
    else:
        require_network(provider, network)


def _lacking(provider: Provider, network: Network) -> list[str]:
    """The features that it takes and the provider has not."""
    if network.mode == "locked":
        return []
    needed = [FEATURE_OF[mode] for mode in modes_of(network)]
    return [feature for feature in needed if not (isinstance(provider, Networks) and feature in provider.probe())]


def prepare(
    plan: Plan, provider: Provider, handle: Handle, network: Network, *, adopted: str | None = None
) -> dict[str, str]:
    """The snapshots of the new sandbox: {"clean": id}, or none if the provider has no Snapshots.

    `adopted` is the clean snapshot of an equal sandbox, which this one started from: then all is done already.
    """
    commands = plan.provision if adopted is None else ()
    opened = bool(commands) and plan.provision_network is not None and network.mode != "locked"
    if opened and plan.provision_network is not None:
        apply_network(provider, handle, plan.provision_network)
    for number, argv in enumerate(commands, 1):
        _provision(plan, provider, handle, number, argv)
    snapshots = {}
    if adopted is not None:
        snapshots[CLEAN] = adopted
    elif isinstance(provider, Snapshots):
        # stop=True ends what provisioning left running: no test shall meet it, and a reset would not bring it back.
        snapshots[CLEAN] = provider.snapshot(handle, stop=True)
    elif commands:
        provider.stop(handle, grace=0)
        provider.start(handle)
    if opened or network.mode != "locked":
        apply_network(provider, handle, network)
    return snapshots


def _provision(plan: Plan, provider: Provider, handle: Handle, number: int, argv: tuple[str, ...]) -> None:
    env = {**provider.environ(handle), **dict(plan.provider_spec.env)}
    which = f"provisioning command {number} of {len(plan.provision)}"
    hint = "the sandbox was not made: mend the command, or what it needs inside"
    try:
        process = provider.spawn(handle, Command(argv, tuple(env.items()), stderr="stdout"))
    except OSError as error:
        raise type(error)(error.errno, f"{error.strerror} in {which} ({hint})", error.filename) from error
    try:
        output = _Excerpt()
        _collect(process, output.add)
        status = process.wait().returncode
        if status:
            failed = CommandFailed(status, list(argv), output.text(), "", None)
            failed.why, failed.hint = f"it is {which}", hint
            raise failed
    finally:
        process.close()


class _Excerpt:
    """Head and tail of a stream, so that a command that writes for ever costs no memory."""

    def __init__(self) -> None:
        self._head = b""
        self._tail = b""
        self._left_out = 0

    def text(self) -> str:
        gap = f"\n… {self._left_out} bytes left out …\n".encode() if self._left_out else b""
        return (self._head + gap + self._tail).decode("utf-8", "backslashreplace")

    def add(self, data: bytes) -> None:
        room = _HEAD - len(self._head)
        self._head += data[:room]
        tail = self._tail + data[room:] if room > 0 else self._tail + data
        self._left_out += max(0, len(tail) - _TAIL)
        self._tail = tail[-_TAIL:]


def _collect(process: Process, add: Callable[[bytes], None]) -> None:
    """Read the output until the command has ended and its pipe is empty; a daemon may keep the pipe open."""
    stream, ended, left = process.stdout, False, _PIPE
    if stream is None:
        return
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        selector.register(process.fileno(), selectors.EVENT_READ)
        while left > 0:
            ready = {key.fileobj for key, _ in selector.select(0 if ended else None)}
            if stream in ready:
                data = stream.read(65_536)
                if not data:
                    return
                add(data)
                left -= len(data) if ended else 0
            elif ended:
                return
            ended = ended or process.fileno() in ready
