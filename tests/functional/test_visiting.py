"""`airlock run` and `airlock shell`: into a sandbox of a run that is at work, as its user does it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

AIRLOCK = [sys.executable, "-c", "import sys; from pytest_airlock.cli import main; sys.exit(main())"]
PATIENCE = 60

#: A test that waits with its sandbox, as one does at a breakpoint.
HOLDS = """
import pytest

@pytest.mark.airlock(env={"OWN": "1 2"})
def test_holds(airlock_factory):
    box = airlock_factory(name="held")
    box.path("/tmp/theirs").write_text("from the test")
    with open("ready", "w") as file:
        file.write("x")
    with open("go") as file:
        file.read()
    box.run(["true"], check=True)
"""


@pytest.fixture
def run(project: pytest.Pytester) -> Iterator[subprocess.Popen[bytes]]:
    """A run of pytest whose test waits until its stdin, the FIFO `go`, is closed."""
    project.makeconftest("")
    project.makeini("[pytest]\nairlock_provider = namespaces\n")
    project.makepyfile(test_holds=HOLDS)
    for name in ("ready", "go"):
        os.mkfifo(project.path / name)
    ready = os.open(project.path / "ready", os.O_RDONLY | os.O_NONBLOCK)
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=project.path
    ) as process:
        try:
            assert select.select([ready], [], [], PATIENCE)[0], "the test never began"
            yield process
        finally:
            os.close(ready)
            process.kill()


@pytest.fixture
def end(run: subprocess.Popen[bytes], project: pytest.Pytester) -> Callable[[], int]:
    """Let the test go on; returns the status of pytest."""

    def end() -> int:
        (project.path / "go").write_bytes(b"")
        return run.wait(PATIENCE)

    return end


def airlock(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*AIRLOCK, *words], input=stdin, capture_output=True, timeout=PATIENCE, check=False)


def until(fd: int, text: bytes) -> bytes:
    """Output up to and with `text`."""
    made = b""
    while text not in made:
        assert select.select([fd], [], [], PATIENCE)[0], f"nothing more came after {made!r}"
        try:
            made += os.read(fd, 65_536)
        except OSError:  # EIO: the terminal is gone
            raise AssertionError(made) from None
    return made


@pytest.mark.usefixtures("run")
def test_a_command_runs_beside_the_test_and_its_streams_and_status_are_ours(end: Callable[[], int]) -> None:
    done = airlock("run", "held", "--", "sh", "-c", "cat /tmp/theirs -; echo $OWN >&2; exit 7", stdin=b"\0\xff in")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"from the test\0\xff in", b"1 2\n")
    assert airlock("run", "held", "--", "sh", "-c", "kill -9 $$").returncode == 128 + 9
    options = ("--cwd", "/tmp", "--env", "OWN=other", "--env", "A==")
    done = airlock("run", *options, "held", "--", "sh", "-c", "pwd; echo $OWN $A")
    assert done.stdout == b"/tmp\nother =\n", done.stderr
    assert end() == 0  # all this is nothing to the test


@pytest.mark.usefixtures("run")
def test_what_cannot_be_run_is_told_from_what_failed() -> None:
    done = airlock("run", "held", "--", "no-such-program")
    assert (done.returncode, done.stderr) == (127, b"airlock: there is no no-such-program in sandbox 'held'\n")
    done = airlock("run", "held", "--", "/etc/passwd")
    assert (done.returncode, done.stderr) == (126, b"airlock: /etc/passwd in sandbox 'held' may not be executed\n")
    assert airlock("run", "nobody", "--", "true").returncode == 125
    assert airlock("run", "held").returncode == 2


@pytest.mark.usefixtures("run")
def test_nobody_who_reads_is_no_error_of_the_command() -> None:
    with subprocess.Popen([*AIRLOCK, "run", "held", "--", "yes"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait(PATIENCE) == 128 + signal.SIGPIPE
    assert airlock("run", "held", "--", "pgrep", "yes").stdout == b""


@pytest.mark.usefixtures("run")
def test_control_c_is_the_commands() -> None:
    script = "trap 'echo caught; exit 9' INT; echo here; while :; do sleep 0.1; done"
    with subprocess.Popen([*AIRLOCK, "run", "held", "--", "sh", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        process.send_signal(signal.SIGINT)
        try:
            assert process.communicate(timeout=PATIENCE)[0] == b"caught\n"
        finally:
            process.kill()
    assert process.returncode == 9


@pytest.mark.usefixtures("run")
def test_what_a_killed_visitor_had_started_is_dead() -> None:
    with subprocess.Popen(
        [*AIRLOCK, "run", "held", "--", "sh", "-c", "echo $$; sleep 1000"], stdout=subprocess.PIPE
    ) as it:
        assert it.stdout is not None
        pid = it.stdout.readline().decode().strip()
        it.kill()
    assert airlock("run", "held", "--", "sh", "-c", f"while kill -0 {pid}; do :; done; pgrep sleep").stdout == b""


def test_a_run_that_ends_ends_its_visitors_with_a_clear_word(end: Callable[[], int]) -> None:
    argv = [*AIRLOCK, "run", "held", "--", "sh", "-c", "echo here; sleep 1000"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"here\n"
        assert end() == 0
        told = (process.wait(PATIENCE), process.stderr.read())
    # It may still be told that its command was asked to end.
    died = b"airlock: sandbox 'held' died: its run reset or removed it, or it ended by itself\n"
    assert told in ((125, died), (128 + signal.SIGTERM, b""))
    done = airlock("run", "held", "--", "true")
    assert (done.returncode, done.stderr) == (125, b"airlock: there is no sandbox 'held'\n")


class Window:
    """A terminal with `airlock shell` on it, as an emulator or tmux has it."""

    def __init__(self, *words: str) -> None:
        self.fd, self.slave = pty.openpty()
        self.resize(33, 77)
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *AIRLOCK, "shell", *words],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env={**os.environ, "TERM": "xterm"},
        )

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self.fd, text)

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for fd in (self.fd, self.slave):
            os.close(fd)


@pytest.fixture
def window(run: subprocess.Popen[bytes]) -> Iterator[Callable[..., Window]]:
    opened: list[Window] = []

    def open_(*words: str) -> Window:
        opened.append(Window(*words))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


def test_a_shell_is_a_conversation_on_a_terminal(window: Callable[..., Window]) -> None:
    shell = window("held")
    until(shell.fd, b"# ")
    shell.type(b"stty size; echo $TERM-$(tty)\r")
    assert b"33 77\r\n" in until(shell.fd, b"xterm-/dev/pts/")
    # In a program of its own: at its prompt bash may hold the trap back until the next key.
    shell.type(b"sh -c \"trap 'stty size; exit' WINCH; echo re''ady; while :; do sleep 0.05; done\"\r")
    until(shell.fd, b"ready")
    shell.resize(44, 88)
    until(shell.fd, b"44 88\r\n")
    # Not "(echo; sleep)": bash itself may swallow an interrupt between its fork and the exec of sleep.
    shell.type(b"sh -c \"echo run''ning; exec sleep 1000\"\r")
    until(shell.fd, b"running")
    shell.type(b"\x03")
    until(shell.fd, b"# ")
    shell.type(b"exit 5\r")
    assert shell.wait() == 5
    assert termios.tcgetattr(shell.slave) == shell.before


def test_the_terminal_is_as_before_when_the_run_ends_first(
    window: Callable[..., Window], end: Callable[[], int]
) -> None:
    shell = window("held", "--", "sh", "-c", "echo here; sleep 1000")
    until(shell.fd, b"here")
    assert termios.tcgetattr(shell.slave) != shell.before
    assert end() == 0
    assert shell.wait() in (125, 128 + signal.SIGTERM)
    assert termios.tcgetattr(shell.slave) == shell.before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_as_before_when_the_visitor_is_ended(window: Callable[..., Window], number: int) -> None:
    shell = window("held", "--", "sh", "-c", "echo here; sleep 1000")
    until(shell.fd, b"here")
    shell.process.send_signal(number)
    assert shell.wait() == 128 + number
    assert termios.tcgetattr(shell.slave) == shell.before


@pytest.mark.usefixtures("run")
def test_a_script_on_stdin_needs_no_terminal() -> None:
    done = airlock("shell", "held", stdin=b"tty; echo $OWN; exit 4")
    assert (done.returncode, done.stdout) == (4, b"not a tty\n1 2\n")


@pytest.fixture
def place(own_state: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run-time directory that is deeper than the path of a socket may be long."""
    place = tmp_path_factory.mktemp("run") / ("x" * 120)
    place.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    return place


