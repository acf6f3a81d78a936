"""What the provider says it can enforce, from what the fork server found; and the limits of one sandbox."""

from __future__ import annotations

import errno

import pytest

from pytest_airlock.providers.base import FEATURES, ProviderSpec
from pytest_airlock.providers.namespaces import features
from pytest_airlock.providers.namespaces.limits import sandbox_limits

USABLE = {"usable": True, "version": 2, "why": "", "fix": ""}
MISSING = {"usable": False, "why": "no such hierarchy", "fix": "mount it"}


def report(**changes):
    lacking = ["newuidmap", errno.ENOENT]
    found = {"privileged": True, "ids": 65_536, "idmap": True, "groups": [], "cgroups": {}, "lacking": lacking}
    found |= {"attributes": True, "contained": False, "landlock": 7, "in_memory": True}
    found["network"] = {"everywhere": True, "v6": True, "recorder": True, "divert": True, "lacking": {}}
    return {**found, **changes}


NOTHING = {
    "everywhere": False,
    "v6": False,
    "recorder": False,
    "divert": False,
    "lacking": {"everywhere": ["network route", errno.EPERM]},
}
HEARS = {"everywhere": True, "v6": True, "recorder": True, "divert": True}
DEAF = {**HEARS, "recorder": False, "lacking": {"recorder": ["network sockets", errno.EPERM]}}
WITHOUT_NFT = {**HEARS, "divert": False, "lacking": {"divert": ["network divert", errno.EOPNOTSUPP]}}


def test_every_word_is_one_of_the_contract_and_none_is_both():
    for changes in (
        {},
        {"ids": 1},
        {"idmap": False},
        {"groups": ["docker"]},
        {"cgroups": {"memory": MISSING}},
        {"landlock": 0},
        {"network": NOTHING},
        {"network": WITHOUT_NFT},
    ):
        found = features.found(report(**changes))
        assert set(found.present) | set(found.absent) <= set(FEATURES)
        assert not set(found.present) & set(found.absent)


def test_memory_is_there_only_with_a_control_group():
    assert "memory" in features.found(report(cgroups={"memory": USABLE}))
    found = features.found(report(cgroups={"memory": MISSING}))
    assert "memory" not in found
    assert found.absent["memory"].why == "no such hierarchy"
    assert found.absent["memory"].fix == "mount it"


def test_ports_that_nothing_can_reach_are_left_out():
    assert "leave ports= out" in features.found(report(network=NOTHING)).absent["ports"].fix
    assert "ports" in features.found(report(network=DEAF))


def test_one_id_means_no_many_users_and_says_what_to_install():
    found = features.found(report(ids=1, privileged=False, idmap=False))
    assert "many_users" not in found
    assert "uidmap" in found.absent["many_users"].fix


@pytest.mark.parametrize(("groups", "dropped"), [([], True), (["users"], True), (["users", "docker"], False)])
def test_rule10_groups_with_power_over_the_host_are_named(groups, dropped):
    found = features.found(report(ids=1, privileged=False, groups=groups))
    assert ("groups_dropped" in found) is dropped
    if not dropped:
        assert "docker" in found.absent["groups_dropped"].why


def test_root_without_idmapped_mounts_cannot_share_directories_and_says_so():
    found = features.found(report(idmap=False))
    assert "mount_rw" not in found
    assert "cow" in found.absent["mount_rw"].fix


def test_sizes_count_as_enforced_only_when_given():
    found = features.found(report(cgroups={"memory": USABLE, "cpu": USABLE}))
    sizes = {"cpu", "memory", "disk", "address_space"}
    assert not sizes & set(features.enforced(ProviderSpec("a"), found))
    spec = ProviderSpec("a", cpu=1, memory=1 << 26, disk=1 << 26, address_space=1 << 26)
    assert sizes <= set(features.enforced(spec, found))


@pytest.mark.parametrize(("abi", "there"), [(0, False), (1, False), (2, True), (7, True)])
def test_landlock_is_a_fact_and_the_reason_where_it_is_none(abi, there):
    found = features.found(report(landlock=abi))
    assert ("landlock" in found) == there
    assert ("landlock" in features.enforced(ProviderSpec("a"), found)) == there
    assert there or "lsm=" in found.absent["landlock"].fix


