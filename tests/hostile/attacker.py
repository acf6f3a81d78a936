"""Attacks from inside: a sandbox for each test, and how an attack is run in it and tells what came of it."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_airlock.providers.base import Command, ProviderSpec
from pytest_airlock.providers.namespaces import NamespacesProvider
from pytest_airlock.providers.namespaces.engine.syscall_table import NUMBERS
from pytest_airlock.providers.namespaces.process import NamespaceProcess

#: In the environment of the test process before the engine starts; nothing inside may ever see it.
CANARY = "canary-5f0e2c71"
#: Seconds until an attack counts as hanging.
PATIENCE = 60

#: What every attack may use: `call(name, …)` makes a system call, `tried(function, …)` calls Python; both answer "ok" or
#: the name of the errno. `answer` is a dict that is printed in the end.
PRELUDE = """
import ctypes, errno, json, os, signal, socket, struct, sys
numbers = json.loads('''%s''')
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
answer = {}

def call(name, *args):
    ctypes.set_errno(0)
    words = [arg if isinstance(arg, (bytes, ctypes.Array)) else ctypes.c_ulong(arg & 2**64 - 1) for arg in args]
    result = libc.syscall(ctypes.c_long(numbers[name]), *words)
    return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]

def tried(function, *args, **words):
    try:
        function(*args, **words)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"

def wrote(path, text):
    def write():
        with open(path, "wb", buffering=0) as file:
            file.write(text)
    return tried(write)
""" % json.dumps(NUMBERS[os.uname().machine])  # noqa: UP031 - braces are Python's in there


class Result(NamedTuple):
    returncode: int
    out: str
    err: str


class Box:
    """A running sandbox. A `str` is a script for /bin/sh, a list an argv."""

    #: Who attacks where nobody is named; None is the sandbox's own default.
    user: str | None = None

    def __init__(self, provider: NamespacesProvider, name: str, **words: Any) -> None:
        self.provider, self.name = provider, name
        self.handle = provider.create(ProviderSpec(name, **words))
        self.spawned: list[NamespaceProcess] = []
        self.others: list[Box] = []
        self.start()

    def another(self, **words: Any) -> Box:
        """A neighbour: deleted with this one."""
        self.others.append(Box(self.provider, f"{self.name}-{len(self.others)}", **words))
        return self.others[-1]

    @property
    def mode(self) -> str:
        return id_mode(self.provider)

    def start(self) -> None:
        self.provider.start(self.handle)

    def spawn(self, command: str | list[str], *, user: str | None = None, **redirect: Any) -> Any:
        """Start it; whatever becomes of it, its streams are closed with the sandbox."""
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else command
        env = tuple(self.provider.environ(self.handle).items())
        user = user or self.user
        self.spawned.append(self.provider.spawn(self.handle, Command(tuple(argv), env, user=user, **redirect)))
        return self.spawned[-1]

    def python(self, script: str, *, user: str | None = None, **redirect: Any) -> Any:
        """Start Python inside with PRELUDE before the script; returns when it has said "ready"."""
        argv = [sys.executable, "-I", "-c", f"{PRELUDE}\n{script}"]
        process = self.spawn(argv, user=user, stderr="stdout", **redirect)
        assert select.select([process.stdout], [], [], PATIENCE)[0], "it says nothing"
        first = process.stdout.readline()
        assert first == b"ready\n", first + process.stdout.read()
        return process

    def run(self, command: str | list[str], *, user: str | None = None, stdin: bytes | None = None) -> Result:
        process = self.spawn(command, user=user, stdin="null" if stdin is None else "pipe")
        try:
            if stdin is not None:
                process.stdin.write(stdin)
                process.stdin.close()
            out, err = _drain(process)
            return Result(process.wait(PATIENCE).returncode, out, err)
        finally:
            process.close()

    def attack(self, script: str, *, user: str | None = None, stdin: bytes | None = None) -> Any:
        """Run Python inside with PRELUDE before it; what it puts into `answer` is returned."""
        code = f"{PRELUDE}\n{script}\nprint(json.dumps(answer))"
        result = self.run([sys.executable, "-I", "-c", code], user=user, stdin=stdin)
        assert result.returncode == 0, result
        return json.loads(result.out)

    @property
    def init(self) -> int:
        """The host's pid of its first process."""
        life = self.provider._boxes[self.name].life
        assert life is not None
        text = Path(f"/proc/self/fdinfo/{life.pidfd}").read_text()
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith("Pid:")))

    def delete(self) -> None:
        for other in self.others:
            other.delete()
        self.others.clear()
        for process in self.spawned:
            process.close()
        self.provider.delete(self.handle)


def id_mode(provider: NamespacesProvider) -> str:
    """How the engine has its ids here: "root" (a leased range each), "range" (of subuid(5)) or "single" (one id)."""
    engine = provider._engine
    assert engine is not None
    if engine.found["privileged"]:
        return "root"
    return "range" if engine.found["ids"] > 1 else "single"


def _drain(process: Any) -> tuple[str, str]:
    """Read both streams to their ends, and not forever."""
    data = {process.stdout.fileno(): b"", process.stderr.fileno(): b""}
    streams = list(data)
    poll = select.poll()
    for fd in streams:
        poll.register(fd, select.POLLIN)
    end = time.monotonic() + PATIENCE
    while streams:
        events = poll.poll(max(0, end - time.monotonic()) * 1000)
        if not events:
            process.kill_tree()
            pytest.fail(f"the attack hangs: {data}")
        for fd, _ in events:
            chunk = os.read(fd, 1 << 16)
            data[fd] += chunk
            if not chunk:
                poll.unregister(fd)
                streams.remove(fd)
    out, err = (text.decode("utf-8", "backslashreplace") for text in data.values())
    return out, err


def is_gone(pidfd: int, patience: float = 10) -> bool:
    """The kernel's word, waited for: the process has ended (pidfd_open(2))."""
    return bool(select.select([pidfd], [], [], patience)[0])


def family(pid: int) -> list[int]:
    """All descendants of a process, as the host numbers them."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found, heads = [], [pid]
    while heads:
        below = children.get(heads.pop(), [])
        found += below
        heads += below
    return found
