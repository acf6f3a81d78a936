"""What crosses the wall: environment, sockets in mounts, credentials, and a look from outside."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attacker import CANARY, Box
from attacks import By, attack
from attacks_neighbours import shared_directory
from weakened import OnHost, weaken
from weakenings import DUMPABLE, READ_ONLY_BINDS

from pytest_airlock.providers.base import ResolvedMount

_popen = subprocess.Popen


def _with_environment(*words: Any, **named: Any) -> Any:
    """What the engine is started with, and the whole environment of the test process."""
    return _popen(*words, **{**named, "env": dict(os.environ)})


ENVIRONMENT = weaken(
    "the environment is inherited",
    OnHost("pytest_airlock.providers.namespaces.client.subprocess.Popen", _with_environment),
)


@attack(
    {"PID 1": "EACCES", "canary": False},
    stops="an empty environment from the start; PID 1 is not dumpable",
    controls={(DUMPABLE,): {"PID 1": "ok", "canary": False}, (DUMPABLE, ENVIRONMENT): {"PID 1": "ok", "canary": True}},
)
def reads_the_environment_of_the_test_process(box: Box) -> Any:
    """/proc/*/environ, PID 1's above all."""
    return box.attack(
        f"""
answer["PID 1"] = tried(open, "/proc/1/environ", "rb")
texts = b""
for name in os.listdir("/proc"):
    if name.isdigit():
        try:
            texts += open(f"/proc/{{name}}/environ", "rb").read()
        except OSError:
            pass
answer["canary"] = {CANARY.encode()!r} in texts
"""
    )


@contextlib.contextmanager
def listening(path: Path) -> Iterator[None]:
    """A socket and a FIFO of the host with somebody at the other end."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path / "socket"))
        (path / "socket").chmod(0o777)
        sock.listen()
        os.mkfifo(path / "fifo")
        (path / "fifo").chmod(0o666)
        reader = os.open(path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        try:
            yield
        finally:
            os.close(reader)


@attack(
    {"socket": "ECONNREFUSED", "fifo": "ENXIO"},
    stops="an overlay view has sockets and FIFOs of its own",
    controls={(READ_ONLY_BINDS,): {"socket": "ok", "fifo": "ok"}},
)
def connects_to_a_socket_in_a_read_only_mount(box: Box) -> Any:
    """A socket and a FIFO in a directory that is shown read-only."""
    with shared_directory() as path, listening(path):
        other = box.another(mounts=(ResolvedMount(str(path), str(path), "ro"),))
        other.user = box.user
        return other.attack(
            f"""
answer["socket"] = tried(socket.socket(socket.AF_UNIX).connect, {str(path / "socket")!r})
answer["fifo"] = tried(os.open, {str(path / "fifo")!r}, os.O_WRONLY | os.O_NONBLOCK)
"""
        )


UNMASKED = weaken(
    "credentials not masked",
    OnHost("pytest_airlock.providers.namespaces.images.masks._Walk.run", lambda self, start: None),
)
SECRET = "hunter2-very-secret"
PROJECT = {
    ".env": f"TOKEN={SECRET}\n",
    ".netrc": f"machine x login y password {SECRET}\n",
    ".git/config": f'[core]\n\tbare = false\n[remote "origin"]\n\turl = https://me:{SECRET}@example.org/x.git\n',
    ".aws/credentials": f"aws_secret_access_key = {SECRET}\n",
    "src/id_rsa": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\n-----END OPENSSH PRIVATE KEY-----\n",
}


@attack(
    [],
    stops="masks in every view of the project",
    controls={(UNMASKED,): sorted(PROJECT)},
)
def reads_credentials_in_the_project(box: Box) -> Any:
    """.env, .netrc, .git/config, .aws, private keys: found by grep, in a copy and under another name, too."""
    with shared_directory() as path:
        for name, text in PROJECT.items():
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_text(text)
        other = box.another(mounts=(ResolvedMount(str(path), str(path), "cow", project=True),))
        other.user = box.user
        found = other.run(f"cp -r {path}/. /tmp/copy; cd /tmp/copy; grep -rlaF {SECRET} . {path}").out.split()
        return sorted({name.removeprefix("./").removeprefix(f"{path}/") for name in found})


@attack(
    By(
        dict.fromkeys(("root", "cwd", "fd", "environ"), "EACCES"),
        root=dict.fromkeys(("root", "cwd", "fd", "environ"), "ok"),
    ),
    stops="PID 1 is not dumpable",
    controls={(DUMPABLE,): dict.fromkeys(("root", "cwd", "fd", "environ"), "ok")},
    not_shown={"root": "root of the machine may look: that is who it is"},
    users=("root",),
)
def looks_in_from_the_host(box: Box) -> Any:
    """Another process of the same user of the host, through /proc/PID of PID 1."""
    answer = {}
    for name in ("root", "cwd", "fd", "environ"):
        try:
            os.close(os.open(f"/proc/{box.init}/{name}", os.O_RDONLY))
            answer[name] = "ok"
        except PermissionError:
            answer[name] = "EACCES"
    return answer


HASTY = weaken(
    "the host looked at before the old world is dead",
    OnHost("pytest_airlock.providers.namespaces.box.Box.shares", property(lambda self: False)),
)
SWAP = """
os.chdir({path!r})
for _ in range(20):
    if os.fork() == 0:
        break
swap = libc.renameat2
swap(-100, b"one", -100, b"two", 2)
print("ready", flush=True) if os.getppid() == 1 else None
while True:
    swap(-100, b"one", -100, b"two", 2)
"""


@attack(
    "masked",
    stops="the old world is dead before the project is looked at, and has no spare if a shared directory is masked",
    controls={(HASTY,): "seen"},
    users=("root",),
)
def moves_a_credential_while_it_is_looked_for(box: Box) -> Any:
    """Two directories of a shared project, one with a .env, swapped without end while the next world is put together."""
    with shared_directory() as path:
        for name in (".", "one", "two"):
            (path / name).mkdir(exist_ok=True)
            (path / name).chmod(0o777)
        (path / "one/.env").write_text(f"TOKEN={SECRET}\n")
        other = box.another(mounts=(ResolvedMount(str(path), str(path), "rw", project=True),))
        snapshot = other.provider.snapshot(other.handle)
        for _ in range(30):
            other.python(SWAP.format(path=str(path)))
            other.provider.reset(other.handle, snapshot)
            if other.run(f"grep -r {SECRET} {path}").out:
                return "seen"
    return "masked"
