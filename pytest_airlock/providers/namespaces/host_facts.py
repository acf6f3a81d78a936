"""What a host says about itself, read once when a step failed: the facts a diagnosis goes by."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["HostFacts"]

_SYSCTLS = (
    "kernel.apparmor_restrict_unprivileged_userns",
    "kernel.unprivileged_userns_clone",
    "user.max_user_namespaces",
)
_CAP_SYS_ADMIN = 21
_CGROUPS = {"cgroup": "1", "cgroup2": "2"}
_BIN = ("usr/bin", "bin", "usr/local/bin", "usr/sbin", "sbin")


@dataclass(frozen=True, slots=True)
class HostFacts:
    """`privileged` is CAP_SYS_ADMIN, `seccomp` that a filter is in force, `apparmor` this process' profile ("" = none),
    `container` one of docker, podman, kubernetes or "", `root_type` the file system of `/`.

    `proc_masked`: something is mounted over parts of /proc, so the kernel mounts no other. `chroot`: `/` is no mount.
    `cgroups` are the versions mounted, "" = none; `proc_sys_read_only` as containers have it.
    """

    kernel: tuple[int, int] = (0, 0)
    release: str = ""
    system: str = ""
    sysctl: Mapping[str, str] = field(default_factory=dict)
    privileged: bool = False
    seccomp: bool = False
    no_new_privs: bool = False
    apparmor: str = ""
    selinux: bool = False
    container: str = ""
    chroot: bool = False
    proc_masked: bool = False
    user_namespaces: bool = True
    root_type: str = ""
    newuidmap: bool = True
    cgroups: str = ""
    proc_sys_read_only: bool = False

    @classmethod
    def read(cls, root: str = "/") -> HostFacts:
        """The facts of the host below `root`. What cannot be read counts as not there."""
        base = Path(root)
        release = _text(base / "proc/sys/kernel/osrelease")
        status = dict(_pairs(_text(base / "proc/self/status"), ":"))
        mounts = _mounts(_text(base / "proc/self/mountinfo", 2 << 20))
        system = dict(_pairs(_text(base / "etc/os-release"), "="))
        return cls(
            kernel=_version(release),
            release=release,
            system=system.get("PRETTY_NAME", "").strip('"'),
            sysctl={name: text for name in _SYSCTLS if (text := _text(base / "proc/sys" / Path(*name.split(".", 1))))},
            privileged=bool(int(status.get("CapEff", "0"), 16) >> _CAP_SYS_ADMIN & 1),
            seccomp=status.get("Seccomp") == "2",
            no_new_privs=status.get("NoNewPrivs") == "1",
            apparmor=_text(base / "proc/self/attr/apparmor/current") or _text(base / "proc/self/attr/current"),
            selinux=_text(base / "sys/fs/selinux/enforce") == "1",
            container=_container(base),
            chroot=bool(mounts) and "/" not in mounts,
            proc_masked=any(point.startswith("/proc/") and "binfmt_misc" not in point for point in mounts),
            user_namespaces=(base / "proc/self/ns/user").exists(),
            root_type=mounts.get("/", ""),
            cgroups=" and ".join(word for kind, word in _CGROUPS.items() if kind in mounts.values()),
            proc_sys_read_only=_read_only(base / "proc/sys"),
            newuidmap=any((base / folder / "newuidmap").exists() for folder in _BIN),
        )

    def describe(self) -> str:
        """One line for an error text or a report."""
        words = [f"Linux {self.release or '?'}", self.system]
        words.append(f"in {self.container}" if self.container else "")
        words.append("root" if self.privileged else "without CAP_SYS_ADMIN")
        words.append("a system-call filter is in force" if self.seccomp else "")
        words.append(f"AppArmor profile {self.apparmor}" if self.apparmor else "")
        words.append("SELinux enforcing" if self.selinux else "")
        return ", ".join(word for word in words if word)


def _text(path: Path, limit: int = 65_536) -> str:
    try:
        with path.open("rb") as file:
            return file.read(limit).decode("utf-8", "backslashreplace").strip("\0\n ")
    except OSError:
        return ""  # not there; attr/current is EINVAL without a security module


def _read_only(path: Path) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except FileNotFoundError:
        return False


def _pairs(text: str, separator: str) -> list[tuple[str, str]]:
    split = (line.split(separator, 1) for line in text.splitlines() if separator in line)
    return [(key.strip(), value.strip()) for key, value in split]


def _version(release: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _mounts(mountinfo: str) -> dict[str, str]:
    """Mount point -> type of file system; the topmost of several wins (proc_pid_mountinfo(5))."""
    mounts = {}
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        words = head.split(" ")
        if len(words) > 4 and tail:
            mounts[words[4]] = tail.split(" ", 1)[0]
    return mounts


def _container(base: Path) -> str:
    if (base / "var/run/secrets/kubernetes.io").exists():
        return "kubernetes"
    if (base / "run/.containerenv").exists():
        return "podman"
    return "docker" if (base / ".dockerenv").exists() else ""
