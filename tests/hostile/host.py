"""The host as an attack must leave it: what is looked at before and after each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

_FILES = (
    "/etc/passwd",
    "/etc/group",
    "/etc/hosts",
    "/bin/sh",
    "/dev/null",
    "/dev/tty",
    "/dev/zero",
    "/tmp",
    "/dev/shm",
)
_SETTINGS = (
    *("kernel/core_pattern", "kernel/hostname", "kernel/modprobe", "kernel/randomize_va_space", "kernel/sysrq"),
    *("fs/suid_dumpable", "vm/overcommit_memory", "net/ipv4/ip_forward", "user/max_user_namespaces"),
)


class Host:
    """Holds a process that no attack may find, and a file that none may read or write."""

    def __init__(self, directory: Path) -> None:
        self.canary = directory / "canary"
        self.canary.write_text("host\n")
        self.victim = subprocess.Popen(["/bin/sleep", "100000"], start_new_session=True)

    def state(self) -> dict[str, Any]:
        """What must be the same before and after."""
        files = {path: self._file(path) for path in (*_FILES, os.path.realpath(sys.executable), str(self.canary))}
        settings = {name: _text(f"/proc/sys/{name}") for name in _SETTINGS}
        binaries = Path("/proc/sys/fs/binfmt_misc")
        return {
            "files": files,
            "settings": settings,
            "victim": (self.victim.poll(), _status(self.victim.pid), _text(f"/proc/{self.victim.pid}/oom_score_adj")),
            "canary": self.canary.read_text(),
            "mounts": [line.split()[4] for line in _text("/proc/self/mountinfo").splitlines() if " /mnt " in line],
            "binfmt": sorted(os.listdir(binaries)) if binaries.is_dir() else [],
        }

    @staticmethod
    def _file(path: str) -> tuple[int, ...]:
        info = os.stat(path)
        times = () if path in ("/tmp", "/dev/shm", "/dev/null", "/dev/tty") else (info.st_mtime_ns, info.st_size)
        return info.st_mode, info.st_uid, info.st_gid, info.st_ino, info.st_rdev, *times

    def close(self) -> None:
        self.victim.kill()
        self.victim.wait()


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        return f"errno {error.errno}"


def _status(pid: int) -> list[str]:
    """Whether it is stopped or traced, and what signals wait for it, as proc_pid_status(5) has them."""
    lines = _text(f"/proc/{pid}/status").splitlines()
    told = [line for line in lines if line.startswith(("TracerPid:", "SigPnd:", "ShdPnd:"))]
    return told + [line for line in lines if re.match(r"State:\s[TtZX]", line)]
