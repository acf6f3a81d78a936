"""A merged spec and its profile to a Plan: every question answered before anything is made.

The profile's defaults fill what is not set and its limits bind what is. Required of the provider is what was *set*,
plus isolation; what a profile or a built-in default says about resources is a wish.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pytest_airlock.errors import InvalidSpec, MountForbidden, ProfileForbids
from pytest_airlock.models import (
    DEFAULT_DISK,
    DEFAULT_TIMEOUT,
    Mount,
    Network,
    NetworkMode,
    Profile,
    RuntimeGuess,
    SandboxSpec,
)
from pytest_airlock.orchestrator.contracts import Detector, MountRules, Need, Plan, Profiles
from pytest_airlock.orchestrator.policy.merge import DEFAULT_PROFILE
from pytest_airlock.orchestrator.policy.names import MAX_NAME, check_name
from pytest_airlock.orchestrator.policy.networks import check_network, modes_of
from pytest_airlock.orchestrator.policy.provision import resolve_commands
from pytest_airlock.providers.base import ProviderSpec, ResolvedMount

__all__ = ["is_project", "plan"]

#: What makes a directory a project: settings of pytest, a pyproject.toml, or version control.
_PROJECT_FILES = (
    *("pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini", "setup.cfg", "pyproject.toml"),
    *(".git", ".hg", ".svn", ".jj", ".bzr", "_darcs"),
)
_SIZES = ("cpu", "memory", "disk", "address_space")
_NETWORK_FEATURES: Mapping[NetworkMode, str] = {
    "locked": "network_locked",
    "allow": "network_allow",
    "open": "network_open",
    "host": "network_host",
}


@dataclass(frozen=True, slots=True)
class _Project:
    """The project as it is seen inside, or None and why (a note for the report, "" = nothing to say)."""

    mount: ResolvedMount | None = None
    note: str = ""


def plan(
    spec: SandboxSpec,
    *,
    profiles: Profiles,
    mount_rules: MountRules,
    detector: Detector,
    name: str,
    project_root: Path | None = None,
    inipath: Path | None = None,
    default_profile: str = DEFAULT_PROFILE,
    max_profile: str | None = None,
    default_provider: str = "auto",
    name_limit: int = MAX_NAME,
    environ: Mapping[str, str] | None = None,
) -> Plan:
    """Resolve `spec` for a sandbox called `name`.

    `project_root` is pytest's root directory and `inipath` its ini file; relative paths of the spec start at the root.
    `max_profile` is the laxest that may be chosen. `environ` is the host's, of which a profile may pass names.
    Raises UnknownName, InvalidName, InvalidSpec, MountForbidden, ProvisionForbidden, ProfileForbids.
    """
    check_name(name, name_limit)
    profile = _profile(spec, profiles, default_profile, max_profile)
    network = _network(spec, profile)
    user = _user(spec, profile)
    if spec.keep and not profile.outlive:
        raise ProfileForbids(profile.name, "keep=True", hint="profile='trusted' lets a sandbox outlive the run")
    project = _project(spec, profile, mount_rules, project_root, inipath)
    mounts = _mounts(spec, profile, mount_rules, project.mount, project_root)
    runtime, install = _runtime(spec, profile, detector, project.mount)
    provision = install + resolve_commands(spec.provision)
    image = _image(spec, mount_rules, project_root)
    provider_spec = ProviderSpec(
        name=name,
        image=image,
        user=user,
        env=_environment(spec, profile, os.environ if environ is None else environ),
        cwd=project.mount.target if project.mount else None,
        mounts=mounts,
        expose=_expose(spec, project.mount),
        nested=_nested(spec, profile),
        shares_network=network.mode == "host",
        cpu=profile.cpu if spec.cpu is None else spec.cpu,
        memory=profile.memory if spec.memory is None else spec.memory,
        disk=next(disk for disk in (spec.disk, profile.disk, DEFAULT_DISK) if disk is not None),
        address_space=spec.address_space,
        required=_required(spec, network, user, mounts, image) | _STRICTER.get(profile.rank, frozenset()),
    )
    provider_name = default_provider if spec.provider is None else spec.provider
    # Provisioning runs in the network the tests get: a locked sandbox is provisioned locked.
    provision_network = network if provision and network.mode != "locked" else None
    return Plan(
        spec=spec,
        profile=profile,
        provider_name=provider_name,
        provider_spec=provider_spec,
        network=network,
        need=Need(name, spec.cpu, spec.memory, spec.disk),
        key=_key(
            spec,
            profile=profile,
            provider=provider_name,
            provider_spec=provider_spec,
            network=network,
            provision=provision,
        ),
        provision=provision,
        provision_network=provision_network,
        timeout=DEFAULT_TIMEOUT if spec.timeout is None else spec.timeout,
        runtime=runtime,
        notes=_notes(project, mounts),
    )


def is_project(root: Path, inipath: Path | None = None) -> bool:
    """Does `root` hold the ini file, a pyproject.toml or a version control directory?"""
    if inipath is not None and inipath.parent == root:
        return True
    return any(os.path.lexists(root / name) for name in _PROJECT_FILES)


def _profile(spec: SandboxSpec, profiles: Profiles, default: str, limit: str | None) -> Profile:
    profile = profiles.get(default if spec.profile is None else spec.profile)
    if limit is None:
        return profile
    most = profiles.get(limit)
    if profile.rank > most.rank:
        raise ProfileForbids(
            most.name,
            f"the laxer profile {profile.name!r}",
            hint=f"--airlock-max-profile={most.name} is in force: choose that or a stricter one, or raise it",
        )
    return profile


def _network(spec: SandboxSpec, profile: Profile) -> Network:
    network = Network(mode=profile.network) if spec.network is None else spec.network
    check_network(network, profile.name, profile.network_allowed)
    return network


def _user(spec: SandboxSpec, profile: Profile) -> str:
    if spec.user == "root" and profile.user != "root":
        raise ProfileForbids(profile.name, "user='root'", hint="leave user= out, or choose profile='cautious'")
    return profile.user if spec.user is None else spec.user


def _nested(spec: SandboxSpec, profile: Profile) -> bool:
    """Closed unless it is asked for: user name spaces are the widest way to the kernel's less tried parts."""
    if spec.nesting and not profile.nested:
        raise ProfileForbids(
            profile.name,
            "nesting=True",
            hint="profile='dev' lets name spaces be made inside, or extend one with nested",
        )
    return bool(spec.nesting)


