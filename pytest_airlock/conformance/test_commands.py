"""Contract 7, 8, 10, 11: commands."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_airlock.conformance.machine import PATIENCE, Machine, all_dead, ended, line, within
from pytest_airlock.errors import SandboxDied, UnsupportedFeature
from pytest_airlock.providers.base import Features, Process, Provider

WORDS = [
    "",
    " ",
    "a b",
    "-n",
    "--",
    "$(id)",
    "`id`",
    "$HOME",
    "'",
    '"',
    "\\",
    "*",
    "a\nb",
    "é",
    "\udcff\udcfe",
    "x" * 5000,
]


def test_c07_arguments_keep_their_boundaries(box: Machine) -> None:
    done = box.run("printf", r"%s\0", *WORDS)
    assert done.out.split(b"\0")[:-1] == [os.fsencode(word) for word in WORDS]


def test_c07_a_script_gets_them_unchanged_too(box: Machine) -> None:
    box.script("/opt/show", 'printf "%s\\0" "$@"')
    done = box.run("/opt/show", *WORDS)
    assert done.out.split(b"\0")[:-1] == [os.fsencode(word) for word in WORDS]


def test_c07_the_environment_is_exactly_the_given_one(box: Machine) -> None:
    env = (("PATH", "/usr/bin:/bin"), ("A", "1 2\n3"), ("EMPTY", ""), ("BYTES", "\udcff"))
    done = box.run("env", env=env)
    assert done.out == b"PATH=/usr/bin:/bin\nA=1 2\n3\nEMPTY=\nBYTES=\xff\n"


def test_c07_nothing_of_the_environment_of_the_host_is_seen(
    box: Machine, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRLOCK_CONFORMANCE_SECRET", "leaked")
    assert b"leaked" not in box.run("env").out
    assert "AIRLOCK_CONFORMANCE_SECRET" not in provider.environ(box.handle)


def test_c07_the_working_directory(box: Machine, make: Callable[..., Machine]) -> None:
    assert box.run("pwd", cwd="/tmp").out == b"/tmp\n"
    assert make(cwd="/tmp").run("pwd", cwd=None).out == b"/tmp\n"


@pytest.mark.parametrize(("user", "feature", "uid"), [("root", "user_root", 0), ("airlock", "user_ordinary", 1000)])
def test_c07_the_user_of_a_command(
    make: Callable[..., Machine], features: Features, user: str, feature: str, uid: int
) -> None:
    if feature not in features:
        pytest.skip(f"{feature}: {features.absent[feature].why}")
    box = make() if "many_users" in features else make(user=user)
    assert box.run("id", "-u", user=user).out == f"{uid}\n".encode()


def test_c07_another_user_needs_many_users(box: Machine, features: Features) -> None:
    if "many_users" in features:
        pytest.skip("many_users: it is there, and the test before this one used it")
    with pytest.raises(UnsupportedFeature) as caught:
        box.run("id", "-u", user="airlock")
    assert caught.value.feature == "many_users"


def test_c07_the_user_of_the_spec_is_the_default(make: Callable[..., Machine], features: Features) -> None:
    if "user_ordinary" not in features:
        pytest.skip(f"user_ordinary: {features.absent['user_ordinary'].why}")
    assert make(user="airlock").run("id", "-u").out == b"1000\n"


def test_c08_a_missing_program(box: Machine) -> None:
    for program in ("conformance-nothing", "/opt/nothing", "/opt/nothing/at/all"):
        with pytest.raises(FileNotFoundError) as caught:
            box.run(program)
        assert caught.value.filename == program


def test_c08_a_program_that_may_not_be_executed(box: Machine) -> None:
    box.write("/opt/plain", b"#!/bin/sh\n", mode=0o644)
    for program in ("/opt/plain", "/opt"):
        with pytest.raises(PermissionError) as caught:
            box.run(program)
        assert caught.value.filename == program


def test_c08_a_missing_working_directory(box: Machine) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        box.run("true", cwd="/opt/nowhere")
    assert caught.value.filename == "/opt/nowhere"


def test_c08_programs_are_looked_up_inside_on_the_path_of_the_command(
    box: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.script("/opt/conformance-tool", "echo inside")
    assert box.run("conformance-tool", env=(("PATH", "/nowhere:/opt"),)).out == b"inside\n"
    (tmp_path / "conformance-host-tool").write_text("#!/bin/sh\n")
    (tmp_path / "conformance-host-tool").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(FileNotFoundError):
        box.run("conformance-host-tool")


@pytest.mark.parametrize("status", [0, 1, 3, 127, 255])
def test_c10_the_status(box: Machine, status: int) -> None:
    assert box.sh(f"exit {status}").returncode == status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_c10_a_signal_is_a_negative_status(box: Machine, number: int) -> None:
    assert box.sh(f"kill -{int(number)} $$").returncode == -number
    with box.process("sleep", "1000") as process:
        process.send_signal(number)
        assert ended(process).returncode == -number
        process.send_signal(number)  # has ended: nothing


def test_c10_the_exit_is_known_though_a_daemon_holds_the_streams(box: Machine) -> None:
    with box.process("sh", "-c", "sleep 1000 & echo started") as process:
        assert ended(process).returncode == 0
        assert line(process) == b"started\n"
        process.kill_tree()


def test_c10_poll_wait_and_the_descriptor(box: Machine) -> None:
    with box.process("cat", stdin="pipe") as process:
        poller = select.poll()
        poller.register(process.fileno(), select.POLLIN)
        assert isinstance(process, Process)
        assert process.poll() is None
        assert poller.poll(0) == []
        with pytest.raises(TimeoutError):
            process.wait(0.05)
        assert process.stdin is not None
        process.stdin.close()
        assert poller.poll(PATIENCE * 1000)
        assert process.poll() == ended(process)


def test_c10_streams(box: Machine) -> None:
    assert box.sh("echo out; echo err >&2") == (0, b"out\n", b"err\n")
    assert box.sh("echo out; echo err >&2", stderr="stdout") == (0, b"out\nerr\n", b"")
    assert box.sh("echo out; echo err >&2", stdout="null") == (0, b"", b"err\n")
    assert box.run("cat") == (0, b"", b"")
    with box.process("true", stdout="null", stderr="null") as process:
        assert (process.stdin, process.stdout, process.stderr) == (None, None, None)
        ended(process)


def test_c10_bytes_go_through_unchanged(box: Machine) -> None:
    data = bytes(range(256)) * 8192
    assert box.run("cat", data=data).out == data


def test_c10_close_does_not_kill_and_twice_is_fine(box: Machine) -> None:
    with box.process("sh", "-c", "echo $$ > /tmp/pid; echo ready; sleep 1000") as process:
        assert line(process) == b"ready\n"
    process.close()
    assert box.sh(f"kill -0 {box.read('/tmp/pid').decode().strip()}").returncode == 0


def test_c11_kill_tree_ends_descendants_and_orphans(box: Machine) -> None:
    script = (
        "setsid sleep 1000 & sh -c 'sleep 1000 &'; sh -c 'sh -c \"setsid sleep 1000 & exit\"'; echo ready; sleep 1000"
    )
    with box.process("sh", "-c", script) as process:
        assert line(process) == b"ready\n"
        _kill(process)
        assert all_dead(process)


def test_c11_kill_tree_finds_orphans_of_a_command_that_has_ended(box: Machine) -> None:
    with box.process("sh", "-c", "setsid sleep 1000 & echo ready") as process:
        assert line(process) == b"ready\n"
        ended(process)
        _kill(process)
        assert all_dead(process)


def test_c11_what_ignores_signals_is_killed_too(box: Machine) -> None:
    with box.process("sh", "-c", "trap '' TERM HUP INT; echo ready; sleep 1000") as process:
        assert line(process) == b"ready\n"
        _kill(process)
        assert all_dead(process)


def test_c11_what_ran_before_lives_on_unless_the_sandbox_had_to_end(box: Machine) -> None:
    with box.process("cat", stdin="pipe") as older:
        with box.process("sh", "-c", "sleep 1000 & echo ready; sleep 1000") as process:
            assert line(process) == b"ready\n"
            if not _kill(process):
                assert not box.provider.is_running(box.handle)
                return
        assert older.stdin is not None
        older.stdin.write(b"alive\n")
        assert line(older) == b"alive\n"


def _kill(process: Process) -> bool:
    """Whether the sandbox lives on."""
    try:
        within(process.kill_tree)
    except SandboxDied:
        return False
    return True
