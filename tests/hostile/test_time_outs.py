"""Whatever runs in a sandbox: a time-out is kept, its processes can be ended, and a reset leaves nothing of it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from attacker import PRELUDE
from cage import cage

import pytest_airlock.sandbox.sandbox as sandbox_module
from pytest_airlock import Sandbox, create_sandbox
from pytest_airlock.conformance.machine import within
from pytest_airlock.errors import CommandTimeout, OutputLimitExceeded, SandboxDied
from pytest_airlock.providers.namespaces import process as process_module

MIB = 1024**2
#: Seconds until a call counts as hanging: the time-out, the grace of a start, the end of a command, and what a busy machine takes.
PATIENCE = 60
TIMEOUT = 0.2


@pytest.fixture(scope="module")
def net(mode: str) -> Iterator[str]:
    """`mode` first: the fork server of other modules is not to be in this net, which ends with this module."""
    with cage() as how:
        yield how


@pytest.fixture(scope="module")
def warm(net: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One sandbox for all of this module: each attack hands it to the next by a reset."""
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv("AIRLOCK_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        patch.chdir(tmp_path_factory.mktemp("nothing"))
        yield stack.enter_context(create_sandbox(disk="64MiB"))


@pytest.fixture(scope="module")
def pristine(warm: Sandbox) -> Any:
    """What a look around finds in the first of them. There are files only where a mount point is below, as of a venv in /var/tmp."""
    found = remains(warm)
    assert (found["processes"], found["ipc"]) == ([], 0)
    within(warm.reset, PATIENCE)
    return found


@pytest.fixture
def machine(warm: Sandbox, pristine: Any) -> Iterator[Sandbox]:
    yield warm
    within(warm.reset, PATIENCE)
    assert remains(warm) == pristine
    assert not warm.diff()


def python(script: str) -> list[str]:
    return [sys.executable, "-I", "-c", f"{PRELUDE}\n{script}"]


def remains(sandbox: Sandbox) -> Any:
    """What a look around finds in a sandbox that is said to be pristine."""
    import json

    result = sandbox.run(
        python(
            """
answer["processes"] = [name for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, os.getpid())]
answer["files"] = {place: found for place in ("/tmp", "/dev/shm", "/dev/mqueue", "/var/tmp") if (found := os.listdir(place))}
answer["ipc"] = sum(len(open(f"/proc/sysvipc/{kind}").readlines()) - 1 for kind in ("msg", "sem", "shm"))
print(json.dumps(answer))
"""
        ),
        check=True,
    )
    return json.loads(result.stdout)


def test_the_net_below_these_tests_holds(net: str, warm: Sandbox) -> None:
    """Everything is in it: the fork server, and what runs in sandboxes."""
    if net == "control groups":
        for pid in ("self", str(_init(warm))):
            with open(f"/proc/{pid}/cgroup", encoding="ascii") as file:
                assert file.read().count(f"/airlock-cage-{os.getpid()}\n") == 2
    else:
        import resource

        assert resource.getrlimit(resource.RLIMIT_NPROC)[0] != resource.RLIM_INFINITY


def _init(sandbox: Sandbox) -> int:
    """The host's pid of PID 1: the parent that a command has no name for."""
    marker = f"airlock-{os.urandom(8).hex()}"
    with sandbox.popen(["/bin/sh", "-c", f": {marker}; echo; read line"], stdin=-1, stdout=-1) as process:
        process.stdout.readline()  # type: ignore[union-attr]  # it runs, and not what is about to become it
        pid = next(
            int(name) for name in os.listdir("/proc") if name.isdigit() and marker in _text(f"/proc/{name}/cmdline")
        )
        fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
        process.communicate("x\n", timeout=PATIENCE)
    return int(fields[1])


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


class Attack(NamedTuple):
    """`script` says "ready" when all is as it wants it. `outcome` is that of a command with a time-out started beside it."""

    script: str
    outcome: tuple[type[BaseException], ...] = (CommandTimeout,)


READY = 'print("ready", flush=True)\n'
FULL = """
def full(path):
    try:
        with open(path, "wb", buffering=0) as file:
            while file.write(bytes(1 << 20)): pass
    except OSError: pass
"""
ATTACKS = {
    "fork bomb": Attack(
        f"""
while True:
    try: os.fork()
    except OSError:
        if not answer: {READY}
        answer["told"] = True
""",
        (BlockingIOError,),
    ),
    "thread bomb": Attack(
        f"""
import _thread
_thread.stack_size(32768)
never = _thread.allocate_lock(); never.acquire()
try:
    while True: _thread.start_new_thread(never.acquire, ())
except RuntimeError: {READY}
while True: pass
""",
        (BlockingIOError,),
    ),
    "families that leave faster than they are killed": Attack(
        f"""
for _ in range(100):
    if os.fork() == 0: break
else:
    {READY}
    signal.pause()
while True:
    try:
        if os.fork(): os._exit(0)
        os.setsid()
    except OSError: pass
"""
    ),
    "900 that are busy": Attack(
        f"""
gate, open_gate = os.pipe()
for _ in range(900):
    if os.fork() == 0:
        os.close(open_gate)
        os.read(gate, 1)
        while True: pass
{READY}
os.close(open_gate)
while True: pass
"""
    ),
    "900 dead that nobody collects": Attack(
        f"""
for _ in range(900):
    if os.fork() == 0: os._exit(0)
{READY}
signal.pause()
"""
    ),
    "a flood of dead for PID 1": Attack(
        f"""
for _ in range(8):
    if os.fork() == 0:
        while True:
            if os.fork() == 0:
                for _ in range(20):
                    if os.fork() == 0: os._exit(0)
                os._exit(0)
            os.wait()
{READY}
signal.pause()
"""
    ),
    "a flood of signals for PID 1": Attack(
        f"""
for _ in range(50):
    if os.fork() == 0:
        while True:
            for number in range(1, 32): tried(os.kill, 1, number)
{READY}
signal.pause()
"""
    ),
    "everybody is stopped": Attack(
        f"""
for _ in range(50):
    if os.fork() == 0: signal.pause()
os.kill(-1, signal.SIGSTOP)
{READY}
os.kill(os.getpid(), signal.SIGSTOP)
"""
    ),
    "a disk that is full": Attack(
        f"""
{FULL}
while True:
    full("/tmp/big"); full("/dev/shm/big")
    if not answer: {READY}
    answer["told"] = True
"""
    ),
    "no inode is left": Attack(
        f"""
for number in range(1_000_000):
    if tried(os.mknod, f"/tmp/{{number}}", 0o100644) != "ok": break
{READY}
while True: tried(os.mknod, "/tmp/more", 0o100644)
"""
    ),
    "descriptors without end": Attack(
        f"""
import resource
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
children = [os.fork() for _ in range(3)]
read, write = os.pipe()
while True:
    if tried(os.pipe) != "ok":
        if all(children) and not answer: {READY}
        answer["told"] = True
"""
    ),
    "half a gigabyte of memory": Attack(
        f"""
held = bytearray(512 << 20)
for at in range(0, len(held), 4096): held[at] = 1
{READY}
while True:
    for at in range(0, len(held), 4096): held[at] ^= 1
"""
    ),
    "everything that waits on everybody's locks": Attack(
        f"""
import fcntl
for name in ("/etc/passwd", "/bin/sh", "/bin/sleep", "/usr/bin/env"):
    answer[name] = os.open(name, os.O_RDONLY)
    fcntl.flock(answer[name], fcntl.LOCK_EX)
{READY}
signal.pause()
"""
    ),
    "it leaves its session and streams": Attack(
        f"""
if os.fork(): signal.pause()
os.setsid()
if os.fork(): os._exit(0)
{READY}
os.closerange(0, 3)
while True: pass
"""
    ),
}


def start(machine: Sandbox, script: str) -> Any:
    """A popen whose script has said that it is ready."""
    process = machine.popen(python(script))
    assert process.stdout is not None
    assert within(process.stdout.readline, PATIENCE) == "ready\n"
    return process


@pytest.mark.parametrize("name", ATTACKS)
def test_a_time_out_is_kept_beside(machine: Sandbox, name: str, row: Callable[..., None]) -> None:
    attack = start(machine, ATTACKS[name].script)
    with pytest.raises(ATTACKS[name].outcome) as caught:
        within(lambda: machine.run(["/bin/sleep", "1000"], timeout=TIMEOUT), PATIENCE)
    within(attack.kill_tree, PATIENCE)
    attack.close()
    # Ended by PID 1, not with it: the sandbox goes on.
    assert within(lambda: machine.run(["/bin/echo", "alive"]), PATIENCE).stdout == "alive\n"
    row(
        f"A command with a time-out beside: {name}",
        group="exhaustion",
        stops="limits of the sandbox; PID 1 is held up by none of it",
        expected=ATTACKS[name].outcome[0].__name__,
        seen=type(caught.value).__name__,
        off="",
        without="not shown: without limits it would be this machine's end",
    )


@pytest.mark.parametrize("name", ATTACKS)
def test_a_reset_ends_it_without_the_help_of_anybody_inside(machine: Sandbox, name: str) -> None:
    start(machine, ATTACKS[name].script).close()
    # The rest is in the fixture: the reset comes back, and nothing is left.


# ---------------------------------------------------------------------- streams


@pytest.mark.parametrize(("size", "limit"), [(1, 100_000), (MIB, 64 * MIB)])
@pytest.mark.parametrize("stream", [1, 2])
def test_an_endless_output_ends_at_its_limit(machine: Sandbox, size: int, limit: int, stream: int) -> None:
    flood = python(f"data = bytes({size})\nwhile True: os.write({stream}, data)")
    with pytest.raises(OutputLimitExceeded) as caught:
        within(lambda: machine.run(flood, max_output=limit), PATIENCE)
    assert len(caught.value.result.stdout_bytes + caught.value.result.stderr_bytes) == limit


def test_an_endless_output_that_is_not_kept_ends_at_its_time_out(machine: Sandbox) -> None:
    flood = python("data = bytes(1 << 20)\nwhile True: os.write(1, data)")
    with open(os.devnull, "wb") as nowhere, pytest.raises(CommandTimeout):
        within(lambda: machine.run(flood, stdout=nowhere, max_output=None, timeout=TIMEOUT), PATIENCE)


def test_a_host_file_that_nobody_reads_holds_up_no_time_out(machine: Sandbox) -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(CommandTimeout):
            within(lambda: machine.run(["/usr/bin/yes"], stdout=write, timeout=TIMEOUT), PATIENCE)
    finally:
        os.close(read)
        os.close(write)


def test_an_output_that_nobody_reads_holds_up_no_kill(machine: Sandbox) -> None:
    process = machine.popen(["/usr/bin/yes"])
    within(process.kill_tree, PATIENCE)
    assert within(process.wait, PATIENCE) == -9
    process.close()


def test_an_input_that_is_not_read_holds_up_no_time_out(machine: Sandbox) -> None:
    with pytest.raises(CommandTimeout):
        within(lambda: machine.run(["/bin/sleep", "1000"], input=bytes(10 * MIB), timeout=TIMEOUT), PATIENCE)


def test_communicate_has_a_limit_as_well(machine: Sandbox) -> None:
    process = machine.popen(["/usr/bin/yes"], max_output=MIB)
    with pytest.raises(OutputLimitExceeded) as caught:
        within(process.communicate, PATIENCE)
    assert len(caught.value.output) == MIB
    process.close()


# ---------------------------------------------------------------------- a start that does not come

#: Ways to hold PID 1 up in the moment between vfork and execve, in which it waits for its child.
HOLDS = {
    # A lease is broken by the opener, who waits for its holder: 45 s by default (fcntl(2), /proc/sys/fs/lease-break-time).
    "a lease on the program": """
import fcntl, shutil
signal.signal(signal.SIGIO, signal.SIG_IGN)
shutil.copy("/bin/true", "/tmp/program")
fd = os.open("/tmp/program", os.O_RDWR)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("ready", flush=True)
signal.pause()
""",
    "the child is stopped before it has executed": """
import shutil
shutil.copy("/bin/true", "/tmp/program")
print("ready", flush=True)
own = os.getpid()
while True:
    for pid in range(own + 1, own + 200): tried(os.kill, pid, signal.SIGSTOP)
""",
}


def run_until_held(machine: Sandbox) -> CommandTimeout:
    """The time-out of a command that could not be started; one that is stopped a moment later was not held."""
    while True:
        try:
            machine.run(["/tmp/program"], timeout=TIMEOUT)
        except CommandTimeout as error:
            if any("the whole sandbox had to be ended" in note for note in getattr(error, "__notes__", ())):
                return error


@pytest.mark.parametrize("hold", HOLDS)
def test_a_time_out_covers_the_start(
    machine: Sandbox, hold: str, monkeypatch: pytest.MonkeyPatch, row: Callable[..., None]
) -> None:
    monkeypatch.setattr(sandbox_module, "START_GRACE", 0.5)
    start(machine, HOLDS[hold]).close()
    caught = within(lambda: run_until_held(machine), PATIENCE)
    assert caught.result.returncode == -9
    assert "not started" in str(machine.transcript)
    with pytest.raises(SandboxDied):
        machine.run(["/bin/true"])
    row(
        f"Hold PID 1 up while it starts a command: {hold}",
        group="exhaustion",
        stops="the time-out covers the start, the kernel ends the sandbox",
        expected="CommandTimeout",
        seen=type(caught).__name__,
        off="a start may take as long as it likes",
        without="no answer",
    )


@pytest.mark.parametrize("hold", HOLDS)
def test_control_without_it_there_is_no_answer(machine: Sandbox, hold: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "START_GRACE", 1000.0)
    monkeypatch.setattr(process_module, "PATIENCE", 1000.0)
    start(machine, HOLDS[hold]).close()
    ended: list[CommandTimeout] = []
    thread = threading.Thread(target=lambda: ended.append(run_until_held(machine)))
    thread.start()
    thread.join(3)
    assert thread.is_alive()
    within(machine.reset, PATIENCE)
    thread.join(PATIENCE)
    assert [error.result.returncode for error in ended] == [-9]


def test_a_stuck_first_process_holds_up_no_kill(machine: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two orders at once: one that PID 1 hangs in, and a time-out that wants to end its command meanwhile."""
    monkeypatch.setattr(process_module, "KILLING", 0.5)
    start(machine, HOLDS["a lease on the program"]).close()
    process = machine.popen(["/bin/sleep", "1000"])

    def run() -> None:
        with contextlib.suppress(SandboxDied):
            machine.run(["/tmp/program"])

    stuck = threading.Thread(target=run)
    stuck.start()
    with pytest.raises(SandboxDied, match="did not answer in time"):
        # Until the other order has arrived it would still be obeyed.
        while True:
            within(process.kill_tree, PATIENCE)
    stuck.join(PATIENCE)
    assert not stuck.is_alive()
    process.close()
