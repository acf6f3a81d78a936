"""Run a command and fail if it leaves a process, a mount or a cgroup behind; its own status counts first.

The runner is a child subreaper (prctl(2)), so every orphan of the command becomes its child and cannot hide.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
#: Seconds for processes that are dying when the command ends.
GRACE = 5.0


def mounts() -> "set[str]":
    # The first two numbers of a line are ids; the rest says what is mounted where.
    return {line.split(" ", 2)[2] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def cgroups() -> "set[str]":
    # With version 2 the processes of the caller's own group move into a child of it, this one among them: no leftover.
    own = tuple(line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines())
    found = set()
    for directory, names, _ in os.walk("/sys/fs/cgroup"):
        found.update(os.path.join(directory, name) for name in names if "airlock" in name)
    return {path for path in found if not path.endswith(tuple(group for group in own if "airlock" in group))}


def children() -> "list[int]":
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="backslashreplace").strip()
    except OSError as error:
        return f"({error.strerror})"


def reap() -> None:
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


def remaining(grace: float = GRACE) -> "list[str]":
    """Commands of orphans still alive after the grace period (seconds), killed once they are named."""
    deadline = time.monotonic() + grace
    reap()
    while children() and time.monotonic() < deadline:
        time.sleep(0.05)
        reap()
    left = children()
    names = [f"process {pid}: {command_of(pid)}" for pid in left]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    reap()
    return names


def main(argv: "list[str]") -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    mounted, grouped = mounts(), cgroups()
    status = subprocess.run(argv, check=False).returncode
    left = remaining()
    left += [f"mount: {line}" for line in sorted(mounts() - mounted)]
    left += [f"cgroup: {path}" for path in sorted(cgroups() - grouped)]
    for line in left:
        print(f"left behind by the command: {line}", file=sys.stderr)
    if not left:
        print("left behind by the command: no process, no mount, no cgroup")
    return status or int(bool(left))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
