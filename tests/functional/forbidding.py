"""Run a program below a system-call filter that answers some calls with an error, as old kernels and strict hosts do.

python forbidding.py '[[NUMBER, ERRNO], …]' PROGRAM ARGUMENT…
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterable

from pytest_airlock.providers.namespaces.engine import syscalls
from pytest_airlock.providers.namespaces.engine.syscall_table import NUMBERS

Refused = Iterable[tuple[Iterable[str], int]]


def run_below(refused: Refused, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run `argv`; `refused` are (names of calls, errno)."""
    table = NUMBERS[os.uname().machine]
    pairs = [[table[name], answer] for names, answer in refused for name in names]
    words = [sys.executable, __file__, json.dumps(pairs), *argv]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def refuse(pairs: list[list[int]]) -> None:
    """Install the filter on this process; it stays across execve(2). See seccomp(2), BPF_RET with SECCOMP_RET_ERRNO."""
    code = [struct.pack("=HBBI", 0x20, 0, 0, 0)]  # the number of the call
    for number, answer in pairs:
        code += [struct.pack("=HBBI", 0x15, 0, 1, number), struct.pack("=HBBI", 0x06, 0, 0, 0x50000 | answer)]
    code.append(struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000))
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.seccomp(b"".join(code))


if __name__ == "__main__":
    if pairs := json.loads(sys.argv[1]):
        refuse(pairs)
    os.execvp(sys.argv[2], sys.argv[2:])
