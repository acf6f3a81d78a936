from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from pytest_airlock.errors import InvalidSpec, ProviderError, ProviderUnavailable, UnknownName
from pytest_airlock.orchestrator.contracts import Providers
from pytest_airlock.orchestrator.providers import GROUP, ProviderRegistry, auto_order
from pytest_airlock.testing import FakeProvider


def broken(name: str) -> FakeProvider:
    provider = FakeProvider(name)
    provider.faults.fail("probe", ProviderUnavailable(name, "no kernel", hint="get one"), times=99)
    return provider


@pytest.fixture
def registry() -> ProviderRegistry:
    return ProviderRegistry(discover=tuple)


def test_r08_the_registry_satisfies_its_protocol(registry: ProviderRegistry) -> None:
    assert isinstance(registry, Providers)


def test_a_provider_is_made_at_first_use_and_once(registry: ProviderRegistry) -> None:
    made = []
    registry.register("mine", lambda: made.append(1) or FakeProvider("mine"))
    assert registry.names() == ["mine"]
    assert made == []
    assert registry.get("mine") is registry.get("mine")
    assert made == [1]


def test_entry_points_are_loaded_lazily_and_the_embedded_one_is_found() -> None:
    point = EntryPoint("late", "no.such.module:Provider", GROUP)
    registry = ProviderRegistry(discover=lambda: [point])
    assert registry.names() == ["late"]
    with pytest.raises(ProviderUnavailable, match=r"no\.such\.module"):
        registry.get("late")


def test_an_entry_point_that_is_no_provider_is_said_to_be_none() -> None:
    registry = ProviderRegistry(discover=lambda: [EntryPoint("odd", "builtins:object", GROUP)])
    with pytest.raises(ProviderUnavailable, match="contract"):
        registry.get("odd")


def test_what_is_registered_by_hand_goes_before_entry_points() -> None:
    registry = ProviderRegistry(discover=lambda: [EntryPoint("mine", "no.such.module:Provider", GROUP)])
    registry.register("mine", lambda: FakeProvider("mine"))
    assert registry.get("mine").name == "mine"


def test_an_unknown_name_lists_the_known_and_the_nearest(registry: ProviderRegistry) -> None:
    registry.register("podman", lambda: FakeProvider("podman"))
    with pytest.raises(UnknownName) as caught:
        registry.get("podmann")
    assert caught.value.nearest == "podman"
    assert caught.value.known == ("auto", "podman")


@pytest.mark.parametrize("name", ["auto", ""])
def test_auto_is_no_name(registry: ProviderRegistry, name: str) -> None:
    with pytest.raises(InvalidSpec):
        registry.register(name, FakeProvider)


def test_a_provider_in_use_cannot_be_replaced(registry: ProviderRegistry) -> None:
    registry.register("mine", lambda: FakeProvider("mine"))
    registry.get("mine")
    with pytest.raises(InvalidSpec, match="in use"):
        registry.register("mine", lambda: FakeProvider("mine"))


def test_auto_is_the_first_that_works_in_order(registry: ProviderRegistry) -> None:
    for provider in (FakeProvider("another"), FakeProvider("docker"), broken("podman"), broken("namespaces")):
        registry.register(provider.name, lambda provider=provider: provider)
    assert registry.get("auto").name == "docker"
    assert registry.get("auto") is registry.get("docker")


def test_auto_without_any_says_why_of_each(registry: ProviderRegistry) -> None:
    for provider in (broken("namespaces"), broken("lima")):
        registry.register(provider.name, lambda provider=provider: provider)
    with pytest.raises(ProviderUnavailable, match=r"namespaces: no kernel \(get one\); lima: no kernel"):
        registry.get("auto")
    with pytest.raises(ProviderUnavailable, match="no provider is installed"):
        ProviderRegistry(discover=tuple).get("auto")


def test_the_order_of_auto() -> None:
    assert auto_order("linux") == ("namespaces", "podman", "docker", "lima")
    assert auto_order("darwin")[0] == "lima"


def test_close_closes_what_was_made_whatever_fails(registry: ProviderRegistry) -> None:
    made = {name: FakeProvider(name) for name in ("a", "b", "c", "unused")}
    for name, provider in made.items():
        registry.register(name, lambda provider=provider: provider)
    for name in ("a", "b", "c"):
        registry.get(name)
    made["a"].faults.fail("close", ProviderError("a", "close", "stuck"))
    with pytest.raises(ProviderError, match="stuck"):
        registry.close(keep={"c"})
    closed = [name for name, provider in made.items() if ("close", "") in provider.calls]
    assert closed == ["a", "b"]
    registry.close()
    assert ("close", "") in made["c"].calls
