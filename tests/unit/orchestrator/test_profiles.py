"""The four built-in policies and what users add."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_airlock.errors import InvalidSpec, UnknownName
from pytest_airlock.models import Profile
from pytest_airlock.orchestrator.contracts import Profiles
from pytest_airlock.orchestrator.policy.profiles import (
    BUILT_IN,
    DEFAULT_PROFILE,
    ProfileRegistry,
    default_mount_mode,
    rank_of,
)

TABLE = {
    #           project   mounts                 network   allowed                                provision user       nested outlive
    "strict": ("absent", (), "locked", ("locked",), False, "airlock", False, False),
    "cautious": ("cow", ("ro", "cow"), "locked", ("locked",), True, "root", False, False),
    "dev": ("rw", ("ro", "cow", "rw"), "open", ("locked", "allow", "open"), True, "root", True, False),
    "trusted": ("rw", ("ro", "cow", "rw"), "open", ("locked", "allow", "open", "host"), True, "root", True, True),
}


@pytest.fixture
def registry():
    return ProfileRegistry()


@pytest.mark.parametrize("name", TABLE)
def test_r14_the_built_in_profiles_are_those_of_the_table(registry, name):
    profile = registry.get(name)
    columns = ("project", "mounts", "network", "network_allowed", "provision_network", "user", "nested", "outlive")
    assert tuple(getattr(profile, column) for column in columns) == TABLE[name]


def test_r14_they_are_ordered_from_strict_to_trusted(registry):
    assert list(registry.names()) == ["strict", "cautious", "dev", "trusted"]
    assert [registry.get(name).rank for name in registry.names()] == [0, 1, 2, 3]


def test_r14_an_unknown_profile_lists_the_known_and_the_nearest(registry):
    with pytest.raises(UnknownName) as caught:
        registry.get("cautios")
    assert caught.value.known == ("cautious", "dev", "strict", "trusted")
    assert "did you mean 'cautious'?" in str(caught.value)


def test_r11_the_default_is_cautious_locked_and_leaves_the_host_alone(registry):
    profile = registry.get(DEFAULT_PROFILE)
    assert profile.name == "cautious"
    assert profile.network == "locked"
    assert profile.network_allowed == ("locked",)
    assert profile.project == "cow"
    assert default_mount_mode(profile) == "ro"
    assert profile.pass_env == ()


def test_r08_the_registry_is_what_the_contract_says(registry):
    assert isinstance(registry, Profiles)


def test_an_extension_differs_from_its_base_in_what_it_says_alone(registry):
    mine = registry.extend("mine", "cautious", memory="1G", cpu=2)
    assert mine == registry.get("cautious").model_copy(update={"name": "mine", "memory": 1024**3, "cpu": 2})
    assert "mine" in registry.names()


@pytest.mark.parametrize(
    ("base", "changes", "rank"),
    [
        ("cautious", {}, 1),
        ("cautious", {"memory": 1}, 1),
        ("trusted", {"outlive": False, "network_allowed": ["locked"], "network": "locked"}, 2),
        (
            "dev",
            {"network": "locked", "network_allowed": ["locked"], "project": "cow", "mounts": ["ro"], "nested": False},
            1,
        ),
        ("strict", {"mounts": ["ro"]}, 1),
        ("strict", {"user": "root"}, 1),
        ("strict", {"provision_network": True}, 1),
        ("strict", {"project": "rw"}, 2),
        ("strict", {"network_allowed": ["locked", "allow"]}, 2),
        ("strict", {"network_allowed": ["locked", "host"]}, 3),
        ("strict", {"nested": True}, 2),
        ("strict", {"outlive": True}, 3),
        ("strict", {"pass_env": ["TOKEN"]}, 2),
        ("trusted", {"pass_env": ["TOKEN"]}, 3),
    ],
)
def test_r14_the_rank_follows_from_what_is_granted_not_from_the_base(registry, base, changes, rank):
    assert registry.extend("mine", base, **changes).rank == rank


def test_r14_a_rank_that_is_claimed_counts_for_nothing(registry):
    registry.register(BUILT_IN["trusted"].model_copy(update={"name": "harmless", "rank": 0}))
    assert registry.get("harmless").rank == 3


profiles = st.builds(
    Profile,
    name=st.just("any"),
    rank=st.just(0),
    project=st.sampled_from(["absent", "cow", "rw"]),
    mounts=st.lists(st.sampled_from(["ro", "cow", "rw"]), unique=True).map(tuple),
    network=st.just("locked"),
    network_allowed=st.lists(st.sampled_from(["allow", "open", "host"]), unique=True).map(
        lambda more: ("locked", *more)
    ),
    provision_network=st.booleans(),
    user=st.sampled_from(["root", "airlock"]),
    nested=st.booleans(),
    outlive=st.booleans(),
    pass_env=st.sampled_from([(), ("TOKEN",)]),
)


@given(profiles)
@settings(deadline=None)
def test_r14_no_profile_ranks_below_a_built_in_that_grants_less(profile):
    built_in = next(each for each in BUILT_IN.values() if each.rank == rank_of(profile))
    assert set(profile.mounts) <= set(built_in.mounts)
    assert set(profile.network_allowed) <= set(built_in.network_allowed)
    assert ["absent", "cow", "rw"].index(profile.project) <= ["absent", "cow", "rw"].index(built_in.project)
    assert (profile.nested, profile.outlive) <= (True, True)
    assert profile.nested <= built_in.nested
    assert profile.outlive <= built_in.outlive
    assert profile.provision_network <= built_in.provision_network
    assert profile.user == "airlock" or built_in.user == "root"


@pytest.mark.parametrize(
    ("name", "base", "changes", "text"),
    [
        ("mine", "cautius", {}, "did you mean 'cautious'?"),
        ("mine", "cautious", {"netwrok": "open"}, "did you mean 'network'?"),
        ("mine", "cautious", {"rank": 0}, "no such profile setting"),
        ("mine", "cautious", {"network": "open"}, "allows only locked"),
        ("mine", "cautious", {"memory": "4 Gigs"}, "a size is"),
        ("mine", "cautious", {"project": "r/w"}, "'absent', 'cow', 'rw'"),
        ("My Profile", "cautious", {}, "name is made of"),
        ("cautious", "cautious", {"cpu": 1}, "built-in profile cannot be changed"),
    ],
)
def test_a_bad_extension_is_refused_with_why(registry, name, base, changes, text):
    before = registry.names()
    with pytest.raises(InvalidSpec) as caught:
        registry.extend(name, base, **changes)
    assert text in str(caught.value)
    assert registry.names() == before


def test_all_faults_of_an_extension_are_told(registry):
    with pytest.raises(InvalidSpec) as caught:
        registry.extend("mine", "cautious", cpu=0, memory="x")
    assert "cpu" in str(caught.value)
    assert "memory" in caught.value.__notes__[0]


def test_the_same_profile_twice_is_fine_another_of_its_name_is_not(registry):
    registry.extend("mine", "cautious", cpu=1)
    registry.extend("mine", "cautious", cpu=1)
    with pytest.raises(InvalidSpec, match="another profile of that name"):
        registry.extend("mine", "cautious", cpu=2)


def test_registries_share_nothing():
    ProfileRegistry().extend("mine", "cautious")
    assert "mine" not in ProfileRegistry().names()
