"""Rule 13, for network policies: who may change one from outside is the user, and nobody from a sandbox."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from attacker import PATIENCE, Box
from outer import FIRST, PROBES, rule, serving
from test_rules_visits import connected

from pytest_airlock.providers.base import NetworkRule, ResolvedMount, Route
from pytest_airlock.providers.namespaces import NamespacesProvider
from pytest_airlock.providers.namespaces.engine import protocol


@pytest.fixture
def door(box: Box) -> Path:
    return Path(box.handle.data["door"])


def steering(door: Path, box: Box) -> socket.socket:
    """A guest's channel to the network process."""
    with connected(door) as sock:
        sock.send(json.dumps({"steer": box.handle.data["number"]}).encode())
        _, fds, _, _ = socket.recv_fds(sock, 65_536, 8)
    (channel,) = fds
    guest = socket.socket(fileno=channel)
    guest.settimeout(PATIENCE)
    return guest


def test_rule13_no_sandbox_steers_even_where_the_directory_of_the_door_is_shared(
    door: Path, box: Box, make_box: Callable[..., Box], mode: str
) -> None:
    """The mount rules refuse this; the engine does not know them."""
    inside = make_box(mounts=(ResolvedMount(str(door.parent), "/mnt/door", "rw"),))
    told = inside.attack(
        f"""
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
os.chdir("/mnt/door")
answer["connect"] = tried(sock.connect, "{door.name}")
if answer["connect"] == "ok":
    sock.send(b'{{"steer":{box.handle.data["number"]}}}')
    answer["told"] = sock.recv(4096).decode()
"""
    )
    refused = "user" if mode == "root" else "namespace"
    assert told == {"connect": "ok", "told": f'\0{{"refused":"{refused}"}}'}


def test_rule13_no_sandbox_sees_the_door(box: Box, door: Path, users: tuple[str, ...]) -> None:
    for user in users:
        told = box.attack(
            f"""
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
answer["connect"] = tried(sock.connect, {str(door)!r})
answer["listed"] = "airlock" in open("/proc/net/unix").read()
""",
            user=user,
        )
        assert told["connect"] in ("ENOENT", "EACCES")
        assert not told["listed"]


def test_rule13_another_user_does_not_steer(door: Path, box: Box) -> None:
    if os.geteuid():
        pytest.skip("only root can become another user")
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            os.setgroups([])
            os.setresgid(65_534, 65_534, 65_534)
            directory = os.open(door.parent, os.O_PATH)
            os.setresuid(65_534, 65_534, 65_534)
            os.fchdir(directory)
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(door.name)
        except PermissionError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("op", ["socket", "forward", "unforward", "attempts", "rule", "__init__"])
def test_rule13_a_guest_that_steers_can_do_nothing_else(door: Path, box: Box, op: str) -> None:
    with steering(door, box) as guest:
        protocol.send_json(
            guest, {"op": op, "number": 1, "life": 0, "rule": {}, "port": 1, "address": ["127.0.0.1", 1]}
        )
        answered, fds = protocol.receive_json(guest)
    assert fds == []
    assert answered is None or "error" in answered
    assert box.run("true").returncode == 0


def test_rule13_a_guest_steers_no_other_sandbox(door: Path, box: Box, make_box: Callable[..., Box]) -> None:
    other = make_box()
    words = {"mode": "open", "allow": [], "routes": []}
    with serving() as server:
        # So that there are a hopper and a dialler.
        rule(other, routes=(Route("fake.example.com:80", ("127.0.0.1", server.port)),))
        with steering(door, box) as guest:
            life = other.provider._boxes[other.name].born
            protocol.send_json(guest, {"op": "steer", "number": 1, "life": life, "rule": words, "divert": True})
            told, _ = protocol.receive_json(guest)
        assert "ok" in told  # of its own
        code = f"{PROBES}\nanswer['code'] = asked('localhost')[0]\nanswer['other'] = reached(('192.0.2.1', 80))"
        assert other.attack(code) == {"code": 3, "other": "ECONNREFUSED"}
        assert box.attack(code) == {"code": 3, "other": "ECONNRESET"}  # vetted


def test_rule13_a_guest_makes_no_route(door: Path, box: Box) -> None:
    with serving() as server:
        end = ["name", "fake.example.com", 80, 0]
        words = {"mode": "allow", "allow": [], "routes": [[end, ["127.0.0.1", server.port], {}]]}
        rule(box, "10.0.0.1:80")
        with steering(door, box) as guest:
            protocol.send_json(guest, {"op": "steer", "number": 1, "rule": words, "divert": True})
            told, _ = protocol.receive_json(guest)
        assert "ok" in told
        code = f"{PROBES}\nanswer['code'] = asked('fake.example.com')[0]\nanswer['there'] = reached(({FIRST!r}, 80))"
        assert box.attack(code) == {"code": 3, "there": "ECONNREFUSED"}
        assert server.came == []


@pytest.mark.parametrize("junk", [b"\0", b"\0{", b"\0[]", b"\0{}", b"\0" + b"[" * 5000, b"\1", b"x" * 5000])
def test_rule13_what_a_guest_sends_wrongly_ends_its_visit_only(door: Path, box: Box, junk: bytes) -> None:
    with steering(door, box) as guest:
        guest.send(junk)
        guest.shutdown(socket.SHUT_WR)
        guest.recv(4096)
    box.provider.set_network(box.handle, NetworkRule("allow", ("10.0.0.1:80",)))
    assert box.attack(f"{PROBES}\nanswer['code'] = asked('localhost')[0]") == {"code": 3}


def test_rule13_guests_that_say_nothing_are_bounded(door: Path, box: Box, provider: NamespacesProvider) -> None:
    guests = [steering(door, box) for _ in range(40)]
    try:
        provider.set_network(box.handle, NetworkRule("allow", ("10.0.0.1:80",)))
        assert guests[0].recv(100) == b""  # hung up on
    finally:
        for guest in guests:
            guest.close()
