"""Contract 33-36, 41: visits from outside the process that owns the sandbox."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_airlock.conformance.machine import PATIENCE, Machine, all_dead, ended, line
from pytest_airlock.errors import SandboxDied, UnsupportedFeature
from pytest_airlock.providers.attaching import Terminal, TerminalSize, Visit
from pytest_airlock.providers.base import Command, Handle, NetworkRule, Provider, ProviderSpec


@pytest.fixture
def enter(attaches: Any, new_provider: Callable[[], Provider]) -> Iterator[Callable[[Machine], Visit]]:
    """Visits through a provider that knows of the sandbox what its handle says, as in another process."""
    visits: list[Visit] = []

    def enter(box: Machine) -> Visit:
        stranger: Any = new_provider()
        visits.append(stranger.attach(Handle.from_json(json.loads(json.dumps(box.handle.to_json())))))
        return visits[-1]

    yield enter
    for visit in visits:
        visit.close()


def command(visit: Visit, script: str, **words: Any) -> Command:
    return Command(("sh", "-c", script), tuple(visit.environ.items()), **words)


def on_terminal(visit: Visit, script: str, size: TerminalSize) -> Terminal:
    try:
        return visit.terminal(command(visit, script), size)
    except UnsupportedFeature as error:
        pytest.skip(f"terminals: {error.why}")


def test_c33_a_visitor_runs_commands_beside_the_owner(box: Machine, enter: Callable[[Machine], Visit]) -> None:
    box.write("/tmp/theirs", b"1")
    visit = enter(box)
    process = visit.spawn(command(visit, "cat /tmp/theirs; id -u; echo 2 > /tmp/mine; exit 7"))
    assert ended(process).returncode == 7
    assert process.stdout is not None
    assert process.stdout.read() == b"1" + box.run("id", "-u").out
    assert box.read("/tmp/mine") == b"2\n"
    process.close()


def test_c33_the_environment_is_that_of_the_sandbox(
    attaches: Any, make: Callable[..., Machine], enter: Callable[[Machine], Visit]
) -> None:
    box = make(env=(("OWN", "1 2"),))
    assert enter(box).environ == {**attaches.environ(box.handle), "OWN": "1 2"}


def test_c33_errors_are_those_of_spawn(box: Machine, enter: Callable[[Machine], Visit]) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        enter(box).spawn(Command(("conformance-no-such-program",)))
    assert caught.value.filename == "conformance-no-such-program"


def test_c33_what_does_not_run_cannot_be_entered(
    attaches: Any, names: Iterator[str], box: Machine, enter: Callable[[Machine], Visit]
) -> None:
    never = attaches.create(ProviderSpec(next(names)))
    try:
        with pytest.raises(SandboxDied):
            enter(Machine(attaches, never))
    finally:
        attaches.delete(never)
    attaches.stop(box.handle, grace=0.1)
    with pytest.raises(SandboxDied):
        enter(box)


def test_c34_what_a_visit_started_ends_with_it_and_nothing_else(
    box: Machine, enter: Callable[[Machine], Visit]
) -> None:
    with box.process("sh", "-c", "echo here; cat", stdin="pipe") as own:
        line(own)
        visit = enter(box)
        process = visit.spawn(command(visit, "echo here; sleep 1000"))
        line(process)
        visit.close()
        assert all_dead(process)
        process.close()
        assert own.stdin is not None
        own.stdin.write(b"still\n")
        assert line(own) == b"still\n"


@pytest.mark.parametrize("how", ["stop", "delete", "reset"])
def test_c34_the_owner_may_end_it_at_any_time(
    box: Machine, enter: Callable[[Machine], Visit], request: pytest.FixtureRequest, how: str
) -> None:
    snapshots, resets = (request.getfixturevalue(name) if how == "reset" else None for name in ("snapshots", "resets"))
    kept = snapshots.snapshot(box.handle) if snapshots else ""
    visit = enter(box)
    process = visit.spawn(command(visit, "echo here; sleep 1000"))
    line(process)
    if resets:
        resets.reset(box.handle, kept)
    elif how == "stop":
        box.provider.stop(box.handle, grace=0.1)
    else:
        box.provider.delete(box.handle)
    assert all_dead(process)
    with pytest.raises(SandboxDied):
        visit.spawn(command(visit, "true"))
    if how != "stop":  # which asks first, and then its end is told
        with pytest.raises(SandboxDied):
            process.wait(PATIENCE)
    process.close()


def test_c34_two_visitors_are_nothing_to_each_other(box: Machine, enter: Callable[[Machine], Visit]) -> None:
    one, other = enter(box), enter(box)
    process = one.spawn(command(one, "echo here; cat; exit 1", stdin="pipe"))
    line(process)
    other.close()
    assert process.poll() is None
    assert process.stdin is not None
    process.stdin.close()
    assert ended(process).returncode == 1
    process.close()


def test_c35_a_terminal_is_the_controlling_one_and_has_the_size(
    box: Machine, enter: Callable[[Machine], Visit]
) -> None:
    visit = enter(box)
    terminal = on_terminal(visit, "stty -echo; tty < /dev/tty; stty size; read x; stty size", (33, 77))
    assert line(terminal).startswith(b"/dev/")
    assert line(terminal) == b"33 77\r\n"
    terminal.resize((44, 88))
    terminal.stdin.write(b"\r")
    assert line(terminal) in (b"44 88\r\n", b"33 77\r\n")  # size and keys go separate ways
    assert ended(terminal).returncode == 0
    terminal.close()


def test_c35_control_c_interrupts_what_runs_on_it(box: Machine, enter: Callable[[Machine], Visit]) -> None:
    visit = enter(box)
    terminal = on_terminal(
        visit, "stty -echo; trap 'echo caught; exit 3' INT; echo here; while :; do sleep 0.1; done", (24, 80)
    )
    assert line(terminal) == b"here\r\n"
    terminal.stdin.write(b"\x03")
    assert line(terminal).endswith(b"caught\r\n")
    assert ended(terminal).returncode == 3
    terminal.close()


def test_c35_whoever_lets_go_of_a_terminal_hangs_it_up(box: Machine, enter: Callable[[Machine], Visit]) -> None:
    visit = enter(box)
    terminal = on_terminal(visit, "trap 'echo hung up > /tmp/sign; exit' HUP; echo here; read x", (24, 80))
    line(terminal)
    terminal.stdin.close()
    ended(terminal)
    assert box.read("/tmp/sign") == b"hung up\n"
    terminal.close()


def test_c36_a_visited_sandbox_is_not_pristine(
    attaches: Any, make: Callable[..., Machine], enter: Callable[[Machine], Visit]
) -> None:
    box, other = make(), make()
    assert not attaches.visited(box.handle)
    enter(box).close()
    assert attaches.visited(box.handle)
    assert not attaches.visited(other.handle)
    box.restart()
    assert not attaches.visited(box.handle)


def test_c36_a_snapshot_has_what_a_visitor_wrote(
    attaches: Any, box: Machine, snapshots: Any, enter: Callable[[Machine], Visit]
) -> None:
    visit = enter(box)
    process = visit.spawn(command(visit, "echo 1 > /opt/mine"))
    ended(process)
    process.close()
    visit.close()
    kept = snapshots.snapshot(box.handle)
    box.provider.stop(box.handle, grace=0.1)
    snapshots.restore(box.handle, kept)
    box.provider.start(box.handle)
    assert box.read("/opt/mine") == b"1\n"


NAME = "conformance.example.org"


def open_a_network(features: Any) -> None:
    if "network_open" not in features:
        pytest.skip(f"network_open: {features.absent['network_open'].why}")


def verdicts(box: Machine, networks: Any) -> set[str]:
    """Of a question for a name that comes next."""
    before = len(networks.attempts(box.handle))
    box.sh(f"getent hosts {NAME}")
    return {attempt.verdict for attempt in networks.attempts(box.handle)[before:]}


def test_c41_a_visitor_opens_and_locks_and_it_stays_when_he_leaves(
    box: Machine, enter: Callable[[Machine], Visit], networks: Any, features: Any
) -> None:
    open_a_network(features)
    visit = enter(box)
    visit.set_network(NetworkRule("open"))
    assert verdicts(box, networks) == {"allowed"}
    visit.close()
    assert verdicts(box, networks) == {"allowed"}
    enter(box).set_network(NetworkRule("locked"))
    assert verdicts(box, networks) == {"refused"}


def test_c41_a_restart_locks_and_the_visit_is_over(
    box: Machine, enter: Callable[[Machine], Visit], networks: Any, features: Any
) -> None:
    open_a_network(features)
    visit = enter(box)
    visit.set_network(NetworkRule("open"))
    box.restart()
    assert verdicts(box, networks) == {"refused"}
    with pytest.raises(SandboxDied):
        visit.set_network(NetworkRule("open"))
    assert verdicts(box, networks) == {"refused"}
