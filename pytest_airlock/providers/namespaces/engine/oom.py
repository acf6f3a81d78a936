"""Who dies first when memory runs out: a command, before PID 1 of its sandbox and before any process of the host.

The out-of-memory killer takes who uses most; oom_score_adj adds to that a share of all there is, in thousandths
(proc_pid_oom_score_adj(5)). Anyone may raise it, and lower it again to where it was. So a command that lowers its own
again puts nobody but its own sandbox at risk.
"""

from __future__ import annotations

import os

from . import syscalls

__all__ = ["CommandsFirst", "give_up_protection"]

_COMMANDS = b"1000"
_PID_1 = b"900"
_FILE = "/proc/self/oom_score_adj"


def give_up_protection() -> None:
    """For the fork server, in its first name spaces: what protects a host's service from the killer (systemd's
    OOMScoreAdjust=, Kubernetes) is nothing that a sandbox may inherit. For good where this process has CAP_SYS_RESOURCE.
    """
    fd = os.open(_FILE, os.O_RDWR | os.O_CLOEXEC)
    try:
        if int(os.read(fd, 32)) < 0:
            os.pwrite(fd, b"0", 0)
    finally:
        os.close(fd)


class CommandsFirst:
    """`with` it PID 1 starts what shall die before it: a child inherits the score. To be made before PID 1 is locked down.

    Not `capped` by a memory cgroup the files of a sandbox can use up the machine: then PID 1, with which they go, is next.
    """

    def __init__(self, *, capped: bool) -> None:
        # Of a process that is not dumpable the file belongs to the host's root (proc_pid(5)).
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
        self._fd = os.open(_FILE, os.O_RDWR | os.O_CLOEXEC)
        if not capped:
            os.pwrite(self._fd, _PID_1, 0)
        self._own = os.pread(self._fd, 32, 0)

    def __enter__(self) -> None:
        os.pwrite(self._fd, _COMMANDS, 0)

    def __exit__(self, *_: object) -> None:
        os.pwrite(self._fd, self._own, 0)
