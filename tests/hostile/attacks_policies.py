"""A policy that changes: to keep what the last one gave."""

from __future__ import annotations

from typing import Any

from attacker import Box
from attacks import attack
from outer import FIRST, PROBES, allowed_by_name, rule
from weakenings_network import LISTENERS_STAY, NOT_REVIEWED

#: Connects, says so, and after a line from the test tells what is left.
HELD = f"""{PROBES}
asked(name)
held = socket.create_connection((FIRST, port), 30)
held.settimeout(30)
held.send(b"x")
held.recv(1)
print("ready", flush=True)
sys.stdin.readline()
def kept():
    held.send(b"y")
    if not held.recv(1):
        raise OSError(errno.EPIPE, "")
answer["held"] = tried(kept)
answer["new"] = reached((FIRST, port))
answer["name"] = asked(name)[0]
print(json.dumps(answer), flush=True)
"""


def held(box: Box, change: Any) -> Any:
    """What is left of a connection, of its listener and of its name after a change of the policy."""
    import json

    with allowed_by_name(box) as (name, server):
        words = f"name, FIRST, port = {name!r}, {FIRST!r}, {server.port}\n"
        process = box.python(words + HELD, stdin="pipe")
        came = len(server.came)
        change(server.port)
        process.stdin.write(b"\n")
        process.stdin.close()
        answer = json.loads(process.stdout.readline())
        process.wait(30)
        answer["came"] = len(server.came) - came
        return answer


GONE = {"held": "ECONNRESET", "new": "ECONNREFUSED", "name": 3, "came": 0}


@attack(
    GONE,
    stops="a change resets what the new policy would not let be made, before it is said to be in force",
    controls={
        (NOT_REVIEWED,): {**GONE, "held": "ok"},
        (LISTENERS_STAY,): {**GONE, "new": "ECONNRESET"},
    },
    users=("root",),
)
def keeps_a_connection_when_it_is_locked(box: Box) -> Any:
    """A connection that was allowed; then the sandbox is locked."""
    return held(box, lambda port: rule(box, mode="locked"))


@attack(
    GONE,
    stops="the same: a list that does not name it",
    controls={(NOT_REVIEWED,): {**GONE, "held": "ok"}},
    users=("root",),
)
def keeps_a_connection_when_the_list_is_another(box: Box) -> Any:
    """A connection that was allowed; then a list without it."""
    return held(box, lambda port: rule(box, f"10.0.0.1:{port}"))


@attack(
    {"name": 3, "address": "ECONNREFUSED", "verdicts": ["refused"]},
    stops="another life has a network of its own, born locked",
    not_shown="nothing of the old network is there to be kept",
    users=("root",),
)
def keeps_a_policy_beyond_a_reset(box: Box) -> Any:
    """What was allowed before a reset: its name, its address, and what is recorded."""
    snapshot = box.provider.snapshot(box.handle)
    with allowed_by_name(box) as (name, server):
        box.attack(f"{PROBES}\nasked({name!r})\nreached(({FIRST!r}, {server.port}))")
        box.provider.reset(box.handle, snapshot)
        answer: Any = box.attack(
            f"{PROBES}\nanswer['name'] = asked({name!r})[0]\nanswer['address'] = reached(({FIRST!r}, {server.port}))"
        )
    answer["verdicts"] = sorted({each.verdict for each in box.provider.attempts(box.handle)})
    return answer
