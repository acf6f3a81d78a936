"""The protections against exhaustion and against PID 1 that controls take out."""

from __future__ import annotations

import os
from typing import Any

from weakened import OnHost, Redefine, Replace, weaken

LISTENS = weaken(
    "PID 1 handles signals",
    Replace(
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD]); signal.signal(signal.SIGTERM, lambda *_: os._exit(1))",
    ),
)
IPC_UNBOUNDED = weaken("System V IPC not bounded", Redefine("_IPC", "_IPC = ()"))
LAST_TO_GO = weaken(
    "no word to the kernel who goes first",
    Redefine("_COMMANDS", '_COMMANDS = b"0"'),
    Redefine("_PID_1", '_PID_1 = b"0"'),
)
OPENED_UNSEEN = weaken(
    "files opened without a look",
    Redefine(
        "open_regular",
        """
def open_regular(path, directory=None):
    return os.open(path, os.O_RDONLY, dir_fd=directory)
""",
    ),
)


def _pipe_for_all(flags: int) -> tuple[int, int]:
    read, write = os.pipe()
    for fd in (read, write):
        os.set_inheritable(fd, not flags & os.O_CLOEXEC)
        os.fchmod(fd, 0o666)
    return read, write


PIPES_FOR_ALL = weaken("pipes of workers open to all", OnHost("os.pipe2", _pipe_for_all))
NO_ROOM = weaken("PID 1 does not count its descriptors", Replace("len(self.running) >= self.room", "False"))

# ---------------------------------------------------------------------- a worker of file calls that was taken over

LIES = weaken(
    "a worker that lies about names",
    Replace(
        "record = describe(name, tree.fd, depth)",
        'record = describe(name, tree.fd, depth)._replace(name=b"../planted")',
    ),
)
DETOURS = weaken(
    "a worker that makes a way out",
    # First a link to the directory above, then an entry "below" it.
    Replace(
        "record = describe(name, tree.fd, depth)",
        "record = describe(name, tree.fd, depth); "
        'record = record if depth > 1 or not stat.S_ISREG(record.mode) else record._replace(depth=2, name=b"planted")',
    ),
)


def _name(_: Any, record: Any) -> str:
    return os.fsdecode(record.name)


NAMES_TAKEN = weaken(
    "names not checked on arrival", OnHost("pytest_airlock.providers.namespaces.files_client._Call.name", _name)
)
PARTS_TAKEN = weaken(
    "names not checked when made", OnHost("pytest_airlock.sandbox.copying._parts", lambda path: [path] if path else [])
)
