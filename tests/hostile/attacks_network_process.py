"""The network process and the dialler, which are one for all sandboxes: a sandbox that holds them up, seen from its neighbour."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterator
from typing import Any

from attacker import Box
from attacks import Fits, attack
from outer import FIRST, PROBES, rule, serving
from weakenings_network import HOPPER_UNGUARDED, LONG_QUESTIONS, NAMES_UNBOUNDED, NO_SHARES, PASSAGES_UNBOUNDED

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


def descriptors(pid: int) -> int:
    """How many a process has open; of others' processes only root may look."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except PermissionError:
        return 0


@attack(
    {"names": 1024, "code of the next": 2, "neighbour": "reached"},
    stops="names with an address are bounded for each sandbox",
    controls={(NAMES_UNBOUNDED,): {"names": 1100, "code of the next": 0, "neighbour": "reached"}},
    users=("root",),
)
def asks_for_ever_more_names(box: Box) -> Any:
    """1,100 names below an allowed wildcard, each of which is one that has an address; then the neighbour."""
    other = box.another()
    with serving() as server:
        to = ("127.0.0.1", server.port)
        rule(box, routes=(Route("*.example.com:80", to), Route("*.example.com:81", to)))
        rule(other, routes=(Route("served.example.org:80", to),))
        answer: Any = box.attack(
            f"""{PROBES}
codes = [asked("n" + str(number) + ".example.com")[0] for number in range(1100)]
answer["names"] = codes.count(0)
answer["code of the next"] = codes[-1]
"""
        )
        seen = other.attack(f"{PROBES}\nasked('served.example.org')\nanswer['it'] = reached(({FIRST!r}, 80))")
        return {**answer, "neighbour": seen["it"]}


@attack(
    Fits(
        "at most 256 connections for it; the neighbour is served",
        lambda seen: 0 < seen["served"] <= 256 and seen["descriptors"] < 7 * 256 and seen["neighbour"] == "reached",
    ),
    stops="connections are bounded for each sandbox; whoever else comes waits in its own kernel",
    controls={(PASSAGES_UNBOUNDED,): Fits("more than 256", lambda seen: seen["served"] > 300)},
    users=("root",),
)
def makes_ten_thousand_connections(box: Box) -> Any:
    """10,000 connections to an allowed server, as many at a time as it may have open; then the neighbour."""
    other, pid = box.another(), network_process(box)
    before = descriptors(pid)
    with serving() as server:
        to = ("127.0.0.1", server.port)
        rule(box, routes=(Route("many.example.com:80", to),))
        rule(other, routes=(Route("served.example.org:80", to),))
        process = box.python(
            f"""{PROBES}
asked("many.example.com")
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
open_ = []
for number in range(10_000):
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(({FIRST!r}, 80))
    open_.append(sock)
    if len(open_) > 900:
        open_.pop(0 if number % 2 else 450).close()
    if number % 20 == 0:
        asked("none.example.org")
served, poll = set(), select.poll()
for sock in open_:
    poll.register(sock, select.POLLIN | select.POLLOUT)
while len(served) <= 300 and (events := poll.poll(5000)):
    for fd, event in events:
        if event & (select.POLLERR | select.POLLHUP):
            poll.unregister(fd)  # there was no room for it
        elif event & select.POLLOUT:
            poll.modify(fd, select.POLLIN)
            tried(os.write, fd, b"x")
        else:
            poll.unregister(fd)
            served.add(fd)
print("ready", flush=True)
print(len(served), flush=True)
signal.pause()
"""
        )
        served = int(process.stdout.readline())
        seen = other.attack(f"{PROBES}\nasked('served.example.org')\nanswer['it'] = reached(({FIRST!r}, 80))")
        most = descriptors(pid) - before
        process.kill_tree()
        return {"served": served, "descriptors": most, "neighbour": seen["it"]}


@attack(
    {"slow": "reached", "neighbour": "reached", "held": True},
    stops="what a reader does not take waits in pipes of bounded size, then at the sender",
    not_shown="bytes are carried within the kernel: there is no place where they could be held",
    users=("root",),
)
def reads_slowly_and_writes_without_end(box: Box) -> Any:
    """Connections to servers of the test that read nothing, each written to until it is full, and replies nobody reads."""
    other, pid = box.another(), network_process(box)
    with serving(deaf=True) as deaf, serving() as server:
        rule(
            box,
            routes=(
                Route("deaf.example.com:80", ("127.0.0.1", deaf.port)),
                Route("s.example.com:80", ("127.0.0.1", server.port)),
            ),
        )
        rule(other, routes=(Route("served.example.org:80", ("127.0.0.1", server.port)),))
        before = memory(pid)
        answer: Any = box.attack(
            f"""{PROBES}
asked("deaf.example.com"), asked("s.example.com")
socks = [socket.create_connection(({FIRST!r}, 80), 30) for _ in range(20)]
for sock in socks:
    sock.setblocking(False)
    try:
        while True:
            sock.send(bytes(1 << 20))
    except BlockingIOError:
        pass
answer["slow"] = reached(("198.18.1.1", 80))
"""
        )
        seen = other.attack(f"{PROBES}\nasked('served.example.org')\nanswer['it'] = reached(({FIRST!r}, 80))")
        return {**answer, "neighbour": seen["it"], "held": memory(pid) - before < 16 << 20}


def network_process(box: Box) -> int:
    assert box.provider._engine is not None
    return int(box.provider._engine.found["network_process"])


def memory(pid: int) -> int:
    """Bytes that a process holds in memory (proc_pid_status(5))."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))


@attack(
    {"too long": "ended", "half": "no answer", "two at once": [3, 3], "neighbour": "reached"},
    stops="a question is 4,096 bytes at most, one connection holds no more, and 64 connections are kept",
    controls={
        (LONG_QUESTIONS,): {"too long": "no answer", "half": "no answer", "two at once": [3, 3], "neighbour": "reached"}
    },
    users=("root",),
)
def asks_oversized_questions_by_tcp(box: Box) -> Any:
    """Questions of 65,535 bytes, half ones, two in one segment, on 200 connections; then the neighbour."""
    other = box.another()
    with serving() as server:
        rule(other, routes=(Route("served.example.org:80", ("127.0.0.1", server.port)),))
        answer: Any = box.attack(
            f"""{PROBES}
def said(data):
    with socket.create_connection(("198.18.0.53", 53), 30) as sock:
        sock.settimeout(2)
        try:
            sock.sendall(data)
            return "answered" if sock.recv(1) else "ended"
        except TimeoutError:
            return "no answer"
        except ConnectionError:
            return "ended"
held = [socket.create_connection(("198.18.0.53", 53), 30) for _ in range(200)]
answer["too long"] = said(b"\\xff\\xff" + bytes(4000))
answer["half"] = said(b"\\0\\x20" + bytes(10))
query = question("none.example.org")
with socket.create_connection(("198.18.0.53", 53), 30) as sock:
    sock.sendall(2 * (struct.pack(">H", len(query)) + query))
    data = b""
    while len(data) < 2 * (2 + len(query)):
        data += sock.recv(600)
    answer["two at once"] = [data[5] & 15, data[2 + len(query) + 5] & 15]
"""
        )
        seen = other.attack(f"{PROBES}\nasked('served.example.org')\nanswer['it'] = reached(({FIRST!r}, 80))")
        return {**answer, "neighbour": seen["it"]}