def test_landlock_with_nested_name_spaces_is_no_wall_for_files_so_it_is_not_claimed():
    assert "landlock" not in features.enforced(ProviderSpec("a", nested=True), features.found(report()))


def test_an_address_space_is_a_limit_of_its_own_and_no_memory():
    found = features.found(report(cgroups={"memory": USABLE}))
    limits = sandbox_limits(ProviderSpec("a", address_space=1 << 28), found, uid=0)
    assert ("RLIMIT_AS", 1 << 28, 1 << 28) in limits["limits"]
    assert limits["group"] == {}
    memory = sandbox_limits(ProviderSpec("a", memory=1 << 28), found, uid=0)
    assert "RLIMIT_AS" not in {name for name, _, _ in memory["limits"]}


def test_cpu_is_a_quota_where_there_is_a_group_and_an_affinity_elsewhere():
    with_group = features.found(report(cgroups={"cpu": USABLE, "pids": USABLE}))
    limits = sandbox_limits(ProviderSpec("a", cpu=1), with_group, uid=0)
    assert limits["affinity"] == 0
    assert limits["group"]["cpu"] == 1
    without = sandbox_limits(ProviderSpec("a", cpu=1), features.found(report()), uid=0)
    assert without["affinity"] == 1
    assert without["group"] == {}


def test_the_disk_leaves_half_of_the_memory_that_is_enforced():
    capped = features.found(report(cgroups={"memory": USABLE}))
    spec = ProviderSpec("a", memory=1 << 26, disk=1 << 31)
    assert sandbox_limits(spec, capped, uid=0)["disk"] == 1 << 25
    assert sandbox_limits(spec, features.found(report()), uid=0)["disk"] == 1 << 31
    asked = ProviderSpec("a", memory=1 << 26, disk=1 << 31, required=frozenset({"disk"}))
    assert sandbox_limits(asked, capped, uid=0)["disk"] == 1 << 31


def test_a_sandbox_without_limits_joins_no_group_but_has_bounds():
    limits = sandbox_limits(ProviderSpec("a"), features.found(report(cgroups={"pids": USABLE})), uid=0)
    assert limits["group"] == {}
    assert limits["disk"] > 0
    assert 0 < limits["inodes"] <= 1_000_000
    assert ("RLIMIT_CORE", 1, 1) in limits["limits"]


def test_without_mount_setattr_there_are_no_rw_mounts():
    for changes in ({}, {"privileged": False}):
        found = features.found(report(attributes=False, **changes))
        assert "mount_rw" not in found
        assert "mount_setattr" in found.absent["mount_rw"].why


def test_root_of_a_container_shares_no_directory_read_write():
    found = features.found(report(contained=True))
    assert "mount_rw" not in found
    assert "ordinary user" in found.absent["mount_rw"].fix
    assert "many_users" in found


@pytest.mark.parametrize(("network", "step"), [(NOTHING, "network route"), (DEAF, "network sockets")])
def test_where_tries_are_not_recorded_the_reason_is_told_and_the_network_is_locked_all_the_same(network, step):
    found = features.found(report(network=network))
    assert "network_locked" in found
    assert "network_attempts" not in found
    assert step in found.absent["network_attempts"].why
    assert "network_attempts" in features.found(report())


def test_without_nf_tables_a_network_is_not_open_and_lists_work_all_the_same():
    found = features.found(report(network=WITHOUT_NFT))
    assert "modprobe" in found.absent["network_open"].fix
    assert {"network_locked", "network_allow", "network_routes", "network_attempts", "network_host"} <= found.present


def test_with_the_network_of_the_host_nothing_of_ours_is_claimed_for_it():
    claimed = features.enforced(ProviderSpec("a", shares_network=True), features.found(report()))
    assert [word for word in claimed if word.startswith("network_")] == ["network_host"]
    assert "network_host" not in features.enforced(ProviderSpec("a"), features.found(report()))
