"""The causes for which an engine cannot work somewhere, as a table; docs/where-it-works.md shows the same rows.

A step is the word the engine gives a system call ("clone3", "mount overlay", "uid_map", "cgroup memory"). A step alone
says little: EPERM has a dozen causes. So a row also looks at the facts of the host, and the first that fits is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from errno import EACCES, EBUSY, EINVAL, EIO, ENODEV, ENOENT, ENOSPC, ENOSYS, EOPNOTSUPP, EPERM, EROFS, EUSERS
from typing import Literal

from pytest_airlock.providers.namespaces.host_facts import HostFacts

__all__ = ["CGROUP", "ROWS", "UNMASK", "Row"]

_USERNS = ("clone3", "unshare")
_MAPS = ("uid_map", "gid_map", "setgroups")
_MOUNTS = ("mount", "bind", "remount", "open_tree", "move_mount", "pivot_root")
_REFUSED = (EPERM, EACCES)
CGROUP = "cgroup"

Evidence = Literal["measured", "simulated", "unmeasured"]


@dataclass(frozen=True, slots=True)
class Row:
    """`steps` (none = any) and `errnos` that may show it, `fits(host, path)` on the facts; a step also matches its longer forms.

    `feature` is what is missing ("cgroup" = the controller in the step), "" if nothing works. `evidence`: measured on
    such a host, simulated on another kernel, or unmeasured (from documentation).
    """

    name: str
    where: str
    steps: tuple[str, ...]
    errnos: tuple[int, ...]
    cause: str
    fix: str
    fits: Callable[[HostFacts, str], bool]
    feature: str = ""
    evidence: Evidence = "unmeasured"

    def matches(self, step: str, number: int, path: str, host: HostFacts) -> bool:
        named = not self.steps or any(step == word or step.startswith(f"{word} ") for word in self.steps)
        return named and number in self.errnos and self.fits(host, path)


def _always(_host: HostFacts, _path: str) -> bool:
    return True


def _sysctl(name: str, value: str) -> Callable[[HostFacts, str], bool]:
    return lambda host, _path: host.sysctl.get(name) == value


def _older(major: int, minor: int) -> Callable[[HostFacts, str], bool]:
    return lambda host, _path: (0, 0) < host.kernel < (major, minor)


def _filtered(container: str, *, privileged: bool = False) -> Callable[[HostFacts, str], bool]:
    """A container's system-call filter: it is there, and so are (or not) the powers it would follow."""
    return lambda host, _path: host.seccomp and host.privileged is privileged and host.container == container


_DOCKER_FLAGS = "docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined"
_PODMAN_FLAGS = "podman run --security-opt seccomp=unconfined --security-opt unmask=ALL"
UNMASK = "`docker run --security-opt systempaths=unconfined`; `podman run --security-opt unmask=ALL`"
_POD = (
    "in the pod `hostUsers: false`, and in its securityContext `seccompProfile: {type: Unconfined}`, "
    "`appArmorProfile: {type: Unconfined}`, `procMount: Unmasked`"
)
_SUBIDS = "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER"
_MORE_IDS = (
    "give the user who starts the container more: `sudo usermod --add-subuids 1000000-1999999 --add-subgids "
    "1000000-1999999 USER`"
)

