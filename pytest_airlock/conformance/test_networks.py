"""Contract 5, 23, 25, 26: the network."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_airlock.conformance.machine import Machine
from pytest_airlock.providers.base import NetworkRule, Snapshots

NAME = "conformance.example.org"
CONNECT = """
import socket, sys
for host in sys.argv[2:]:
    try:
        socket.create_connection((host, int(sys.argv[1])), 3).close()
    except OSError:
        pass
"""


class Listener:
    """A server on every address of this host, which counts who comes."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("", 0))
        self.port = self._socket.getsockname()[1]
        self.hosts = sorted({"127.0.0.1", "localhost", *_own_addresses()})
        self.visitors: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                visitor, address = self._socket.accept()
            except OSError:
                return
            self.visitors.append(address[0])
            visitor.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _own_addresses() -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    except socket.gaierror:
        return set()


@pytest.fixture
def listener() -> Iterator[Listener]:
    server = Listener()
    yield server
    server.close()


def locked(box: Machine) -> bool:
    """No name is found. (A missing getent counts as none: the listener is the stronger test.)"""
    return box.sh(f"getent hosts {NAME}").returncode != 0


def test_c05_it_is_born_locked(box: Machine) -> None:
    assert locked(box)


def test_c05_no_address_of_the_host_is_reached(box: Machine, listener: Listener) -> None:
    try:
        box.run("python3", "-c", CONNECT, str(listener.port), *listener.hosts)
    except FileNotFoundError:
        pytest.skip("the image has no python3 with which to try connections")
    assert listener.visitors == []
    socket.create_connection(("127.0.0.1", listener.port)).close()  # the listener does listen


def test_c23_a_reset_locks(box: Machine, networks: Any, resets: Any, snapshots: Any, features: Any) -> None:
    if "network_open" not in features:
        pytest.skip(f"network_open: {features.absent['network_open'].why}")
    clean = snapshots.snapshot(box.handle)
    networks.set_network(box.handle, NetworkRule("open"))
    resets.reset(box.handle, clean)
    assert locked(box)
    assert {attempt.verdict for attempt in networks.attempts(box.handle)} == {"refused"}


def test_c25_a_policy_is_in_force_when_the_call_returns(box: Machine, networks: Any, features: Any) -> None:
    if "network_allow" not in features:
        pytest.skip(f"network_allow: {features.absent['network_allow'].why}")
    networks.set_network(box.handle, NetworkRule("allow", ("somewhere-else.example.org:443",)))
    assert locked(box)
    networks.set_network(box.handle, NetworkRule("locked"))
    assert locked(box)


def test_c26_attempts_are_all_there_in_order_until_a_start(box: Machine, networks: Any, features: Any) -> None:
    if "network_attempts" not in features:
        pytest.skip(f"network_attempts: {features.absent['network_attempts'].why}")
    assert list(networks.attempts(box.handle)) == []
    for host in ("one.example.org", "two.example.org"):
        box.sh(f"getent hosts {host}")
    found = networks.attempts(box.handle)
    hosts = list(dict.fromkeys(attempt.host for attempt in found))
    assert hosts == ["one.example.org", "two.example.org"]
    assert {attempt.verdict for attempt in found} == {"refused"}
    assert [attempt.time for attempt in found] == sorted(attempt.time for attempt in found)
    assert box.run("true").returncode == 0
    box.write("/opt/f", b"1")
    if isinstance(box.provider, Snapshots):
        box.provider.snapshot(box.handle)
        assert list(networks.attempts(box.handle)) == list(found)
    box.restart()
    assert list(networks.attempts(box.handle)) == []
