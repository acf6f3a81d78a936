"""The network process and the dialler, which are one for all sandboxes: a sandbox that holds them up, seen from its neighbour."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from typing import Any

from attacker import Box
from attacks import attack
from outer import FIRST, PROBES, rule, serving
from weakenings_network import HOPPER_UNGUARDED, NO_SHARES

from pytest_airlock.providers.base import Fault, Route


@attack(
    {"a new name": [0, FIRST]},
    stops="a life that is over asks for nothing; a request that cannot be made harms none",
    controls={(HOPPER_UNGUARDED,): {"a new name": [2, ""]}},
    users=("root",),
)
def leaves_a_question_that_outlives_it(box: Box) -> Any:
    """Ask for a name that is slow to be answered, and die: what makes sockets for all would be asked for one in no network."""
    other, dying = box.another(), box.another()
    routes = {
        box_: (Route(f"{name}.example.com:80", ("127.0.0.1", 9), Fault(dns_delay=delay)),)
        for box_, name, delay in ((dying, "slow", 0.3), (other, "slower", 1.0))
    }
    for box_, ways in routes.items():
        rule(box_, routes=ways)
    dying.attack(
        f"""{PROBES}
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.sendto(question("slow.example.com"), ("198.18.0.53", 53))
asked("none.example.org")  # by its answer the other has been heard
"""
    )
    box.provider.stop(dying.handle, grace=0)
    return other.attack(f"{PROBES}\nanswer['a new name'] = asked('slower.example.com')")


@contextlib.contextmanager
def that_answers_nobody() -> Iterator[int]:
    """A port of this host at which connections neither come to be nor fail: its queue is full (listen(2))."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(server.getsockname())
        yield server.getsockname()[1]


@attack(
    "served",
    stops="a few questions to the dialler are open for each sandbox, the others of it wait",
    controls={(NO_SHARES,): "not before it is over"},
    users=("root",),
)
def makes_the_dialler_wait_for_who_never_answers(box: Box) -> Any:
    """300 connections to a server that answers nobody; the neighbour wants one to another."""
    other = box.another()
    with that_answers_nobody() as port, serving() as server:
        rule(box, routes=(Route("void.example.com:80", ("127.0.0.1", port)),))
        rule(other, routes=(Route("served.example.com:80", ("127.0.0.1", server.port)),))
        process = box.python(
            f"""{PROBES}
asked("void.example.com")
socks = [socket.socket() for _ in range(300)]
for sock in socks:
    sock.setblocking(False)
    sock.connect_ex(({FIRST!r}, 80))
    asked("none.example.org")  # by its answer it has been accepted
print("ready", flush=True)
select.select(socks[:1], [], [])
print("over", flush=True)
signal.pause()
"""
        )
        seen = other.attack(f"{PROBES}\nasked('served.example.com')\nanswer['it'] = reached(({FIRST!r}, 80))")
        first = select.select([process.stdout], [], [], 0)[0]
        process.kill_tree()
        return "served" if seen["it"] == "reached" and not first else "not before it is over"
