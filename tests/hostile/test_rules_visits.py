"""Rule 13: a sandbox is entered through the door of its fork server, by its own user, and by no sandbox."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attacker import PATIENCE, Box

from pytest_airlock.errors import MountForbidden, ProviderError, SandboxDied
from pytest_airlock.models import Mount
from pytest_airlock.orchestrator.assembly import Setup
from pytest_airlock.orchestrator.policy.mounts import HostMountRules
from pytest_airlock.orchestrator.policy.profiles import ProfileRegistry
from pytest_airlock.providers.base import Command, ResolvedMount
from pytest_airlock.providers.namespaces import NamespacesProvider
from pytest_airlock.providers.namespaces.engine import protocol
from pytest_airlock.providers.namespaces.engine.door import WAITING
from pytest_airlock.providers.namespaces.engine.protocol import Request
from pytest_airlock.providers.namespaces.visiting import GuestTerminal, NamespaceVisit
from pytest_airlock.providers.places import run_time_dir

#: Asks for a sandbox: argv = directory of the socket, its name, the number. Says what came of it.
KNOCK = """
import json, os, socket, sys
directory, name, number = sys.argv[1:]
try:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.chdir(directory)
    sock.connect(name)
    sock.send(json.dumps({"visit": int(number)}).encode())
    print(sock.recv(4096)[1:].decode())
except OSError as error:
    print(error.strerror)
"""


@pytest.fixture
def door(box: Box) -> Path:
    return Path(box.handle.data["door"])


def knock(door: Path, box: Box, *before: str) -> str:
    argv = [*before, sys.executable, "-I", "-c", KNOCK, str(door.parent), door.name, str(box.handle.data["number"])]
    return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout.strip()


def connected(door: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    directory = os.open(door.parent, os.O_PATH)
    try:
        sock.connect(f"/proc/self/fd/{directory}/{door.name}")
    finally:
        os.close(directory)
    sock.settimeout(PATIENCE)
    return sock


def answer(sock: socket.socket, request: bytes) -> object:
    sock.send(request)
    data, _, _, _ = socket.recv_fds(sock, 65_536, 0)
    return json.loads(data[1:]) if data else None


def test_rule13_the_users_own_processes_are_let_in(door: Path, box: Box) -> None:
    """The control of the refusals below."""
    assert json.loads(knock(door, box))["ok"]["name"] == box.name


def test_rule13_another_user_is_refused_even_where_the_files_would_let_it(door: Path, box: Box) -> None:
    if os.geteuid():
        pytest.skip("only root can become another user")
    number = box.handle.data["number"]
    assert as_nobody(door, number) == "Permission denied"
    try:
        door.parent.chmod(0o755)
        assert as_nobody(door, number) == "Permission denied"
        door.chmod(0o666)
        assert json.loads(as_nobody(door, number)) == {"refused": "user"}
    finally:
        door.parent.chmod(0o700)


def as_nobody(door: Path, number: int) -> str:
    """What a process of uid 65534 is told. It starts below the directory, past whatever lies above."""
    read, write = os.pipe()
    directory = os.open(door.parent, os.O_PATH)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(65_534, 65_534, 65_534)
            os.fchdir(directory)
            os.setresuid(65_534, 65_534, 65_534)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(door.name)
                sock.send(b'{"visit":%d}' % number)
                os.write(write, sock.recv(4096)[1:])
        except OSError as error:
            os.write(write, str(error.strerror).encode())
        finally:
            os._exit(0)
    for fd in (write, directory):
        os.close(fd)
    with open(read, encoding="utf-8") as file:
        told = file.read()
    os.waitpid(pid, 0)
    return told


def test_rule13_who_sits_in_a_pid_name_space_as_a_sandbox_does_is_refused(door: Path, box: Box) -> None:
    assert json.loads(knock(door, box, "unshare", "--user", "--map-root-user", "--pid", "--fork")) == {
        "refused": "namespace"
    }


def test_rule13_no_sandbox_reaches_the_door_even_where_its_directory_is_shared(
    door: Path, make_box: Callable[..., Box], mode: str
) -> None:
    """The mount rules refuse this; the engine does not know them."""
    box = make_box(mounts=(ResolvedMount(str(door.parent), "/mnt/door", "rw"),))
    told = box.attack(
        f"""
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
os.chdir("/mnt/door")
answer["connect"] = tried(sock.connect, "{door.name}")
if answer["connect"] == "ok":
    sock.send(b'{{"visit":{box.handle.data["number"]}}}')
    answer["told"] = sock.recv(4096).decode()
