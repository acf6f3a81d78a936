"""From what the fork server found to what the provider can enforce here and now."""

from __future__ import annotations

from collections.abc import Mapping
from errno import EOPNOTSUPP
from typing import Any

from pytest_airlock.providers.base import Absence, Features, ProviderSpec
from pytest_airlock.providers.namespaces.diagnosis import explain
from pytest_airlock.providers.namespaces.host_facts import HostFacts

__all__ = ["enforced", "found", "one_id"]

_NO_FACTS = HostFacts()
_NETWORKS = ("network_allow", "network_routes", "network_open")
_NO_PORTS = "leave ports= out, and reach the port by a command that runs inside"
_ALWAYS = frozenset(
    {
        "network_locked",
        "network_host",
        "mount_ro",
        "mount_cow",
        "mount_rw",
        "user_root",
        "user_ordinary",
        "cpu",
        "disk",
        "pids",
        "syscall_filter",
        "private_proc",
        "nested",
        "image_host",
        "image_rootfs",
        "snapshots",
        "diff",
        "address_space",
    }
)
#: Groups that are as good as root on the host.
_POWERFUL = frozenset(
    {"adm", "disk", "docker", "incus", "kmem", "kvm", "libvirt", "lxd", "root", "shadow", "sudo", "video", "wheel"}
)
_WISHES = ("cpu", "memory", "disk", "address_space")
#: With it file rules came that let files be moved (landlock(7)).
_LANDLOCK_ABI = 2
_SCOPED_ABI = 6  # landlock(7): abstract sockets end at the sandbox


def one_id(report: Mapping[str, Any], host: HostFacts) -> Absence:
    """Why a sandbox has one user id only."""
    step, number = report["lacking"]
    error = explain(step, number, "", host)
    return Absence(error.why, error.hint)


def _network(network: Mapping[str, Any], host: HostFacts) -> dict[str, Absence]:
    """What of a network cannot be had here, and why; it is locked all the same."""

    def absence(part: str, fix: str = "") -> Absence:
        step, number = network["lacking"][part]
        error = explain(step, number, "", host)
        return Absence(getattr(error, "why", str(error)), fix or error.hint or "")

    absent: dict[str, Absence] = {}
    if not network["everywhere"]:
        absent |= dict.fromkeys(("network_attempts", *_NETWORKS), absence("everywhere"))
        return {**absent, "ports": absence("everywhere", _NO_PORTS)}
    if not network["recorder"]:
        absent["network_attempts"] = absence("recorder")
    if not network["divert"]:
        absent["network_open"] = absence("divert")
    return absent


def _landlock(abi: int) -> dict[str, Absence]:
    if abi >= _LANDLOCK_ABI:
        return {}
    why = "this kernel has no Landlock, or none with ABI 2: the second wall is missing, the first stands"
    return {"landlock": Absence(why, "Linux 5.19 or newer with landlock in its kernel parameter lsm=")}


def _landlock_notes(abi: int) -> list[str]:
    notes = [f"landlock ABI {abi}"] if abi >= _LANDLOCK_ABI else []
    if abi < _SCOPED_ABI:
        notes.append('network="host" lets abstract unix sockets of this host be reached, which Landlock ABI 6 closes')
    return notes


def found(report: Mapping[str, Any], host: HostFacts = _NO_FACTS) -> Features:
    """Features from the report of a fork server that built its private root."""
    present = set(_ALWAYS)
    absent = _network(report["network"], host)
    present |= {"network_attempts", "ports", *_NETWORKS} - absent.keys()
    absent["outlives"] = Absence("everything of this provider dies with its owner", "what is kept is exported as files")
    if report["ids"] > 1:
        present.add("many_users")
    else:
        absent["many_users"] = one_id(report, host)
    if not report["in_memory"]:
        present.discard("disk")
        error = explain("tmpfs attributes", EOPNOTSUPP, "", host)
        absent["disk"] = Absence(error.why, error.hint)
    notes = []
    kept = report["groups"]
    if kept:
        notes.append(f"commands keep the host's supplementary groups {', '.join(kept)}: there is one id only")
    powerful = sorted(_POWERFUL & set(kept))
    if powerful:
        fix = one_id(report, host).fix
        absent["groups_dropped"] = Absence(f"commands would keep the groups {', '.join(powerful)}", fix)
    else:
        present.add("groups_dropped")
    groups: dict[str, Any] = report["cgroups"]
    for name in ("cpu", "memory", "pids"):
        means = groups.get(name, {"usable": False, "why": "no such control group", "fix": ""})
        if means["usable"]:
            notes.append(f"cgroup {name} limits, version {means['version']}")
            present.add(name)
        elif name == "memory":
            absent[name] = Absence(means["why"], means["fix"])
    absent |= _landlock(report["landlock"])
    present |= {"landlock"} - absent.keys()
    notes += _landlock_notes(report["landlock"])
    if not report["attributes"]:
        present.discard("mount_rw")
        absent["mount_rw"] = Absence("mount_setattr(2) is not there: old kernel or filter", 'mount with mode "cow"')
    elif report["contained"]:
        present.discard("mount_rw")
        absent["mount_rw"] = Absence(
            "sandbox root has an id of its own, and to map files to it (idmapped mounts) root of a container needs CAP_SYS_ADMIN",
            'mount with mode "cow", or run as an ordinary user of the container, or `docker run --cap-add SYS_ADMIN`',
        )
    elif report["privileged"] and not report["idmap"]:
        present.discard("mount_rw")
        absent["mount_rw"] = Absence(
            "sandbox root has an id of its own and this kernel cannot map it (idmapped mounts)",
            'mount with mode "cow", or run as an ordinary user',
        )
    return Features(frozenset(present), absent, tuple(notes))


def enforced(spec: ProviderSpec, features: Features) -> tuple[str, ...]:
    """What is enforced for this sandbox: everything present, but of the sizes only those that were given.

    Landlock's file rules forbid to mount, so a sandbox with nested name spaces has none.
    """
    left_out = {name for name in _WISHES if getattr(spec, name) is None}
    if spec.nested:
        left_out.add("landlock")
    if spec.shares_network:
        left_out |= {"network_locked", "network_attempts", *_NETWORKS}
    else:
        left_out.add("network_host")
    return tuple(sorted(features.present - left_out))
