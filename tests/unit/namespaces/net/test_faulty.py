"""Bytes that wait in the network process: bounded, however they come."""

from __future__ import annotations

import socket

import pytest

from pytest_airlock.providers.namespaces.engine.net import faulty
from pytest_airlock.providers.namespaces.engine.net.policy import Fault


def test_who_sends_byte_by_byte_waits_for_room_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faulty, "_PIECES", 10)
    ends = [*socket.socketpair(), *socket.socketpair()]
    sender, source, target, receiver = ends
    source.setblocking(False)
    target.setblocking(False)
    way = faulty._Direction(source, target, Fault(latency=1))
    for number in range(20):
        sender.send(bytes([number]))
        way.take(0)
    assert not way.reads
    assert len(way._pieces) == 10
    for now in (1, 2):
        way.give(now, None)
        way.take(now)
    way.give(3, None)
    assert receiver.recv(100) == bytes(range(20))
    for end in ends:
        end.close()
