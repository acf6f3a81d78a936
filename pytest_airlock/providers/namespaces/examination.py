"""What of a host counts for this provider: the findings `airlock doctor` shows (contract 40 of providers/base.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_airlock.providers.base import Finding
from pytest_airlock.providers.namespaces.causes import UNMASK
from pytest_airlock.providers.namespaces.engine import syscalls
from pytest_airlock.providers.namespaces.features import one_id
from pytest_airlock.providers.namespaces.host_facts import HostFacts

__all__ = ["findings"]

_RESTRICTION = "kernel.apparmor_restrict_unprivileged_userns"
_NOTHING = "nothing to do"
Report = Mapping[str, Any]


def findings(report: Report | None, host: HostFacts) -> Sequence[Finding]:
    """`report` is that of a fork server, None where none starts: then only what the host says of itself is told."""
    told = [Finding("kernel", f"{host.describe()}, {os.uname().machine}"), *_user_namespaces(host), _proc(host)]
    if report is not None:
        told += [
            _identity(report, host),
            _groups(report, host),
            _image_files(report),
            _cgroups(report["cgroups"], host),
            _network(report["network"]),
        ]
    told.append(_landlock(syscalls.landlock_version()))
    return told if report is None else [*told, *_caveats(report)]


def _user_namespaces(host: HostFacts) -> Iterator[Finding]:
    most = host.sysctl.get("user.max_user_namespaces", "")
    if not host.user_namespaces:
        yield Finding(
            "user name spaces", "none", False, "this kernel is built without CONFIG_USER_NS", "another kernel"
        )
    elif most == "0":
        fix = "`sudo sysctl -w user.max_user_namespaces=15000`"
        yield Finding("user name spaces", "none", False, "user.max_user_namespaces is 0", fix)
    else:
        yield Finding("user name spaces", f"at most {most}" if most else "no limit is shown", True)
    restricted = host.sysctl.get(_RESTRICTION) == "1"
    if restricted and not host.privileged:
        why = "AppArmor takes the powers from user name spaces that ordinary users make"
        fix = f"`sudo sysctl -w {_RESTRICTION}=0`; docs/where-it-works.md says what it costs, and another way"
        yield Finding("AppArmor", f"{_RESTRICTION} is 1", False, why, fix)
    elif restricted:
        yield Finding("AppArmor", f"{_RESTRICTION} is 1, which does not concern root", True)
    else:
        yield Finding("AppArmor", "does not restrict user name spaces", True)


def _proc(host: HostFacts) -> Finding:
    if host.proc_masked:
        why = "something is mounted over parts of it, so the kernel mounts no other /proc for a sandbox"
        return Finding("/proc", "masked", False, why, UNMASK)
    read_only = ", but /proc/sys is read-only out here" if host.proc_sys_read_only else ""
    return Finding("/proc", f"nothing is masked{read_only}", True)


def _identity(report: Report, host: HostFacts) -> Finding:
    if report["privileged"]:
        whose = "root of a container" if report["contained"] else "root"
        return Finding("identity", f"{whose}: each sandbox has 65,536 ids that nobody else has", True)
    if report["ids"] > 1:
        return Finding("identity", f"uid {os.getuid()} and a range: 65,536 ids", True)
    lacking = one_id(report, host)
    return Finding("identity", f"uid {os.getuid()} alone: a single id", False, lacking.why, lacking.fix)


def _groups(report: Report, host: HostFacts) -> Finding:
    if not report["groups"]:
        return Finding("groups", "no supplementary group of yours is kept", True)
    kept = ", ".join(report["groups"])
    fix = one_id(report, host).fix
    return Finding("groups", f"kept inside: {kept}", False, "they can be dropped only with a range of ids", fix)


def _image_files(report: Report) -> Finding:
    if not report["privileged"]:
        return Finding("image files", "below a skeleton of own directories", True)
    if report["idmap_host"]:
        return Finding("image files", "by idmapped mounts", True)
    why = "no idmapped mounts of /usr: its file system (an overlay, NFS) or root of a container cannot"
    return Finding("image files", "below a skeleton of own directories", None, why, _NOTHING)


def _cgroups(means: Mapping[str, Mapping[str, Any]], host: HostFacts) -> Finding:
    usable = [name for name, mean in means.items() if mean["usable"]]
    version = f"version {host.cgroups}" if host.cgroups else "not mounted"
    what = f"{version}; groups limit {', '.join(usable) or 'nothing'}"
    if len(usable) == len(means):
        return Finding("cgroups", what, True)
    # The others are held by other means; without this one there is no cap on memory at all.
    missing = means["memory"] if "memory" not in usable else next(mean for mean in means.values() if not mean["usable"])
    return Finding("cgroups", what, False, missing["why"], missing["fix"] or _NOTHING)


def _network(means: Report) -> Finding:
    if means["recorder"]:
        kinds = "locked, by a list, or open" if means["divert"] else "locked, or by a list with ports"
        return Finding("network", f"{kinds}; every try is recorded{'' if means['v6'] else '; no IPv6 inside'}", True)
    why = "; ".join(f"{step} failed with {os.strerror(number)}" for step, number in means["lacking"].values())
    return Finding(
        "network", "locked, but what is tried is not known", False, why, "told with the feature network_attempts"
    )


def _landlock(version: int) -> Finding:
    return Finding("Landlock", f"ABI {version}" if version else "not in this kernel")


def _caveats(report: Report) -> Iterator[Finding]:
    """What this mode does not do, whatever the features say."""
    if not report["in_memory"]:
        yield Finding("caveat", "what sandboxes write is on disk, in the cache directory, until their death")
    if not report["idmap_host"]:
        yield Finding(
            "caveat", "a file of the host's root below /usr is replaced, renamed, deleted, but not edited in place"
        )
    if report["ids"] == 1:
        yield Finding(
            "caveat", "all files belong to one user; chown to another is answered with success and changes nothing"
        )
    if report["privileged"] and not report["idmap_host"] and not report["contained"]:
        yield Finding("caveat", "rw mounts only of directories on another file system, as a volume: not of the root's")
    yield Finding("caveat", "renaming a directory of the image is EXDEV (`mv` copies instead)")
