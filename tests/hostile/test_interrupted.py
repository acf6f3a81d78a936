"""What interrupts, stopped children and used-up descriptors do to the fork server and to those who ask it."""

from __future__ import annotations

import _socket
import contextlib
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_airlock.errors import ProviderError
from pytest_airlock.providers.base import ProviderSpec
from pytest_airlock.providers.namespaces import NamespacesProvider
from pytest_airlock.providers.namespaces.client import Engine
from pytest_airlock.providers.namespaces.engine import protocol

ROOT = str(Path(__file__).parents[2])


@pytest.fixture
def own() -> Iterator[NamespacesProvider]:
    """A provider with a fork server that nobody else uses."""
    provider = NamespacesProvider()
    provider.probe()
    yield provider
    provider.close()


def engine(provider: NamespacesProvider) -> Engine:
    assert provider._engine is not None
    return provider._engine


def test_after_an_interrupt_nobody_gets_the_answer_of_another_request(
    own: NamespacesProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C, or the SIGALRM of a time-out plugin, while the fork server is asked: recv(2) raises, the answer still comes."""

    def interrupted(sock: _socket.socket) -> Any:
        raise KeyboardInterrupt

    one, other = own.create(ProviderSpec(name="one")), own.create(ProviderSpec(name="other"))
    for handle in (one, other):
        own.start(handle)
    clean = own.snapshot(one), own.snapshot(other)
    with monkeypatch.context() as patch:
        patch.setattr(protocol, "receive_json", interrupted)
        with pytest.raises(KeyboardInterrupt):
            own.reset(one, clean[0])
    with contextlib.suppress(ProviderError):  # an error is right, and so is the answer that belongs to it
        own.reset(other, clean[1])
        assert own._call("visited", id=own._box(other).number)[0] is False


def test_a_server_without_descriptors_goes_on_serving(own: NamespacesProvider) -> None:
    handle = own.create(ProviderSpec(name="one"))
    own.start(handle)
    clean = own.snapshot(handle)
    server = engine(own)._process.pid
    before = resource.prlimit(server, resource.RLIMIT_NOFILE)
    resource.prlimit(server, resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises((OSError, ProviderError)):
            list(own.diff(handle, clean))
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(server, resource.RLIMIT_NOFILE, before)
    assert own.is_running(handle)


def test_the_soft_limit_of_descriptors_is_not_what_ends_a_crowd(own: NamespacesProvider) -> None:
    """1024 is the usual soft limit, the hard one is far above: 500 sandboxes take 2500."""
    soft, hard = resource.prlimit(engine(own)._process.pid, resource.RLIMIT_NOFILE)
    mine = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, mine[1]))
    try:
        started = Engine()
        try:
            soft, hard = resource.prlimit(started._process.pid, resource.RLIMIT_NOFILE)
        finally:
            started.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, mine)
    assert soft == hard


#: Kills itself while a child of its fork server is stopped.
OWNER = """
import os, signal, sys
from pytest_airlock.providers.base import ProviderSpec
from pytest_airlock.providers.namespaces import NamespacesProvider
provider = NamespacesProvider()
handle = provider.create(ProviderSpec("one"))
provider.start(handle)
server = provider._engine._process.pid
network = provider._engine.found["network_process"]
children = list(map(int, open(f"/proc/{server}/task/{server}/children").read().split()))
undertaker = next(pid for pid in children if pid != network)
helper = {"network process": network, "undertaker": undertaker}[sys.argv[1]]
os.kill(helper, signal.SIGSTOP)
print(server, helper, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("helper", ["network process", "undertaker"])
def test_a_stopped_helper_neither_outlives_a_dead_owner_nor_keeps_its_server(helper: str) -> None:
    owner = subprocess.run(
        [sys.executable, "-c", OWNER, helper], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False, timeout=60
    )
    outlived = [pid for pid in map(int, owner.stdout.split()) if not _ends(pid)]
    for pid in outlived:
        os.kill(pid, signal.SIGKILL)
    assert outlived == []


def _ends(pid: int) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    ended = bool(poll.poll(10_000))
    os.close(pidfd)
    return ended
