"""What the namespaces provider finds on hosts of every kind, from facts and reports."""

from __future__ import annotations

import errno

import pytest

from pytest_airlock.providers.namespaces.examination import findings
from pytest_airlock.providers.namespaces.host_facts import HostFacts

USABLE = {"usable": True, "why": "", "fix": ""}
MISSING = {"usable": False, "why": "read-only", "fix": "unmask it"}
GROUPS = {"cpu": USABLE, "memory": USABLE, "pids": USABLE}
HOST = HostFacts(kernel=(6, 12), release="6.12.1", cgroups="2")
ROOT = {
    "privileged": True,
    "ids": 65_536,
    "idmap": True,
    "idmap_host": True,
    "in_memory": True,
    "groups": [],
    "cgroups": GROUPS,
    "contained": False,
    "network": {"everywhere": True, "v6": True, "recorder": True, "divert": True, "lacking": {}},
}
RANGE = {**ROOT, "privileged": False, "idmap": False, "idmap_host": False}
SINGLE = {**RANGE, "ids": 1, "groups": ["docker"], "lacking": ["newuidmap", errno.ENOENT]}


def told(report, host=HOST):
    return {finding.subject: finding for finding in findings(report, host) if finding.subject != "caveat"}


def caveats(report):
    return " ".join(finding.what for finding in findings(report, HOST) if finding.subject == "caveat")


@pytest.mark.parametrize(
    ("report", "ok", "word"), [(ROOT, True, "root"), (RANGE, True, "range"), (SINGLE, False, "single id")]
)
def test_the_identity_is_root_a_range_or_a_single_id(report, ok, word):
    identity = told(report)["identity"]
    assert identity.ok is ok
    assert word in identity.what


def test_why_there_is_one_id_only_is_told_with_the_fix():
    identity = told(SINGLE)["identity"]
    assert "newuidmap is not installed" in identity.why
    assert "apt-get install uidmap" in identity.fix


def test_groups_that_are_kept_are_named():
    assert told(ROOT)["groups"].ok
    assert "docker" in told(SINGLE)["groups"].what
    assert told(SINGLE)["groups"].fix


def test_image_files_come_by_idmapped_mounts_or_below_a_skeleton():
    assert "idmapped" in told(ROOT)["image files"].what
    for report in (RANGE, {**ROOT, "idmap_host": False}):
        assert "skeleton" in told(report)["image files"].what


def test_the_caveats_are_those_of_the_mode():
    edited, chowned, shared = "not edited in place", "chown to another", "rw mounts only"
    assert [word in caveats(ROOT) for word in (edited, chowned, shared)] == [False, False, False]
    assert [word in caveats(RANGE) for word in (edited, chowned, shared)] == [True, False, False]
    assert [word in caveats(SINGLE) for word in (edited, chowned, shared)] == [True, True, False]
    assert [word in caveats({**ROOT, "idmap_host": False}) for word in (edited, chowned, shared)] == [True, False, True]


def test_files_on_disk_are_told():
    assert "on disk" not in caveats(ROOT)
    assert "on disk" in caveats({**ROOT, "in_memory": False})


@pytest.mark.parametrize("version", ["1", "2", "1 and 2"])
def test_the_version_of_cgroups_and_what_they_limit(version):
    found = told(ROOT, HostFacts(cgroups=version))["cgroups"]
    assert found.ok
    assert found.what == f"version {version}; groups limit cpu, memory, pids"


def test_a_controller_that_is_missing_is_told_with_its_reason():
    found = told({**ROOT, "cgroups": {**GROUPS, "memory": MISSING}})["cgroups"]
    assert (found.ok, found.why, found.fix) == (False, "read-only", "unmask it")
    assert found.what.endswith("limit cpu, pids")
    assert told({**ROOT, "cgroups": dict.fromkeys(GROUPS, MISSING)}, HostFacts())["cgroups"].what.startswith(
        "not mounted"
    )


def test_the_apparmor_restriction_concerns_ordinary_users_only():
    sysctl = {"kernel.apparmor_restrict_unprivileged_userns": "1"}
    ordinary = told(None, HostFacts(sysctl=sysctl))["AppArmor"]
    assert ordinary.ok is False
    assert "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0" in ordinary.fix
    assert told(None, HostFacts(sysctl=sysctl, privileged=True))["AppArmor"].ok
    assert told(None, HostFacts())["AppArmor"].ok


def test_a_masked_proc_is_told_with_the_flags():
    assert told(ROOT)["/proc"].ok
    masked = told(ROOT, HostFacts(proc_masked=True))["/proc"]
    assert masked.ok is False
    assert "systempaths=unconfined" in masked.fix
    assert "read-only" in told(ROOT, HostFacts(proc_sys_read_only=True))["/proc"].what


@pytest.mark.parametrize(
    "host", [HostFacts(user_namespaces=False), HostFacts(sysctl={"user.max_user_namespaces": "0"})]
)
def test_a_host_without_user_name_spaces(host):
    found = told(None, host)["user name spaces"]
    assert found.ok is False
    assert found.fix


def test_without_a_fork_server_only_what_the_host_says_is_told():
    assert not {"identity", "groups", "image files", "cgroups", "caveat"} & set(told(None))
    assert {"kernel", "/proc", "Landlock"} <= set(told(None))


@pytest.mark.parametrize("report", [None, ROOT, RANGE, SINGLE])
def test_whatever_is_not_ok_has_a_reason_and_a_fix(report):
    host = HostFacts(proc_masked=True, sysctl={"kernel.apparmor_restrict_unprivileged_userns": "1"})
    assert [finding for finding in findings(report, host) if finding.ok is False and not finding.why] == []
    assert [finding for finding in findings(report, host) if finding.ok is False and not finding.fix] == []


@pytest.mark.parametrize(
    ("means", "ok", "word"),
    [
        ({}, True, "every try is recorded"),
        ({"v6": False, "lacking": {"v6": ["network IPv6 route", errno.EACCES]}}, True, "no IPv6"),
        ({"recorder": False, "lacking": {"recorder": ["network sockets", errno.EPERM]}}, False, "not known"),
    ],
)
def test_what_is_known_of_the_network_is_told(means, ok, word):
    network = told({**ROOT, "network": {**ROOT["network"], **means}})["network"]
    assert network.ok is ok
    assert word in network.what
    assert ok or "network sockets failed with Operation not permitted" in network.why