def test_the_socket_is_closed_to_others_and_goes_with_the_run(place: Path, run: subprocess.Popen[bytes]) -> None:
    (socket,) = place.iterdir()
    assert socket.stat().st_mode & 0o777 == 0o600
    assert airlock("run", "held", "--", "echo", "here").stdout == b"here\n"
    server = server_of(run.pid)
    pidfd = os.pidfd_open(server)
    run.kill()
    assert select.select([pidfd], [], [], PATIENCE)[0]
    os.close(pidfd)
    assert list(place.iterdir()) == []
    done = airlock("run", "held", "--", "true")
    assert done.returncode == 125
    assert b"has ended" in done.stderr


def test_what_a_killed_server_left_the_next_run_removes(
    place: Path, run: subprocess.Popen[bytes], project: pytest.Pytester
) -> None:
    server = server_of(run.pid)
    os.kill(run.pid, signal.SIGSTOP)
    os.kill(server, signal.SIGKILL)
    run.kill()
    run.wait()
    assert len(list(place.iterdir())) == 1
    project.makepyfile(test_holds="def test_next(airlock_sandbox): airlock_sandbox.run(['true'], check=True)")
    project.runpytest_subprocess().assert_outcomes(passed=1)
    assert list(place.iterdir()) == []


def server_of(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)
