"""Rules 1-5: who dies when, and by whose word."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from attacker import Box, family, is_gone

from pytest_airlock.errors import SandboxBusy, SandboxDied
from pytest_airlock.providers.namespaces import NamespacesProvider
from pytest_airlock.providers.namespaces import process as process_module
from pytest_airlock.providers.namespaces.engine import processes, syscalls

ROOT = str(Path(__file__).parents[2])

#: A run that owns two sandboxes with a command in each, and a forked child that will not go.
OWNER = """
import os, signal, sys
from pytest_airlock.providers.base import Command, ProviderSpec
from pytest_airlock.providers.namespaces import NamespacesProvider
provider = NamespacesProvider()
for name in ("one", "two"):
    handle = provider.create(ProviderSpec(name))
    provider.start(handle)
    process = provider.spawn(handle, Command(("/bin/sh", "-c", "sleep 1000 & echo x; sleep 1000")))
    process.stdout.read(1)
child = os.fork()
if child == 0:
    while True:
        signal.pause()
print(child, flush=True)
signal.pause()
"""

#: Leaves a process of its own session behind, as daemon(3) does, and says its pid. The streams are closed by it.
DAEMON = """
import os, signal, sys
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        null = os.open("/dev/null", os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        os.write(write, str(os.getpid()).encode())
        os.close(write)
        while True:
            signal.pause()
    os._exit(0)
os.wait()
print(os.read(read, 20).decode(), flush=True)
"""


def daemon(box: Box) -> str:
    result = box.run([sys.executable, "-I", "-c", DAEMON])
    assert result.returncode == 0, result
    return result.out.strip()


def lives(box: Box, pid: str) -> bool:
    return box.run(f"kill -0 {pid}").returncode == 0


def test_rule01_all_die_with_the_owner_though_a_forked_child_of_it_lives(
    request: pytest.FixtureRequest, killed: list[int]
) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": ROOT}
    )
    with owner:
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        killed.append(child)
        engine = [pid for pid in family(owner.pid) if pid != child]
        assert len(engine) >= 7, "a fork server, two first processes, two shells and their children"
        pidfds = [os.pidfd_open(pid) for pid in engine]
        start = time.monotonic()
        owner.kill()
        try:
            assert all(map(is_gone, pidfds))
        finally:
            for fd in pidfds:
                os.close(fd)
        # Recorded, not asserted: how long it takes is the machine's affair, that they die is ours.
        took = round((time.monotonic() - start) * 1000, 1)
        request.node.user_properties.append(("milliseconds_until_all_were_dead", took))
    os.kill(child, 0)


def test_rule01_all_die_with_the_fork_server(make_box: Callable[..., Box]) -> None:
    provider = NamespacesProvider()
    try:
        box = Box(provider, "orphan")
        box.spawn("sleep 1000").close()
        assert provider._engine is not None
        server = provider._engine.found["pid"]
        pidfds = [os.pidfd_open(pid) for pid in family(server)]
        os.kill(server, signal.SIGKILL)
        assert len(pidfds) >= 2
        assert all(map(is_gone, pidfds))
        for fd in pidfds:
            os.close(fd)
        assert not provider.is_running(box.handle)
    finally:
        provider.close()


#: A run whose forked child tries to use the engine, and says in its status what of it is still open.
FORKED = """
import os
from pytest_airlock.errors import ProviderError
from pytest_airlock.providers.base import Command, ProviderSpec
from pytest_airlock.providers.namespaces import NamespacesProvider
def says(handle):
    process = provider.spawn(handle, Command(("/bin/echo", "still"), stdin="null"))
    with process.stdout, process.stderr:
        return process.stdout.read()
provider = NamespacesProvider()
handle = provider.create(ProviderSpec("parent"))
provider.start(handle)
pid = os.fork()
if pid == 0:
    refused = 0
    for call in (says, provider.is_running, provider.snapshot, provider.stop):
        try:
            call(handle)
        except ProviderError as error:
            refused += "another process" in str(error)
    links = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(64) if os.path.lexists(f"/proc/self/fd/{fd}")]
    kept = sum(link.startswith("socket:") or "[pidfd]" in link for link in links)
    provider.delete(handle)
    provider.close()
    os._exit(refused * 10 + kept)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 40
