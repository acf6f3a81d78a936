"""What the processes of the network give up before they read anything that hostile code wrote."""

from __future__ import annotations

import errno
import os
import resource
import signal

from .. import syscalls

__all__ = ["give_up"]

_NOBODY = 65_534
_LOG = 1 << 20


def give_up(memory: int, parent: int | None = None) -> None:
    """Be nobody where it was root, without capabilities, with no way to get any; `memory` is a limit in bytes. It ends with
    `parent`, if that is given. File rules and a system-call filter are to follow.
    """
    if os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        except OSError as error:
            # Root of a container that has no such id, or may not change its own: without capabilities it is nobody too.
            if error.errno not in (errno.EPERM, errno.EINVAL):
                raise
    syscalls.capset(0, 0)
    if parent is not None:
        # For one that was stopped; else it ends by itself. Cleared by a change of ids, so set after it.
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for limit, value in (
        (resource.RLIMIT_NOFILE, hard),
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_FSIZE, _LOG),
        (resource.RLIMIT_CORE, 0),
    ):
        ceiling = resource.getrlimit(limit)[1]
        value = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
        resource.setrlimit(limit, (value, value))