#: Told in this order: the first row that fits wins, so the narrow ones come first.
ROWS: tuple[Row, ...] = (
    Row(
        "wsl1",
        "Windows Subsystem for Linux 1",
        (*_USERNS, *_MAPS, *_MOUNTS),
        (EPERM, EINVAL, ENOSYS, ENODEV),
        "this is WSL 1, which has no Linux kernel",
        "`wsl --set-version DISTRIBUTION 2`",
        lambda host, _path: "Microsoft" in host.release and host.kernel < (4, 5),
    ),
    Row(
        "no-user-namespaces",
        "kernel built without CONFIG_USER_NS",
        _USERNS,
        (EINVAL, ENOSYS),
        "this kernel has no user name spaces",
        "a kernel with CONFIG_USER_NS=y; every large distribution's has it",
        lambda host, _path: not host.user_namespaces,
    ),
    Row(
        "max-user-namespaces",
        "hardened hosts, RHEL 7, inside of another sandbox",
        _USERNS,
        (ENOSPC, EUSERS),
        "user.max_user_namespaces is 0",
        "`sudo sysctl -w user.max_user_namespaces=15000`; inside of an airlock sandbox: a profile with nested name spaces (dev)",
        _sysctl("user.max_user_namespaces", "0"),
        evidence="measured",
    ),
    Row(
        "namespace-limit",
        "very many sandboxes, or name spaces nested in name spaces",
        _USERNS,
        (ENOSPC, EUSERS),
        "the user's limit of name spaces (user.max_user_namespaces) is reached, or they are nested more than 32 deep",
        "end what holds them (`lsns -t user`), or raise the limit: `sudo sysctl -w user.max_user_namespaces=100000`",
        _always,
    ),
    Row(
        "userns-clone",
        "Debian before 11, linux-hardened of Arch",
        _USERNS,
        (EPERM,),
        "kernel.unprivileged_userns_clone is 0: only root may make user name spaces",
        "`sudo sysctl -w kernel.unprivileged_userns_clone=1` (every local user can then reach more of the kernel), or run as root",
        lambda host, _path: host.sysctl.get("kernel.unprivileged_userns_clone") == "0" and not host.privileged,
    ),
    Row(
        "chroot",
        "schroot, sbuild, mock and other chroots",
        _USERNS,
        (EPERM,),
        "this process is in a chroot, where the kernel allows no user name space",
        "run it in a container or with bwrap or systemd-nspawn, which use pivot_root instead",
        lambda host, _path: host.chroot,
        evidence="measured",
    ),
    Row(
        "kubernetes",
        "a pod with the default security context",
        (*_USERNS, "pivot_root"),
        (EPERM, ENOSYS),
        "the pod's system-call filter forbids name spaces",
        _POD,
        lambda host, _path: host.seccomp and host.container == "kubernetes",
    ),
    Row(
        "podman",
        "podman, default settings",
        (*_USERNS, "sethostname"),
        (EPERM, ENOSYS),
        "podman's system-call filter forbids name spaces",
        f"`{_PODMAN_FLAGS}`",
        _filtered("podman"),
    ),
    Row(
        "docker-apparmor",
        "docker, default settings, on a host with AppArmor (Ubuntu, Debian, SUSE)",
        _USERNS,
        (EPERM, ENOSYS),
        "docker's system-call filter and its AppArmor profile forbid name spaces and mounts",
        f"`{_DOCKER_FLAGS} --security-opt apparmor=unconfined`",
        lambda host, path: _filtered("docker")(host, path) and bool(host.apparmor),
    ),
    Row(
        "docker",
        "docker, default settings",
        _USERNS,
        (EPERM, ENOSYS),
        "docker's system-call filter forbids name spaces",
        f"`{_DOCKER_FLAGS}`",
        _filtered("docker"),
        evidence="measured",
    ),
    Row(
        "docker-sys-admin",
        "docker with `--cap-add SYS_ADMIN` and the default filter",
        ("pivot_root",),
        (EPERM,),
        "the filter opens mount for CAP_SYS_ADMIN but never pivot_root",
        f"`{_DOCKER_FLAGS}`, without `--cap-add`",
        lambda host, _path: host.seccomp and host.privileged,
        evidence="measured",
    ),
    Row(
        "filtered",
        "inside of another sandbox: snap, flatpak, a systemd unit, airlock itself",
        (*_USERNS, "pivot_root", "sethostname"),
        (EPERM, ENOSYS),
        "a system-call filter is in force on this process and forbids name spaces",
        "run outside of it; systemd: `RestrictNamespaces=no` and no `SystemCallFilter=`; airlock: a profile with nested name spaces (dev)",
        lambda host, _path: host.seccomp,
        evidence="simulated",
    ),
    Row(
        "container-apparmor",
        "docker or podman without a filter, on a host with AppArmor",
        _MOUNTS,
        (EACCES,),
        "the container's AppArmor profile forbids mounts",
        "`docker run --security-opt apparmor=unconfined` (podman: the same), beside the other flags",
        lambda host, _path: bool(host.container) and host.apparmor not in ("", "unconfined"),
    ),
    Row(
        "filtered-new-calls",
        "an old docker, podman or libseccomp below a new kernel",
        ("pidfd_open", "open_tree", "move_mount", "mount_setattr", "openat2"),
        (EPERM, ENOSYS),
        "a system-call filter is in force on this process that does not know calls of newer kernels",
        f"a newer libseccomp (2.5) and container engine (docker 20.10.10), or without its filter: `{_DOCKER_FLAGS}`",
        lambda host, _path: host.seccomp,
        evidence="simulated",
    ),
    Row(
        "apparmor-userns",
        "Ubuntu 23.10 and newer, ordinary user",
        (*_USERNS, *_MAPS, *_MOUNTS, "mount_setattr"),
        _REFUSED,
        "kernel.apparmor_restrict_unprivileged_userns is 1: a user name space may be made, but has no powers",
        "`sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0` (every local program can then reach more of the "
        "kernel as root of its own name space; put it into /etc/sysctl.d to keep it); or only for this python, a file in "
        "/etc/apparmor.d: `abi <abi/4.0>, profile airlock PYTHON flags=(unconfined) { userns, }` with PYTHON its real "
        "path, then `sudo apparmor_parser -r FILE` (every script of that python may then)",
        lambda host, path: (
            _sysctl("kernel.apparmor_restrict_unprivileged_userns", "1")(host, path) and not host.privileged
        ),
    ),
    Row(
        "selinux",
        "SELinux enforcing (Fedora, RHEL 9), mostly in containers",
        (*_USERNS, *_MAPS, *_MOUNTS),
        (EACCES,),
        "SELinux denies it; `sudo ausearch -m avc -ts recent` names the rule",
        "in a container: `--security-opt label=disable`; else allow the rule that ausearch names",
        lambda host, _path: host.selinux,
    ),
    Row(
        "masked-proc-podman",
        "podman without its filter, masked /proc",
        ("mount proc",),
        _REFUSED,
        "parts of /proc are masked, so the kernel mounts no other /proc: the sandbox would see the container's processes",
        "`podman run --security-opt unmask=ALL`",
        lambda host, _path: host.proc_masked and host.container == "podman",
        feature="private_proc",
    ),
    Row(
        "masked-proc-kubernetes",
        "a pod without its filter, masked /proc",
        ("mount proc",),
        _REFUSED,
        "parts of /proc are masked, so the kernel mounts no other /proc: the sandbox would see the pod's processes",
        _POD,
        lambda host, _path: host.proc_masked and host.container == "kubernetes",
        feature="private_proc",
    ),
    Row(
        "masked-proc",
        "docker with seccomp=unconfined only, masked /proc",
        ("mount proc",),
        _REFUSED,
        "parts of /proc are masked, so the kernel mounts no other /proc: the sandbox would see the processes outside of it",
        "`docker run --security-opt systempaths=unconfined`, beside the other flags",
        lambda host, _path: host.proc_masked,
        feature="private_proc",
        evidence="measured",
    ),
    Row(
        "proc-sys-read-only",
        "a container with read-only /proc/sys",
        ("sysctl",),
        (EROFS, EACCES),
        "/proc/sys is read-only, so no limit of a sandbox's name spaces can be set in it",
        UNMASK,
        _always,
        feature="private_proc",
    ),
    Row(
        "old-kernel",
        "kernels before 5.12 (Debian 10, Ubuntu 20.04, RHEL 8, Amazon Linux 2)",
        ("clone3", "pidfd_open", "open_tree", "move_mount", "mount_setattr", "openat2"),
        (ENOSYS,),
        "this kernel is too old: pidfds, detached and idmapped mounts need Linux 5.12",
        "a newer kernel (Debian 12, Ubuntu 22.04, RHEL 9 or newer), or another provider (podman, docker, lima)",
        _older(5, 12),
    ),
    Row(
        "overlay-old",
        "kernels before 5.11, ordinary user",
        ("mount overlay",),
        (EPERM, EINVAL),
        "this kernel mounts overlayfs only for root: in user name spaces it came with Linux 5.11",
        "a newer kernel, or run as root",
        _older(5, 11),
    ),
    Row(
        "overlay-missing",
        "minimal kernels and some virtual machines",
        ("mount overlay",),
        (ENODEV,),
        "the kernel has no overlayfs, or its module is not loaded and must not be loaded from a name space",
        "`sudo modprobe overlay` (the word overlay in /etc/modules-load.d/overlay.conf keeps it)",
        _always,
    ),
    Row(
        "tmpfs-xattr",
        "kernels before 6.6 (Debian 12, Ubuntu 22.04, RHEL 9)",
        ("mount overlay", "xattr", "whiteout"),
        (EOPNOTSUPP, EIO, EINVAL),
        "tmpfs keeps no `user.` attributes before Linux 6.6, so deletions in a copy-on-write directory are lost",
        "Linux 6.6 or newer (Debian 12: `apt install -t bookworm-backports linux-image-amd64`; Ubuntu 22.04: the HWE kernel)",
        _older(6, 6),
        evidence="simulated",
    ),
    Row(
        "idmap-overlay",
        "root in docker or GitLab CI: the root file system is an overlay",
        ("mount_setattr", "idmapped rw mount"),
        (EINVAL, EPERM, EOPNOTSUPP),
        "files of an overlay cannot be mapped to the sandbox's user ids",
        'mounts of mode "cow", or the project on a volume, or run as an ordinary user',
        lambda host, _path: host.root_type == "overlay",
        feature="mount_rw",
        evidence="measured",
    ),
    Row(
        "idmap",
        "file systems without idmapped mounts (NFS, 9p, FUSE, ZFS before 2.2)",
        ("mount_setattr", "idmapped rw mount"),
        (EINVAL, EPERM, EOPNOTSUPP),
        "files of this file system cannot be mapped to the sandbox's user ids",
        'mounts of mode "cow", or the project on ext4, xfs, btrfs or tmpfs, or run as an ordinary user',
        _always,
        feature="mount_rw",
    ),
    Row(
        "no-device-nodes",
        "a chroot or container with an empty /dev",
        ("bind",),
        (ENOENT,),
        "/dev lacks the usual nodes (null, zero, full, random, urandom, tty)",
        "`mount -t devtmpfs devtmpfs /dev`, or start the container with its own /dev",
        lambda _host, path: path.startswith(("/dev/", "/d/")),
    ),
    Row(
        "no-newuidmap",
        "ordinary user without the package uidmap (shadow-utils)",
        ("newuidmap", "newgidmap"),
        (ENOENT,),
        "newuidmap is not installed, so a sandbox has one user id only",
        f"`sudo apt-get install uidmap` (dnf: shadow-utils), then `{_SUBIDS}`",
        _always,
        feature="many_users",
    ),
    Row(
        "no-subids",
        "ordinary user without a range in /etc/subuid and /etc/subgid",
        ("newuidmap", "newgidmap"),
        (EINVAL,),
        "newuidmap grants no range: /etc/subuid and /etc/subgid have none of 65,536 for this user",
        f"`{_SUBIDS}`",
        _always,
        feature="many_users",
        evidence="measured",
    ),
    Row(
        "newuidmap-refused",
        "no_new_privs is set: systemd's NoNewPrivileges, docker's no-new-privileges",
        ("newuidmap", "newgidmap"),
        (EPERM,),
        "newuidmap is refused: its set-uid bit or capability has no effect here, so a sandbox has one user id only",
        "run it without no_new_privs, on a file system without nosuid",
        lambda host, _path: host.no_new_privs,
        feature="many_users",
        evidence="measured",
    ),
    Row(
        "newuidmap-in-container",
        "ordinary user in a container, newuidmap set-uid (Debian, Ubuntu)",
        ("newuidmap", "newgidmap"),
        (EPERM,),
        "newuidmap is refused: it becomes root of the container, which lacks CAP_SYS_ADMIN, so a sandbox has one user id only",
        "give it a capability in place of the set-uid bit: `chmod u-s /usr/bin/newuidmap /usr/bin/newgidmap; "
        "setcap cap_setuid+ep /usr/bin/newuidmap; setcap cap_setgid+ep /usr/bin/newgidmap`; or run as the container's root",
        lambda host, _path: bool(host.container),
        feature="many_users",
    ),
    Row(
        "few-ids",
        "root of a container with few ids (rootless podman or docker)",
        ("id map",),
        (ENOSPC,),
        "no range of 65,536 user ids is free in this process' /proc/self/uid_map, so a sandbox has one user id only",
        f"{_MORE_IDS}, then `podman system migrate` or start docker again",
        _always,
        feature="many_users",
        evidence="measured",
    ),
    Row(
        "id-range",
        "the machine's root without the powers to map ids, as with `--cap-drop ALL`, or with few ids",
        ("id range",),
        (ENOSPC,),
        "sandboxes would be the machine's root: this one may not map other ids, or has no 65,536 of them free",
        "run as an ordinary user of the container (`--user`), or `--cap-add SETUID --cap-add SETGID --cap-add SETFCAP`",
        _always,
        evidence="measured",
    ),
    Row(
        "no-seccomp",
        "kernel built without CONFIG_SECCOMP_FILTER",
        ("seccomp",),
        (EINVAL, ENOSYS),
        "this kernel has no system-call filters",
        "a kernel with CONFIG_SECCOMP_FILTER=y; every large distribution's has it",
        _always,
        feature="syscall_filter",
    ),
    Row(
        "cgroup-read-only",
        "containers: /sys/fs/cgroup is read-only",
        (CGROUP,),
        (EROFS,),
        "cgroups are mounted read-only",
        "`podman run --security-opt unmask=/sys/fs/cgroup`; `docker run --privileged` (which takes the container's walls down)",
        _always,
        feature=CGROUP,
    ),
    Row(
        "cgroup-not-delegated",
        "ordinary user, or root below systemd with cgroup version 2",
        (CGROUP,),
        (EACCES, EPERM, EBUSY),
        "this process' cgroup is not delegated to it, so no limited group can be made below it",
        "`systemd-run --user --scope -p Delegate=yes pytest ...` (root: without `--user`; systemd 251 or newer)",
        _always,
        feature=CGROUP,
    ),
    Row(
        "cgroup-missing",
        "Raspberry Pi OS, some virtual machines: the memory controller is off",
        (CGROUP,),
        (ENOENT, EOPNOTSUPP, ENODEV),
        "this controller is not enabled in the kernel, or not mounted",
        "kernel parameter `cgroup_enable=memory`, then reboot; or mount cgroup2 on /sys/fs/cgroup",
        _always,
        feature=CGROUP,
    ),
    Row(
        "filtered-otherwise",
        "below a strict system-call filter",
        (),
        (EPERM, ENOSYS),
        "a system-call filter is in force on this process, and may be what forbids it",
        f"run outside of it; systemd: no `SystemCallFilter=`; `{_DOCKER_FLAGS}`; `{_PODMAN_FLAGS}`",
        lambda host, _path: host.seccomp,
        evidence="simulated",
    ),
)
