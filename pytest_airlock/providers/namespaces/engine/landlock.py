"""Landlock on top of the name spaces: a second wall, where the kernel has it (landlock(7)).

What lies below the sandbox's own root is allowed, every other file is not: should a descriptor of a host directory ever leak
in, nothing can be opened through it. Abstract sockets and signals end at the sandbox as well. The rules cover the mounts
of the sandbox as they are; a thread under file rules may mount nothing, so with nested name spaces only the scopes hold.

Constants are of linux/landlock.h; ABI n is what landlock_create_ruleset(2) tells.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from . import syscalls

__all__ = ["SANDBOX", "confine", "version"]

#: What is the sandbox's own. Queues are opened by name in a mount of the kernel's, which is not below the root; a rule
#: is about the directory itself, wherever it is seen.
SANDBOX = ("/", "/dev/mqueue")

# From ABI 2 on (Linux 5.19): before it, no file could be moved to another directory. Newest right of each ABI: REFER,
# TRUNCATE, then IOCTL_DEV; the bits below are those of ABI 1.
_FIRST_WITH_REFER = 2
_RIGHTS = {2: 14, 3: 15, 4: 15}
_ALL_RIGHTS = 16
_READ = 0b1100  # LANDLOCK_ACCESS_FS_READ_FILE and READ_DIR
# From ABI 6 on (Linux 6.12): LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET and LANDLOCK_SCOPE_SIGNAL.
_FIRST_WITH_SCOPES, _SCOPES = 6, 0b11
_O_PATH = 0o10000000


def version() -> int:
    """The ABI that can be used here, found by using it in a process of its own; 0 if none.

    Reasons for none: not built in, not among the modules of `lsm=`, a system-call filter, or sixteen rulesets already.
    """
    abi = syscalls.landlock_version()
    if not abi:
        return 0
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
            confine(abi, ("/",))
            os._exit(0)
        finally:
            os._exit(1)
    return 0 if os.waitpid(pid, 0)[1] else abi


def confine(abi: int, trees: Sequence[str] | None, *, reading: bool = False) -> None:
    """Confine this thread, for good, to the files below `trees` (None = all) and to its own sockets and signals. `reading`:
    those files may be read and nothing else.

    Needs no_new_privs. Does nothing that `abi` does not know. Raises StepError.
    """
    rights = (1 << _RIGHTS.get(abi, _ALL_RIGHTS)) - 1 if trees is not None and abi >= _FIRST_WITH_REFER else 0
    scopes = _SCOPES if abi >= _FIRST_WITH_SCOPES else 0
    if not rights and not scopes:
        return
    ruleset = syscalls.landlock_create_ruleset(rights, scopes)
    try:
        for tree in trees if trees and rights else ():
            top = os.open(tree, _O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                syscalls.landlock_add_rule(ruleset, rights & _READ if reading else rights, top)
            finally:
                os.close(top)
        syscalls.landlock_restrict_self(ruleset)
    finally:
        os.close(ruleset)
