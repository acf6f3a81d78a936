"""Routes of a live sandbox: beside the policy, of this process, and gone with a reset."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from orchestrator_helpers import make_manager, make_plan

from pytest_airlock.errors import InvalidTransition, ProviderError, StaleSandbox, StoreError, UnsupportedFeature
from pytest_airlock.models import Network, State
from pytest_airlock.providers.base import FEATURES, Absence, Features, Route
from pytest_airlock.sandbox import Sandbox
from pytest_airlock.testing import FakeProvider

OPEN = Network(mode="open")
ROUTES = (Route("api.example.com:443", ("127.0.0.1", 8443)), Route("*.example.com:80"))
BOOM = ProviderError("fake", "do it", "told so")


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()


@pytest.fixture
def manager(tmp_path: Path, provider: FakeProvider):
    made = make_manager(tmp_path / "state", provider)
    made.create(make_plan())
    provider.calls.clear()
    return made


def in_force(provider: FakeProvider) -> tuple[str, tuple[Route, ...]]:
    rule = provider.rule("box")
    return rule.mode, rule.routes


def test_they_are_in_force_beside_the_recorded_policy(manager, provider: FakeProvider) -> None:
    recorded = manager.store.load("box")
    manager.set_routes("box", ROUTES)
    assert in_force(provider) == ("locked", ROUTES)
    assert manager.store.load("box") == recorded
    manager.set_network("box", OPEN)
    assert in_force(provider) == ("open", ROUTES)
    manager.set_network("box", Network())
    assert in_force(provider) == ("locked", ROUTES)
    manager.set_routes("box", ())
    assert in_force(provider) == ("locked", ())


def test_a_profile_that_is_locked_for_good_has_them_too(tmp_path: Path, provider: FakeProvider) -> None:
    manager = make_manager(tmp_path / "state", provider)
    manager.create(make_plan(profile={"network_allowed": ("locked",)}))
    manager.backend("box").set_routes(ROUTES)
    assert in_force(provider) == ("locked", ROUTES)


def test_a_reset_ends_them(manager, provider: FakeProvider) -> None:
    manager.set_routes("box", ROUTES)
    manager.reset("box")
    assert in_force(provider) == ("locked", ())
    manager.set_network("box", OPEN)
    assert in_force(provider) == ("open", ())


def test_a_reset_without_resets_ends_them(tmp_path: Path) -> None:
    provider = FakeProvider(without=["Resets"])
    manager = make_manager(tmp_path / "state", provider)
    manager.create(make_plan())
    manager.set_routes("box", ROUTES)
    manager.recycle("box")
    assert in_force(provider) == ("locked", ())


@pytest.mark.parametrize("network", [Network(), OPEN], ids=["locked", "open"])
def test_another_life_with_the_same_network_has_them(manager, provider: FakeProvider, network: Network) -> None:
    manager.set_network("box", network)
    manager.set_routes("box", ROUTES)
    manager.restore("box", manager.snapshot("box"))
    assert in_force(provider) == (network.mode, ROUTES)
    manager.stop("box")
    manager.set_routes("box", ROUTES[:1])
    manager.start("box")
    assert in_force(provider) == (network.mode, ROUTES[:1])
    manager.snapshot("box", stop=True)
    assert in_force(provider) == (network.mode, ROUTES[:1])


def test_what_cannot_be_put_in_force_is_not_there(manager, provider: FakeProvider) -> None:
    manager.set_routes("box", ROUTES)
    provider.faults.fail("set_network", BOOM)
    with pytest.raises(ProviderError, match="told so"):
        manager.set_routes("box", ())
    assert in_force(provider) == ("locked", ROUTES)
    manager.set_network("box", OPEN)
    assert in_force(provider) == ("open", ROUTES)


def test_routes_that_can_be_neither_changed_nor_kept_make_it_errored(manager, provider: FakeProvider) -> None:
    provider.faults.fail("set_network", BOOM, times=2)
    with pytest.raises(ProviderError):
        manager.set_routes("box", ROUTES)
    assert manager.status("box").state is State.ERRORED
    with pytest.raises(InvalidTransition):
        manager.set_routes("box", ())


def test_a_policy_that_cannot_be_recorded_leaves_them(manager, provider: FakeProvider, monkeypatch) -> None:
    manager.set_routes("box", ROUTES)

    def save(record) -> None:
        raise StoreError("records/box.json", "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(manager.store, "save", save)
        with pytest.raises(StoreError):
            manager.set_network("box", OPEN)
    assert in_force(provider) == ("locked", ROUTES)


def test_a_provider_that_cannot_lead_says_why(tmp_path: Path) -> None:
    absent = {"network_routes": Absence("no user name spaces", "allow them")}
    able = Features(frozenset(FEATURES) - {"network_routes"}, absent)
    for provider, why in (
        (FakeProvider(features=able), "no user name spaces\n  hint: allow them"),
        (FakeProvider(features=frozenset(FEATURES) - {"network_routes"}), "network_routes"),
        (FakeProvider(without=["Networks"]), "choose another provider"),
    ):
        manager = make_manager(tmp_path / str(id(provider)), provider)
        manager.create(make_plan())
        with pytest.raises(UnsupportedFeature, match=why) as caught:
            manager.set_routes("box", ROUTES)
        assert caught.value.feature == "network_routes"
        manager.set_routes("box", ())  # nothing is asked for
        with pytest.raises(UnsupportedFeature):
            Sandbox(manager.backend("box")).network.serve("http://a.test", {})
        assert [thread for thread in threading.enumerate() if thread.name.startswith("airlock-serve")] == []


def test_letting_go_ends_them(tmp_path: Path) -> None:
    """The sandbox lives on, and the ports of this process do not."""
    provider = FakeProvider()
    manager = make_manager(tmp_path / "state", provider)
    manager.create(make_plan(profile={"outlive": True}))
    manager.set_routes("box", ROUTES)
    manager.let_go("box")
    assert in_force(provider) == ("locked", ())


@pytest.mark.parametrize("how", ["recycle", "destroy", "let_go"])
def test_what_is_served_ends_with_the_hand_out(tmp_path: Path, provider: FakeProvider, how: str) -> None:
    manager = make_manager(tmp_path / "state", provider)
    manager.create(make_plan(profile={"outlive": True}))
    sandbox = Sandbox(manager.backend("box"))
    served = sandbox.network.serve("http://a.test", {"/": "x"})
    getattr(manager, how)("box")
    assert [thread for thread in threading.enumerate() if thread.name.startswith("airlock-serve")] == []
    served.close()
    with pytest.raises(StaleSandbox):
        sandbox.network.serve("http://a.test", {})


def test_what_is_left_for_the_end_is_done_once(manager) -> None:
    done = []
    handout = manager.backend("box")
    handout.at_end(lambda: done.append(1))
    manager.recycle("box")
    manager.recycle("box")
    handout.end()
    assert done == [1]
    with pytest.raises(StaleSandbox):
        handout.at_end(lambda: None)
    with pytest.raises(StaleSandbox):
        handout.set_routes(())
