"""The network process, the dialler and what makes sockets: whichever is killed, the sandbox is closed, and the test is told."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attacker import Box, is_gone
from outer import FIRST, PROBES, rule, serving

from pytest_airlock.errors import ProviderError
from pytest_airlock.providers.base import NetworkRule, Route
from pytest_airlock.providers.namespaces import NamespacesProvider


@pytest.fixture
def mortal() -> Iterator[Box]:
    """A sandbox of a provider of its own, whose processes may be killed."""
    provider = NamespacesProvider()
    provider.probe()
    box = Box(provider, "mortal")
    try:
        yield box
    finally:
        with contextlib.suppress(ProviderError):
            box.delete()
        provider.close()


def network_process(box: Box) -> int:
    assert box.provider._engine is not None
    return int(box.provider._engine.found["network_process"])


def dialler(box: Box) -> int:
    assert box.provider._engine is not None
    assert box.provider._engine._dialler is not None
    return box.provider._engine._dialler.pid


def hopper(box: Box) -> int:
    """Of the fork server's children the one that is neither the network process nor anybody's first process."""
    engine = box.provider._engine
    assert engine is not None
    server = engine._process.pid
    children = map(int, Path(f"/proc/{server}/task/{server}/children").read_text().split())
    ours = os.readlink(f"/proc/{server}/ns/pid") if os.access(f"/proc/{server}/ns/pid", os.R_OK) else ""
    return next(
        pid
        for pid in sorted(children, reverse=True)
        if pid not in (network_process(box), box.init) and ours in ("", os.readlink(f"/proc/{pid}/ns/pid"))
    )


def kill(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert is_gone(pidfd)
    finally:
        os.close(pidfd)


HELD = f"""{PROBES}
asked("fake.example.com")
held = socket.create_connection(({FIRST!r}, 80), 30)
held.send(b"x"); held.recv(1)
print("ready", flush=True)
sys.stdin.readline()
held.settimeout(30)
def kept():
    held.send(b"y")
    if not held.recv(1):
        raise OSError(errno.EPIPE, "")
answer["held"] = tried(kept)
answer["new"] = reached(({FIRST!r}, 80))
answer["name"] = asked("another.example.com")[0]
print(json.dumps(answer), flush=True)
"""


def after(box: Box, who: Callable[[Box], int]) -> Any:
    """What a program sees that was connected when the process was killed."""
    import json

    with serving() as server:
        to = ("127.0.0.1", server.port)
        rule(box, routes=(Route("fake.example.com:80", to), Route("another.example.com:80", to)))
        process = box.python(HELD, stdin="pipe")
        kill(who(box))
        process.stdin.write(b"\n")
        process.stdin.close()
        answer = json.loads(process.stdout.readline())
        process.wait(30)
        return answer


def test_without_the_network_process_all_is_refused_and_the_test_is_told(mortal: Box) -> None:
    seen = after(mortal, network_process)
    assert seen["held"] in ("EPIPE", "ECONNRESET")
    assert (seen["new"], seen["name"]) == ("ECONNREFUSED", "ECONNREFUSED")
    with pytest.raises(ProviderError, match="network process"):
        mortal.provider.set_network(mortal.handle, NetworkRule("open"))
    with pytest.raises(ProviderError, match="network process"):
        mortal.provider.attempts(mortal.handle)
    assert mortal.run("true").returncode == 0


def test_without_the_dialler_what_is_new_is_reset_and_the_next_policy_has_another(mortal: Box) -> None:
    seen = after(mortal, dialler)
    assert (seen["held"], seen["new"]) == ("ok", "ECONNRESET")  # what is carried needs no dialler
    with serving() as server:
        rule(mortal, routes=(Route("fake.example.com:81", ("127.0.0.1", server.port)),))
        again = mortal.attack(f"{PROBES}\nanswer['again'] = reached(({FIRST!r}, 81))")
    assert again == {"again": "reached"}


def test_without_what_makes_sockets_no_name_is_new_and_the_next_policy_has_another(mortal: Box) -> None:
    seen = after(mortal, hopper)
    # What listens already still does.
    assert seen == {"held": "ok", "new": "reached", "name": 2}
    told = False
    with serving() as server:
        route = Route("fake.example.com:81", ("127.0.0.1", server.port))
        try:
            rule(mortal, routes=(route,))
        except ProviderError:
            told = True
            rule(mortal, routes=(route,))
        again = mortal.attack(f"{PROBES}\nanswer['again'] = reached(({FIRST!r}, 81))")
    assert (again, told) == ({"again": "reached"}, True)