def _project(
    spec: SandboxSpec, profile: Profile, rules: MountRules, root: Path | None, inipath: Path | None
) -> _Project:
    if spec.source is False:
        return _Project()
    if isinstance(spec.source, str):
        mount = Mount(source=_absolute(spec.source, root, "source"))
        return _Project(rules.resolve(mount, profile, project=True))
    if root is None:
        return _Project()
    if profile.project == "absent":
        return _Project(
            note=f"profile {profile.name!r} shows no project: what is installed in editable mode cannot be imported inside "
            "(install it from a wheel in provision=, or choose profile='cautious')"
        )
    if not is_project(root, inipath):
        return _Project(
            note=f"no project is visible inside: {root} has no pyproject.toml, pytest ini file or version control "
            "(source= names one)"
        )
    try:
        return _Project(rules.resolve(Mount(source=str(root)), profile, project=True))
    except MountForbidden as error:
        return _Project(note=f"no project is visible inside: {root} is refused, {error.why} (source= names another)")


def _mounts(
    spec: SandboxSpec, profile: Profile, rules: MountRules, project: ResolvedMount | None, root: Path | None
) -> tuple[ResolvedMount, ...]:
    """All mounts, a parent before what is mounted below it."""
    by_target = {} if project is None else {project.target: project}
    for mount in spec.mounts:
        located = mount.model_copy(update={"source": _absolute(mount.source, root, "mounts")})
        resolved = rules.resolve(located, profile)
        other = by_target.setdefault(resolved.target, resolved)
        if other is not resolved:
            what = "the project" if other.project else f"the mount of {other.source}"
            raise InvalidSpec(
                "mounts", mount.source, f"{what} is at {resolved.target} already", hint="give it another target"
            )
    return tuple(by_target[target] for target in sorted(by_target))


def _absolute(path: str, root: Path | None, field: str) -> str:
    expanded = os.path.expanduser(path)
    if not path:
        raise InvalidSpec(field, path, "it is empty")
    if os.path.isabs(expanded) or root is None:
        return expanded
    return os.path.join(root, expanded)