assert says(handle) == b"still\\n"
provider.close()
"""


def test_rule01_a_forked_child_lets_go_of_the_engine_and_harms_nothing() -> None:
    environ = {**os.environ, "PYTHONPATH": ROOT}
    result = subprocess.run([sys.executable, "-c", FORKED], env=environ, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_rule02_no_first_process_holds_a_descriptor_of_a_sibling(make_box: Callable[..., Box], mode: str) -> None:
    first, second = make_box(), make_box()
    if mode != "root":
        # What the owner of the name space may not see, a stranger does not either.
        for box in (first, second):
            with pytest.raises(PermissionError):
                os.listdir(f"/proc/{box.init}/fd")
        return
    held = [_sockets(box.init) for box in (first, second)]
    assert all(len(sockets) == 2 for sockets in held), "its control socket, and where visitors are introduced"
    assert not held[0] & held[1]
    for box in (first, second):
        kinds = {os.readlink(fd).split(":")[0] for fd in Path(f"/proc/{box.init}/fd").iterdir()}
        assert kinds <= {"/dev/null", "/proc", "socket", "anon_inode", "/proc/1/oom_score_adj"}, "its own, no host file"


def _sockets(pid: int) -> set[str]:
    links = (os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir())
    return {link for link in links if link.startswith("socket:")}


def test_rule02_commands_inherit_their_three_streams_and_nothing_else(box: Box, users: tuple[str, ...]) -> None:
    for user in users:
        # 3 is the directory that is being listed.
        assert box.run("exec ls /proc/self/fd", user=user).out.split() == ["0", "1", "2", "3"]


def test_rule03_after_a_reset_the_kernel_says_that_the_old_world_is_dead(
    box: Box, provider: NamespacesProvider
) -> None:
    snapshot = provider.snapshot(box.handle)
    daemon(box)
    pidfds = [os.pidfd_open(pid) for pid in (box.init, *family(box.init))]
    assert len(pidfds) >= 2
    try:
        assert not select.select(pidfds, [], [], 0)[0]
        proof = provider.reset(box.handle, snapshot)
        # Not waited for: it is so when reset() returns.
        assert sorted(select.select(pidfds, [], [], 0)[0]) == sorted(pidfds)
    finally:
        for fd in pidfds:
            os.close(fd)
    assert proof.by == "kernel"
    assert proof.old != proof.new


@pytest.mark.parametrize("attempt", range(5))
def test_rule04_a_time_out_finds_the_double_forked_and_spares_an_older_daemon(box: Box, attempt: int) -> None:
    """More than once: the older one is often born in the same clock tick as the command, the unit of proc_pid_stat(5)."""
    older = daemon(box)
    process = box.spawn([sys.executable, "-I", "-c", f"{DAEMON}\nsignal.pause()"])
    escaped = process.stdout.readline().decode().strip()
    assert lives(box, older)
    assert lives(box, escaped)
    process.kill_tree()
    assert process.wait(10).returncode == -signal.SIGKILL
    assert not lives(box, escaped)
    assert lives(box, older)


@pytest.mark.parametrize(
    ("pid", "started", "dies"),
    [
        (49, 999, False),
        (49, 1000, False),
        (51, 1000, True),
        (49, 1001, True),
        (40_000, 1000, True),
        (60_000, 999, False),
    ],
)
def test_rule04_who_counts_as_born_since(pid: int, started: int, dies: bool) -> None:
    orphan = processes.Process(pid, 1, "S", started, b"orphan")
    assert processes.doomed([orphan], 50, 1000, {50}) == ([pid] if dies else [])


def test_rule04_numbers_that_begin_again_hide_nobody() -> None:
    orphan = processes.Process(301, 1, "S", 1000, b"orphan")
    assert processes.doomed([orphan], 32_767, 1000, {32_767}) == [301]


def test_rule04_a_command_that_forks_faster_than_it_is_killed_dies_all_the_same(box: Box) -> None:
    bomb = """
