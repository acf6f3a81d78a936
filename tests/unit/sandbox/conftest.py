"""A Sandbox over FakeProvider: the smallest backend that keeps the contract."""

from __future__ import annotations

import os

import pytest

from pytest_airlock.errors import StaleSandbox
from pytest_airlock.models import Network, Owner, SandboxInfo, State
from pytest_airlock.providers.base import NetworkRule, ProviderSpec
from pytest_airlock.sandbox import Sandbox
from pytest_airlock.testing import FakeProvider


class FakeBackend:
    """One hand-out of a sandbox of a FakeProvider."""

    def __init__(self, provider: FakeProvider, name: str) -> None:
        self.provider = provider
        self.name = name
        self.timeout = None
        self.stale = False
        self.handle = provider.create(ProviderSpec(name))
        provider.start(self.handle)
        self.clean = provider.snapshot(self.handle)
        self.network = Network()
        self.routes = ()
        self.calls_at_end = []

    def check(self):
        if self.stale:
            raise StaleSandbox(self.name)

    def environ(self):
        self.check()
        return self.provider.environ(self.handle)

    def diff(self, since=None):
        self.check()
        return self.provider.diff(self.handle, since or self.clean)

    def restore(self, snapshot):
        self.check()
        self.provider.stop(self.handle)
        self.provider.restore(self.handle, snapshot)
        self.provider.start(self.handle)
        self._apply()

    def reset(self):
        self.check()
        self.network, self.routes = Network(), ()
        return self.provider.reset(self.handle, self.clean)

    def lock_network(self):
        self._change(Network())

    def unlock_network(self):
        self._change(Network(mode="open"))

    def allow_network(self, entries):
        self._change(Network(mode="allow", allow=(*self.network.allow, *entries)))

    def _change(self, network):
        self.check()
        self.network = network
        self._apply()

    def set_routes(self, routes):
        self.check()
        self.routes = routes
        self._apply()

    def _apply(self):
        self.provider.set_network(self.handle, NetworkRule(self.network.mode, self.network.allow, self.routes))

    def at_end(self, call):
        self.check()
        self.calls_at_end.append(call)

    def end(self):
        self.stale = True
        while self.calls_at_end:
            self.calls_at_end.pop()()

    def info(self):
        self.check()
        return SandboxInfo(
            name=self.name, state=State.RUNNING, provider="fake", profile="cautious", image=None, user="root",
            network=self.network, enforced=(), owner=Owner(pid=1, start_time=1, boot_id=""), created=0.0,
        )  # fmt: skip

    def __getattr__(self, operation):
        method = getattr(self.provider, operation)

        def call(*args, **options):
            self.check()
            return method(self.handle, *args, **options)

        return call


def open_descriptors(provider):
    """How many the process has, once the threads of ended fake processes have closed theirs."""
    world = provider._sandboxes["box"].world
    world.join([task for task in world.tasks if task.exit is not None])
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def descriptors(provider):
    return lambda: open_descriptors(provider)


@pytest.fixture
def provider():
    provider = FakeProvider()
    yield provider
    provider.close()


@pytest.fixture
def backend(provider):
    return FakeBackend(provider, "box")


@pytest.fixture
def box(backend):
    return Sandbox(backend)


@pytest.fixture
def other(provider):
    return Sandbox(FakeBackend(provider, "other"))