def _runtime(
    spec: SandboxSpec, profile: Profile, detector: Detector, project: ResolvedMount | None
) -> tuple[RuntimeGuess | None, tuple[tuple[str, ...], ...]]:
    """What the project is made with, and its install command as provisioning if the spec asks for a runtime."""
    if project is None:
        if spec.runtime is None:
            return None, ()
        raise InvalidSpec(
            "runtime",
            spec.runtime,
            f"no project is visible under profile {profile.name!r}, so there is nothing to install",
            hint="name the project with source=, or write the commands in provision=",
        )
    source = Path(project.source)
    if spec.runtime is None:
        return detector.detect(source), ()
    guess = detector.detect(source, spec.runtime)
    if guess.runtime == "unknown":
        raise InvalidSpec(
            "runtime", spec.runtime, f"nothing in {source} tells what it is made with", hint="name the runtime"
        )
    return guess, (guess.install,) if guess.install else ()


def _image(spec: SandboxSpec, rules: MountRules, root: Path | None) -> str | None:
    """Words are the provider's (`host`, `debian:12`); what starts like a path is one."""
    image = spec.image
    if image is None:
        return None
    if not image or "\0" in image:
        raise InvalidSpec("image", image, "it names no image", hint="leave image= out for the provider's own")
    if image.startswith(("/", "./", "../", "~")):
        return rules.check_image(_absolute(image, root, "image"))
    return image


def _environment(spec: SandboxSpec, profile: Profile, host: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    passed = {name: host[name] for name in profile.pass_env if name in host}
    return tuple(sorted({**passed, **spec.env}.items()))


def _expose(spec: SandboxSpec, project: ResolvedMount | None) -> tuple[str, ...]:
    """Exceptions to what is masked in the project, relative to it."""
    for path in spec.expose:
        if not path or "\0" in path or path.startswith("/") or ".." in path.split("/"):
            raise InvalidSpec("expose", path, "it is no path relative to the project", hint="for example '.env.test'")
    if spec.expose and project is None:
        raise InvalidSpec("expose", spec.expose, "no project is visible, so there is nothing to expose")
    return tuple(sorted({posixpath.normpath(path) for path in spec.expose}))


#: What a profile of that rank needs beyond all others: strict lets no host group through.
_STRICTER = {0: frozenset({"groups_dropped"})}


def _required(
    spec: SandboxSpec, network: Network, user: str, mounts: tuple[ResolvedMount, ...], image: str | None
) -> frozenset[str]:
    features = {"syscall_filter", "private_proc", "user_root" if user == "root" else "user_ordinary"}
    features.update(f"mount_{mount.mode}" for mount in mounts)
    features.update(resource for resource in _SIZES if getattr(spec, resource) is not None)
    if spec.nesting:
        features.add("nested")
    # An open network nobody asked for is a convenience of the profile, not isolation: a provider may well stay locked.
    if spec.network is not None or network.mode == "locked":
        features.update(_NETWORK_FEATURES[mode] for mode in modes_of(network))
    if spec.network_attempts not in (None, "ignore"):
        features.add("network_attempts")
    if spec.ports:
        features.add("ports")
    if image == "host":
        features.add("image_host")
    elif image is not None and image.startswith("/"):
        features.add("image_rootfs")
    return frozenset(features)


def _key(
    spec: SandboxSpec,
    *,
    profile: Profile,
    provider: str,
    provider_spec: ProviderSpec,
    network: Network,
    provision: tuple[tuple[str, ...], ...],
) -> str:
    """sha256 of all that makes two sandboxes different: everything but name, time-out and test."""
    made = asdict(provider_spec)
    del made["name"]
    content = {
        "made": {**made, "required": sorted(provider_spec.required)},
        "profile": profile.model_dump(mode="json"),
        "provider": provider,
        "network": [network.mode, *sorted(network.allow)],
        "provision": provision,
        "set": [getattr(spec, resource) for resource in _SIZES],
        "ports": sorted(set(spec.ports)),
        "keep": spec.keep,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _notes(project: _Project, mounts: tuple[ResolvedMount, ...]) -> tuple[str, ...]:
    notes = [project.note] if project.note else []
    shared = [mount.source for mount in mounts if mount.mode == "rw"]
    if shared:
        notes.append(f"read-write on the host, outside reset, snapshot and diff: {', '.join(shared)}")
    return tuple(notes)
