"""Landlock in this machine's kernel: what it confines, and that an older one confines less and breaks nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_airlock.providers.namespaces.engine import landlock, syscalls
from pytest_airlock.providers.namespaces.engine.syscalls import StepError

ENGINE = Path(landlock.__file__).parent.parent
ABI = landlock.version()
here = pytest.mark.skipif(ABI < 6, reason="this kernel has no Landlock with scopes (ABI 6)")

#: argv: engine, ABI or "off", the one tree that stays open, a directory outside. Prints {name: "ok" or errno}.
CONFINED = """
import errno, json, os, signal, socket, sys
sys.path.insert(0, sys.argv[1])
from engine import landlock, syscalls
abi, inside, outside = sys.argv[2:5]

def tried(function, *args, **words):
    try:
        function(*args, **words)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"

leaked = os.open(outside, os.O_RDONLY | os.O_DIRECTORY)
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
    server.bind(b"\\0airlock-test-%d" % os.getpid())
    server.listen()
    host = os.getppid()
    if abi != "off":
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        landlock.confine(int(abi), json.loads(inside))
    own = json.loads(inside)[0] if json.loads(inside) else outside
    os.makedirs(own + "/a/b", exist_ok=True)
    with open(own + "/a/file", "w") as file:
        file.write("x")
    own_server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    own_server.bind(b"\\0airlock-test-own-%d" % os.getpid())
    own_server.listen()
    print(json.dumps({
        "through a leaked descriptor": tried(os.open, "file", os.O_RDONLY, dir_fd=leaked),
        "up from it": tried(os.open, "..", os.O_RDONLY, dir_fd=leaked),
        "create": tried(os.mkdir, outside + "/new"),
        "move between directories": tried(os.rename, own + "/a/file", own + "/a/b/file"),
        "truncate": tried(os.truncate, own + "/a/b/file", 0),
        "abstract socket": tried(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).connect, server.getsockname()),
        "own abstract socket": tried(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).connect, own_server.getsockname()),
        "signal to the parent": tried(os.kill, host, 0),
        "signal to itself": tried(os.kill, os.getpid(), 0),
    }))
"""
OPEN = {
    "through a leaked descriptor": "ok",
    "up from it": "ok",
    "create": "ok",
    "move between directories": "ok",
    "truncate": "ok",
    "abstract socket": "ok",
    "own abstract socket": "ok",
    "signal to the parent": "ok",
    "signal to itself": "ok",
}
CLOSED_FILES = {"through a leaked descriptor": "EACCES", "up from it": "EACCES", "create": "EACCES"}
CLOSED_SCOPES = {"abstract socket": "EPERM", "signal to the parent": "EPERM"}


def confined(tmp_path: Path, abi: int | str, *, files: bool = True) -> Any:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for directory in (inside, outside):
        directory.mkdir()
    (outside / "file").touch()
    trees = json.dumps([str(inside)] if files else None)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", CONFINED, str(ENGINE), str(abi), trees, str(outside)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_without_it_everything_is_open(tmp_path: Path) -> None:
    assert confined(tmp_path, "off") == OPEN


@here
def test_files_outside_abstract_sockets_and_signals_are_closed(tmp_path: Path) -> None:
    assert confined(tmp_path, ABI) == OPEN | CLOSED_FILES | CLOSED_SCOPES


@here
def test_without_file_rules_the_scopes_hold(tmp_path: Path) -> None:
    assert confined(tmp_path, ABI, files=False) == OPEN | CLOSED_SCOPES


@here
def test_without_any_tree_no_file_is_opened() -> None:
    program = """if True:
        import os, sys
        sys.path.insert(0, sys.argv[1])
        from engine import landlock, syscalls
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        landlock.confine(int(sys.argv[2]), ())
        try:
            os.open("/", os.O_RDONLY)
        except PermissionError:
            print("closed")
    """
    done = subprocess.run(
        [sys.executable, "-c", program, str(ENGINE), str(ABI)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "closed\n"


@here
@pytest.mark.parametrize(
    ("abi", "closed"), [(0, {}), (1, {}), (2, CLOSED_FILES), (3, CLOSED_FILES), (5, CLOSED_FILES)], ids=str
)
def test_an_older_kernel_confines_what_it_knows(tmp_path: Path, abi: int, closed: dict[str, str]) -> None:
    """ABI 1 has no file rules here: with them no file could be moved to another directory."""
    assert confined(tmp_path, abi) == OPEN | closed


def test_a_kernel_without_it_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> int:
        raise StepError(38, "landlock_create_ruleset")

    monkeypatch.setattr(syscalls, "_call", missing)
    assert landlock.version() == 0


@here
def test_what_cannot_be_used_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen rulesets already (E2BIG), or a filter that lets the question through but not the call."""

    def refused(_ruleset: int) -> None:
        raise StepError(7, "landlock_restrict_self")

    monkeypatch.setattr(syscalls, "landlock_restrict_self", refused)
    assert landlock.version() == 0


def test_asking_confines_nobody() -> None:
    for _ in range(20):  # of sixteen rulesets the last would be refused
        assert landlock.version() == ABI