import os, sys
print("x", flush=True)
while True:
    # Each generation leaves its parent's session and lets it die: nobody has a parent for long.
    if os.fork():
        os._exit(0)
    os.setsid()
"""
    process = box.spawn([sys.executable, "-I", "-c", bomb])
    assert process.stdout.readline() == b"x\n"
    process.kill_tree()
    listed = box.run("for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $f; echo; done").out
    assert "setsid" not in listed


def test_rule04_a_time_out_finds_a_process_whose_first_thread_has_ended(box: Box, provider: NamespacesProvider) -> None:
    """It looks dead, as one that waits to be reaped, while its other threads run on."""
    script = """
import threading
threading.Thread(target=signal.pause).start()
print("ready", flush=True)
call("exit", 0)
"""
    process = box.python(script)
    while "Z" not in box.run(f"cut -d ' ' -f 3 /proc/{process.pid}/stat").out:
        assert lives(box, str(process.pid))
    with pytest.raises(SandboxBusy):
        provider.snapshot(box.handle)
    process.kill_tree()
    assert process.wait(10).returncode == -signal.SIGKILL


def test_rule04_what_does_not_answer_is_ended_before_it_is_called_dead(
    box: Box, provider: NamespacesProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From inside, PID 1 is held up by stopping its child before that has executed; here the host stops PID 1 itself."""
    life = provider._boxes[box.name].life
    assert life is not None
    pidfd = os.dup(life.pidfd)
    try:
        process = box.spawn("exec sleep 1000")
        os.kill(box.init, signal.SIGSTOP)
        monkeypatch.setattr(process_module, "PATIENCE", 0.1)
        with pytest.raises(SandboxDied, match="did not answer"):
            process.kill_tree()
        assert is_gone(pidfd, 0)
        assert not provider.is_running(box.handle)
    finally:
        os.close(pidfd)


def test_rule04_signals_to_all_do_not_reach_the_first_process(box: Box) -> None:
    box.attack("for number in range(1, 65):\n    if number not in (32, 33): tried(os.kill, 1, number)")
    box.run("kill -KILL -1")
    assert box.run("echo alive").out == "alive\n"


@pytest.mark.parametrize("death", ["os.abort()", "signal.raise_signal(signal.SIGUSR1)"])
def test_rule05_abort_and_raise_work_in_a_command(box: Box, death: str) -> None:
    number = signal.SIGABRT if "abort" in death else signal.SIGUSR1
    assert box.run([sys.executable, "-I", "-c", f"import os, signal; {death}"]).returncode == -number


@pytest.mark.parametrize("death", ["os.abort()", "signal.raise_signal(signal.SIGUSR1)"])
def test_rule05_abort_and_raise_work_in_the_child_of_a_raw_clone(death: str) -> None:
    """libc remembers the thread's id from before the call; here the child has none of its own yet."""
    number = signal.SIGABRT if "abort" in death else signal.SIGUSR1
    script = f"""
import os, signal, sys
from pytest_airlock.providers.namespaces.engine import processes, syscalls
pid, pidfd = syscalls.clone({syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWPID})
if pid == 0:
    try:
        # As any process but PID 1 of its name space, which no signal of its own kills.
        if os.fork() == 0:
            {death}
            os._exit(0)
        os._exit(os.wait()[1] & 0x7F)
    finally:
        os._exit(99)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    environ = {**os.environ, "PYTHONPATH": ROOT}
    assert subprocess.run([sys.executable, "-c", script], env=environ, check=False).returncode == number


@pytest.mark.parametrize("death", ["os.abort()", "signal.raise_signal(signal.SIGUSR1)"])
def test_rule05_abort_and_raise_work_in_a_raw_clone_itself(death: str) -> None:
    number = signal.SIGABRT if "abort" in death else signal.SIGUSR1
    script = f"""
import os, signal, sys
from pytest_airlock.providers.namespaces.engine import processes, syscalls
pid, pidfd = syscalls.clone(0)
if pid == 0:
    try:
        {death}
    finally:
        os._exit(99)
sys.exit(-os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    environ = {**os.environ, "PYTHONPATH": ROOT}
    assert subprocess.run([sys.executable, "-c", script], env=environ, check=False).returncode == number
