"""How much a sandbox may use: from the spec, else from what this machine has; in the engine's words."""

from __future__ import annotations

import resource
from typing import Any

from pytest_airlock.models import DEFAULT_DISK
from pytest_airlock.providers.base import Features, ProviderSpec

__all__ = ["sandbox_limits"]

PROCESSES = 1024
_INODE = 4096  # one inode for each page of the disk, as a tmpfs has it by default
_MAX_INODES = 1_000_000


def sandbox_limits(spec: ProviderSpec, found: Features, *, uid: int) -> dict[str, Any]:
    """The `spec` of the fork server's create request. Sizes in bytes.

    The disk is a tmpfs, so it counts as memory: by default never more than a quarter of what is available.
    """
    disk = spec.disk or min(DEFAULT_DISK, max(_available() // 4, 64 * 1024**2))
    by_group = {note.split()[1] for note in found.notes if note.startswith("cgroup ")}
    # Joining a group costs 10 ms on version 1 (the kernel waits for a grace period), so only who asked for a limit does.
    wanted = {name: value for name, value in (("cpu", spec.cpu), ("memory", spec.memory)) if value and name in by_group}
    if "memory" in wanted and "disk" not in spec.required:
        # Files stay when a command is killed for want of memory: without a rest for PID 1 it would be the next.
        disk = min(disk, int(wanted["memory"]) // 2)
    return {
        "uid": uid,
        "nested": spec.nested,
        "shares_network": spec.shares_network,
        "disk": disk,
        "inodes": min(max(disk // _INODE, 1024), _MAX_INODES),
        "affinity": (spec.cpu or 0) if "cpu" not in by_group else 0,
        "group": {**wanted, "pids": PROCESSES} if wanted and "pids" in by_group else wanted,
        "limits": [
            # 1, not 0: a piped core_pattern runs on the host for 0 as well (core(5)).
            ("RLIMIT_CORE", 1, 1),
            ("RLIMIT_NOFILE", 1024, min(65_536, _descriptors() // 2)),
            # Counted per user name space from Linux 5.14.
            ("RLIMIT_NPROC", PROCESSES, PROCESSES),
            # These, too, count against the host's user: a part of its defaults, so that one sandbox leaves some to others.
            ("RLIMIT_SIGPENDING", 4096, 4096),
            ("RLIMIT_MSGQUEUE", 409_600, 409_600),
            # Users of audio groups may have real-time priorities (limits.conf(5)): a loop with one would stop the machine.
            ("RLIMIT_RTPRIO", 0, 0),
            ("RLIMIT_NICE", 0, 0),
            # Of each process, PID 1 included, which takes part of the least there may be (models.py).
            *([("RLIMIT_AS", spec.address_space, spec.address_space)] if spec.address_space else []),
        ],
    }


def _descriptors() -> int:
    """Our own hard limit. What a sandbox sends and nobody receives counts against it where its ids are ours (unix(7))."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 2 * 65_536 if hard == resource.RLIM_INFINITY else hard


def _available() -> int:
    """MemAvailable of proc_meminfo(5), in bytes."""
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 4 * DEFAULT_DISK
