"""The fork server's own world: name spaces, a private root, device nodes, and what this kernel can do.

/host   the machine's root       /b  base images      /l  layers of snapshots     /d  device nodes
/r /s   mount points of children /x  for trying out
"""

from __future__ import annotations

import errno
import os
from typing import Any, NamedTuple

from . import cgroups, identity, landlock, mounts, oom, processes, syscalls
from .identity import Identity, Slot
from .net import place
from .syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC, MS_REMOUNT, StepError

__all__ = ["Stage", "prepare"]

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
)


class Stage(NamedTuple):
    """What was found: `probe` is the first id slot, `idmap` whether a tmpfs can be shifted into a slot, `idmap_host`
    whether the host's /usr can; `landlock` its ABI; `layers_shift` whether what is shifted can be a layer of an overlay, and
    `in_memory` whether a tmpfs can be the upper one; `network` what can be had of it.
    """

    identity: Identity
    probe: Slot
    idmap: bool
    means: cgroups.CgroupMeans
    last_capability: int
    landlock: int
    idmap_host: bool
    layers_shift: bool
    in_memory: bool
    network: place.Means

    def report(self) -> dict[str, Any]:
        """What the client is told."""
        return {
            "privileged": self.identity.privileged,
            "ids": self.identity.ids,
            "idmap": self.idmap,
            "idmap_host": self.idmap_host,
            "in_memory": self.in_memory,
            "attributes": identity.can_set("/x", syscalls.MOUNT_ATTR_NOSUID),
            "groups": list(self.identity.groups),
            "lacking": self.identity.lacking,
            "contained": self.identity.contained,
            "cgroups": self.means.to_json(),
            "landlock": self.landlock,
            "network": self.network.report(),
            "pid": os.getpid(),
            "born": processes.now(),
        }


def prepare() -> Stage:
    """Enter our own name spaces and lay out the private root. Raises StepError naming what failed."""
    oom.give_up_protection()
    who = identity.enter()
    network = place.Probe()
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS)
    syscalls.mount(None, "/", None, MS_REC | syscalls.MS_PRIVATE)
    top = next(path for path in ("/tmp", "/mnt", "/run") if os.path.isdir(path))
    syscalls.mount("tmpfs", top, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    os.chdir(top)
    for name in ("host", "b", "d", "l", "p", "proc", "r", "s", "x"):
        os.mkdir(name)
    syscalls.pivot_root(".", "host")
    os.chdir("/")
    syscalls.mount("/host/proc", "/proc", None, MS_BIND | MS_REC)
    _make_devices()
    means = cgroups.probe(prefix="/host")
    cgroups.sweep(prefix="/host")
    probe = identity.open_slot(0, who)
    in_memory = tmpfs_keeps_attributes()
    # Layers on disk have the ids of one range: where they are needed, tmpfs can mostly not be shifted either.
    idmap = who.privileged and in_memory and _tmpfs_can_shift(probe)
    idmap_host = who.privileged and identity.can_shift("/host/usr", probe)
    layers_shift = idmap or (idmap_host and overlay_takes_shifted("/host/usr", probe))
    idmap_host = idmap_host and layers_shift
    last = _last_capability()
    abi = landlock.version()
    return Stage(who, probe, idmap, means, last, abi, idmap_host, layers_shift, in_memory, network.result())


def _make_devices() -> None:
    """One tree of the harmless device nodes, cloned into every sandbox; nothing in it is writable."""
    syscalls.mount("tmpfs", "/d", "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k,mode=755")
    for name in _DEVICES:
        os.close(os.open(f"/d/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        syscalls.mount(f"/host/dev/{name}", f"/d/{name}", None, MS_BIND)
        # A device is written to all the same; but not the times of the host's node, which every sandbox would see.
        syscalls.mount(None, f"/d/{name}", None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NOEXEC)
    for name, target in _DEVICE_LINKS:
        os.symlink(target, f"/d/{name}")
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(f"/d/{name}")
    syscalls.mount(None, "/d", None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NOEXEC)


def _tmpfs_can_shift(slot: Slot) -> bool:
    """Idmapped tmpfs needs Linux 6.3; without it there is one id range for all sandboxes of this server."""
    syscalls.mount("tmpfs", "/x", "tmpfs", MS_NOSUID | MS_NODEV, "size=4k")
    try:
        return identity.can_shift("/x", slot)
    finally:
        syscalls.umount("/x")


def tmpfs_keeps_attributes() -> bool:
    """user.* ones, which came with Linux 6.6; overlayfs needs them in upper directories."""
    try:
        os.setxattr("/x", "user.airlock", b"")
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise StepError(error.errno or 0, "tmpfs attributes") from error
        return False
    return True


def overlay_takes_shifted(source: str, slot: Slot) -> bool:
    """Before Linux 5.19 overlayfs takes no idmapped mount as a layer (EINVAL)."""
    os.mkdir("/x/l")
    try:
        mounts.clone_to(source, "/x/l/usr", slot.userns)
        syscalls.mount("overlay", "/r", "overlay", MS_RDONLY, "userxattr,lowerdir=x/l/usr:x/l")
    except StepError:
        return False
    else:
        syscalls.umount("/r")
        return True
    finally:
        if os.path.ismount("/x/l/usr"):
            syscalls.umount("/x/l/usr")
        for path in ("/x/l/usr", "/x/l"):
            os.rmdir(path)


def _last_capability() -> int:
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return int(file.read())