"""
    )
    # As root it has ids of its own, else the user's.
    refused = "user" if mode == "root" else "namespace"
    assert told == {"connect": "ok", "told": f'\0{{"refused":"{refused}"}}'}


def test_rule13_the_directory_of_doors_can_be_mounted_by_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("AIRLOCK_STATE_DIR", str(tmp_path / "state"))
    place = run_time_dir()
    place.mkdir(parents=True, exist_ok=True)
    setup = Setup(state_dir=tmp_path / "another")
    rules: HostMountRules = setup.planner().__closure__[0].cell_contents.keywords["mount_rules"]  # type: ignore[index]
    for path in (place, place.parent):
        with pytest.raises(MountForbidden, match="sensitive"):
            rules.resolve(Mount(source=str(path), mode="rw"), ProfileRegistry().get("dev"))


@pytest.mark.parametrize(
    "request_",
    [b"", b"x" * 257, b"{", b"[" * 256, b"[]", b'{"visit": true}', b'{"visit": "1"}', b'{"visit": 1e999}', b"\xff"],
)
def test_rule13_nonsense_is_refused_and_harms_nobody(door: Path, box: Box, request_: bytes) -> None:
    with connected(door) as sock:
        sock.send(request_)
        data = sock.recv(4096)
    assert data in (b"", b'\0{"refused":"request"}')
    assert box.run("true").returncode == 0


def test_rule13_who_does_not_ask_is_dropped_for_the_next_and_holds_nobody_up(door: Path, box: Box) -> None:
    number = b'{"visit":%d}' % box.handle.data["number"]
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connected(door)) for _ in range(WAITING + 4)]
        box.provider.stop(box.handle, grace=0)  # the fork server answers its owner
        box.provider.start(box.handle)
        assert answer(stack.enter_context(connected(door)), number)
        assert silent[0].recv(100) == b""  # hung up on
        assert "ok" in answer(silent[-1], number)  # type: ignore[operator]


@pytest.fixture
def visit(provider: NamespacesProvider, box: Box) -> Iterator[NamespaceVisit]:
    visit = provider.attach(box.handle)
    yield visit
    visit.close()


def spawned(box: Box) -> int:
    process = box.spawn("echo here; exec sleep 1000")
    process.stdout.readline()
    return int(process.pid)


@pytest.mark.parametrize(
    "message",
    [
        Request(protocol.TERMINATE),
        Request(protocol.KILL_TREE, target=2),
        Request(protocol.FILES, payload=b"x"),
        Request(99),
    ],
    ids=["terminate", "kill a tree", "files", "unknown"],
)
def test_rule13_a_visitor_that_asks_for_more_than_commands_is_shown_out(
    visit: NamespaceVisit, box: Box, message: Request
) -> None:
    pid = spawned(box)
    with pytest.raises(SandboxDied):
        visit._life.call(message)
    with pytest.raises(SandboxDied):
        visit.spawn(Command(("true",)))
    assert box.run(f"kill -0 {pid}").returncode == 0


@pytest.mark.parametrize("junk", [b"\0", b"\0" + b"x" * 500, b"\1no memory", b"\0" + bytes(range(256))])
def test_rule13_what_a_visitor_sends_wrongly_ends_its_visit_only(visit: NamespaceVisit, box: Box, junk: bytes) -> None:
    pid = spawned(box)
    visit._life.control.send(junk)
    with pytest.raises(SandboxDied):
        visit.spawn(Command(("true",)))
    assert box.run(f"kill -0 {pid}").returncode == 0


def test_rule13_a_visitor_signals_what_it_started_and_nothing_else(visit: NamespaceVisit, box: Box) -> None:
    pid = spawned(box)
    for target in (pid, -pid, 1, -1, 0):
        visit._life.ask(Request(protocol.SIGNAL, value=9, target=target)).close()
    with contextlib.closing(visit.spawn(Command(("true",)))) as process:
        assert process.wait(PATIENCE).returncode == 0
    assert box.run(f"kill -0 {pid}").returncode == 0


def test_rule13_visits_are_bounded(provider: NamespacesProvider, box: Box) -> None:
    with contextlib.ExitStack() as stack:
        with pytest.raises(Exception, match="too many visitors") as caught:
            for _ in range(1000):
                stack.enter_context(contextlib.closing(provider.attach(box.handle)))
        assert type(caught.value).__name__ == "ProviderError"
        assert box.run("true").returncode == 0
    assert box.run("true").returncode == 0  # by the end of which they are seen to have left
    provider.attach(box.handle).close()


def test_rule13_a_stopped_first_process_holds_up_no_one_but_its_visitors(
    provider: NamespacesProvider, box: Box, make_box: Callable[..., Box]
) -> None:
    other = make_box()
    os.kill(box.init, 19)
    try:
        door = Path(box.handle.data["door"])
        number = b'{"visit":%d}' % box.handle.data["number"]
        with contextlib.ExitStack() as stack:
            for _ in range(600):  # more than the channel to it takes
                sock = stack.enter_context(connected(door))
                told = answer(sock, number)
                if told != {"refused": "gone", "errno": 11}:
                    assert "ok" in told  # type: ignore[operator]
        other.provider.stop(other.handle, grace=0)
        other.start()
        assert other.run("true").returncode == 0
    finally:
        os.kill(box.init, 18)


def test_rule11_no_descriptor_made_inside_comes_out_with_a_terminal(visit: NamespaceVisit) -> None:
    """What the visitor holds are its own pipes; a terminal of the sandbox would be a character device."""
    terminal = visit.terminal(Command(("sh", "-c", "tty; read x")), (24, 80))
    try:
        terminal.stdout.read(1)
        for stream in (terminal.stdin, terminal.stdout, terminal._sizes):
            assert os.readlink(f"/proc/self/fd/{stream.fileno()}").startswith("pipe:")
        with socket.socket(fileno=os.dup(terminal.fileno())) as channel, pytest.raises(BlockingIOError):
            channel.recvmsg(4096, 4096, socket.MSG_DONTWAIT)  # nothing is under way either
    finally:
        terminal.close()


def test_rule13_a_time_out_of_the_owner_ends_no_terminal_of_a_visitor(visit: NamespaceVisit, box: Box) -> None:
    """What copies for the terminal is a younger child of PID 1, as an orphan of the command would be."""
    late = box.spawn("echo here; exec sleep 1000")
    late.stdout.readline()
    terminal = visit.terminal(Command(("sh", "-c", "stty -echo; echo here; read x; echo $x")), (24, 80))
    assert until_line(terminal) == b"here\r\n"
    late.kill_tree()
    assert late.wait(PATIENCE).returncode == -9
    terminal.stdin.write(b"still\r")
    assert until_line(terminal) == b"still\r\n"
    terminal.close()


def until_line(terminal: GuestTerminal) -> bytes:
    made = b""
    while not made.endswith(b"\n"):
        assert select.select([terminal.stdout], [], [], PATIENCE)[0], made
        data = terminal.stdout.read(1)
        assert data, f"hung up after {made!r}"
        made += data
    return made


def test_rule13_where_no_door_can_be_opened_the_reason_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Others may look into the directory: there is no visiting then, and all else works."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("AIRLOCK_STATE_DIR", str(tmp_path))
    monkeypatch.setattr("pytest_airlock.providers.places._is_private", lambda path: False)
    place = run_time_dir()
    place.mkdir(parents=True)
    place.chmod(0o755)
    with contextlib.closing(NamespacesProvider()) as provider:
        box = Box(provider, "doorless")
        assert box.run("true").returncode == 0
        with pytest.raises(ProviderError, match=f"others have access to this directory: '{place}'"):
            provider.attach(box.handle)
        box.delete()
    assert list(place.iterdir()) == []
