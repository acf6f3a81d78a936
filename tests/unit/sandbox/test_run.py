"""run(): what subprocess.run takes, what it raises, and what it adds."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import threading
import tracemalloc

import pytest

from pytest_airlock.errors import CommandFailed, CommandTimeout, OutputLimitExceeded, SandboxDied, StaleSandbox
from pytest_airlock.providers.base import Exit
from pytest_airlock.sandbox import CompletedProcess
from pytest_airlock.sandbox.pump import Reader
from pytest_airlock.sandbox.result import Text

BYTES = bytes(range(256))


def test_captures_both_streams_and_the_status(box):
    done = box.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert isinstance(done, subprocess.CompletedProcess)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert done.args == ["sh", "-c", "echo out; echo err >&2; exit 3"]
    assert done.signal is None


def test_a_signal_is_a_negative_status(box):
    done = box.shell("kill -9 $$")
    assert done.returncode == -signal.SIGKILL
    assert done.signal is signal.SIGKILL


def test_text_is_utf8_with_backslashes_whatever_the_locale(box, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    done = box.run(["printf", r"\xc3\xa9\xff"])
    assert done.stdout == "é\\xff"
    assert done.stdout_bytes == b"\xc3\xa9\xff"


def test_newlines_are_translated_in_text_only(box):
    done = box.run(["printf", r"a\r\nb\rc"])
    assert done.stdout == "a\nb\nc"
    assert done.stdout_bytes == b"a\r\nb\rc"
    assert box.run(["printf", r"a\r\n"], text=False).stdout == b"a\r\n"


def test_encoding_and_errors_of_the_caller_win(box):
    assert box.run(["printf", r"\xe9"], encoding="latin-1").stdout == "é"
    with pytest.raises(UnicodeDecodeError):
        box.run(["printf", r"\xff"], errors="strict")


@pytest.mark.parametrize("data", [b"", b"x", BYTES, BYTES * 4000])
def test_bytes_go_in_and_come_out_unchanged(box, data):
    done = box.run(["cat"], input=data, text=False)
    assert done.stdout == data == done.stdout_bytes


def test_input_as_text(box):
    assert box.run(["cat"], input="é\n").stdout_bytes == "é\n".encode()


def test_input_that_cannot_be_encoded_is_an_error(box):
    with pytest.raises(UnicodeEncodeError):
        box.run(["cat"], input="\udcff")


def test_text_input_without_text_mode_is_a_type_error(box):
    with pytest.raises(TypeError, match="bytes-like"):
        box.run(["cat"], input="x", text=False)


def test_input_and_stdin_exclude_each_other(box):
    with pytest.raises(ValueError, match="may not both be used"):
        box.run(["cat"], input="x", stdin=subprocess.PIPE)


def test_unread_input_is_no_error(box):
    assert box.run(["true"], input=b"x" * 1_000_000).returncode == 0


def test_stdin_is_empty_unless_given(box):
    assert box.run(["cat"]).stdout == ""
    assert box.run(["cat"], stdin=subprocess.PIPE).stdout == ""
    assert box.run(["cat"], stdin=subprocess.DEVNULL).stdout == ""


def test_stdin_from_a_host_file_is_pumped(box, tmp_path):
    (tmp_path / "in").write_bytes(BYTES * 1000)
    with (tmp_path / "in").open("rb") as file:
        assert box.run(["cat"], stdin=file).stdout_bytes == BYTES * 1000
    with (tmp_path / "in").open("rb") as file:
        assert box.run(["cat"], stdin=file.fileno()).stdout_bytes == BYTES * 1000


def test_stdin_from_an_object_without_descriptor(box):
    assert box.run(["cat"], stdin=io.BytesIO(b"bytes")).stdout == "bytes"
    assert box.run(["cat"], stdin=io.StringIO("text")).stdout == "text"


def test_a_silent_stdin_does_not_hold_a_command_that_ends(box):
    read, write = os.pipe()
    try:
        assert box.run(["true"], stdin=read).returncode == 0
    finally:
        os.close(read)
        os.close(write)


def test_stdout_to_a_host_file(box, tmp_path):
    with (tmp_path / "out").open("wb") as file:
        done = box.run(["printf", r"\xff!"], stdout=file)
    assert (tmp_path / "out").read_bytes() == b"\xff!"
    assert (done.stdout, done.stderr) == (None, "")


def test_both_streams_to_one_object_without_descriptor(box):
    sink = io.BytesIO()
    box.shell("echo a; echo b >&2", stdout=sink, stderr=sink)
    assert sorted(sink.getvalue().split()) == [b"a", b"b"]


def test_stdout_to_a_text_object(box):
    sink = io.StringIO()
    box.run(["printf", r"\xc3\xa9"], stdout=sink)
    assert sink.getvalue() == "é"


def test_stdout_to_a_pipe_that_nobody_reads_ends_at_the_time_out(box):
    read, write = os.pipe()
    try:
        with pytest.raises(CommandTimeout):
            box.run(["yes"], stdout=write, timeout=0.2)
    finally:
        os.close(read)
        os.close(write)


def test_stderr_into_stdout(box):
    done = box.shell("echo a; echo b >&2; echo c", stderr=subprocess.STDOUT)
    assert (done.stdout, done.stderr) == ("a\nb\nc\n", None)
    with pytest.raises(ValueError, match="only be used for stderr"):
        box.run(["true"], stdout=subprocess.STDOUT)


def test_devnull(box):
    done = box.shell("echo a; echo b >&2", stdout=subprocess.DEVNULL)
    assert (done.stdout, done.stderr) == (None, "b\n")


def test_without_capture_output_goes_to_the_streams_of_the_test(box, capsys):
    done = box.shell("echo a; echo b >&2", capture_output=False)
    assert (done.stdout, done.stderr) == (None, None)
    assert capsys.readouterr() == ("a\n", "b\n")


def test_env_replaces_and_environ_is_the_base(box):
    assert box.run(["/usr/bin/env"], env={"A": "1"}).stdout == "A=1\n"
    assert "HOME=/root\nA=1\n" in box.run(["env"], env={"HOME": box.environ["HOME"], "A": "1", "PATH": "/bin"}).stdout


def test_environ_can_be_changed_for_the_commands_that_follow_and_reset_undoes_it(box):
    box.environ["A"] = "1"
    assert "A=1\n" in box.run(["env"]).stdout
    box.reset()
    assert "A=1" not in box.run(["env"]).stdout


@pytest.mark.parametrize("name", ["", "A=B"])
def test_a_bad_environment_name_is_refused(box, name):
    with pytest.raises(ValueError, match="illegal environment variable name"):
        box.run(["true"], env={name: "x"})


@pytest.mark.parametrize("argv", [["echo", "a\0b"], "ec\0ho"])
def test_a_nul_in_an_argument_is_refused(box, argv):
    with pytest.raises(ValueError, match="embedded null byte"):
        box.run(argv)


def test_an_empty_argv_is_refused(box):
    with pytest.raises(ValueError, match="argv is empty"):
        box.run([])


@pytest.mark.parametrize("word", ["", " ", "a b", "$(id)", "'", '"', "*", "a\nb", "-n", "é", "\udcff"])
def test_r43_arguments_keep_their_boundaries(box, word):
    done = box.run(["printf", r"%s\0", "first", word, "last"])
    assert done.stdout_bytes.split(b"\0")[:-1] == [b"first", os.fsencode(word), b"last"]


def test_arguments_of_every_type_of_subprocess(box, tmp_path):
    done = box.run(["echo", b"bytes", tmp_path, box.path("/etc")])
    assert done.stdout == f"bytes {tmp_path} /etc\n"


def test_a_str_is_one_program(box):
    assert box.run("pwd").stdout == "/root\n"
    with pytest.raises(FileNotFoundError, match=r"shell\(\)") as caught:
        box.run("echo hello")
    assert caught.value.filename == "echo hello"


def test_a_missing_program_is_file_not_found(box):
    with pytest.raises(FileNotFoundError) as caught:
        box.run(["no-such-program"])
    assert caught.value.filename == "no-such-program"
    assert "on the host" not in str(caught.value)


def test_a_program_that_only_the_host_has_gets_a_hint(box, tmp_path):
    (tmp_path / "tool").write_text("")
    with pytest.raises(FileNotFoundError, match="the host has"):
        box.run([tmp_path / "tool"])


def test_a_program_that_is_not_executable_is_permission_error(box):
    box.path("/opt/tool").write_text("#!/bin/sh\n")
    with pytest.raises(PermissionError, match="it is there, but may not be executed: chmod it") as caught:
        box.run(["/opt/tool"])
    assert caught.value.filename == "/opt/tool"


def test_a_program_that_is_not_executable_on_the_host_either_is_not_to_be_copied_in(box, tmp_path):
    (tmp_path / "tool").write_text("")
    box.path(tmp_path.parent).mkdir(parents=True, exist_ok=True)
    box.copy_in(tmp_path, str(tmp_path))
    with pytest.raises(PermissionError) as caught:
        box.run([tmp_path / "tool"])
    assert "copy_in" not in str(caught.value)


def test_a_missing_cwd_is_file_not_found(box):
    with pytest.raises(FileNotFoundError) as caught:
        box.run(["true"], cwd="/nowhere")
    assert caught.value.filename == "/nowhere"


def test_cwd_and_user(box):
    assert box.run(["pwd"], cwd="/tmp").stdout == "/tmp\n"
    assert box.run(["id", "-un"], user="airlock").stdout == "airlock\n"


def test_a_script_in_the_sandbox_runs(box):
    path = box.path("/usr/local/bin/hello")
    path.write_text('#!/bin/sh\necho "hello $1"\n')
    path.chmod(0o755)
    assert box.run(["hello", "you"]).stdout == "hello you\n"


def test_check_raises_the_standard_error_with_all_that_was_captured(box):
    with pytest.raises(subprocess.CalledProcessError) as caught:
        box.shell("echo out; echo err >&2; exit 3", check=True)
    error = caught.value
    assert isinstance(error, CommandFailed)
    assert (error.returncode, error.stdout, error.stderr) == (3, "out\n", "err\n")
    assert isinstance(error.result, CompletedProcess)


def test_a_time_out_kills_the_tree_and_keeps_what_came(box, provider):
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        box.shell("echo begun; sleep 100 & sleep 100", timeout=0.3)
    error = caught.value
    assert isinstance(error, CommandTimeout)
    assert (error.stdout, error.stderr, error.timeout) == ("begun\n", "", 0.3)
    assert error.result.stdout_bytes == b"begun\n"
    provider.snapshot(box._backend.handle)  # refused if anything lived


def test_the_time_out_of_the_spec_is_the_default_and_none_lifts_it(box, backend):
    backend.timeout = 0.1
    with pytest.raises(CommandTimeout):
        box.run(["sleep", "100"])
    assert box.run(["sleep", "0.2"], timeout=None).returncode == 0


def test_a_daemon_that_holds_the_output_does_not_hang_run(box):
    done = box.shell("sleep 100 & echo started")
    assert done.stdout == "started\n"
    assert box.shell("kill -0 3").returncode == 0, "the daemon lives on"


def test_a_daemon_that_writes_for_ever_does_not_hang_run(box):
    done = box.shell("yes & echo started", max_output=None)
    assert done.returncode == 0
    assert len(done.stdout_bytes) < 64 * 1024 * 1024


def test_max_output_kills_and_keeps_what_came(box, provider):
    with pytest.raises(OutputLimitExceeded) as caught:
        box.run(["yes"], max_output=10_000, text=False)
    assert caught.value.stdout == (b"y\n" * 5000)
    assert caught.value.limit == 10_000
    provider.snapshot(box._backend.handle)


def test_max_output_is_exact(box):
    assert len(box.run(["head", "-c", "1000", "/dev/zero"], max_output=1000).stdout_bytes) == 1000
    with pytest.raises(OutputLimitExceeded):
        box.run(["head", "-c", "1001", "/dev/zero"], max_output=1000)


def test_max_output_bounds_what_a_host_file_gets_too(box, tmp_path):
    with (tmp_path / "out").open("wb") as file, pytest.raises(OutputLimitExceeded):
        box.run(["yes"], stdout=file, max_output=100_000)
    assert (tmp_path / "out").stat().st_size < 4_000_000


def test_ten_megabytes(box):
    assert len(box.run(["head", "-c", "10000000", "/dev/zero"], text=False).stdout) == 10_000_000


def test_times_and_memory_are_told(box, provider):
    provider.programs["true"] = lambda context: Exit(0, 0.5, 0.25, 4096, oom_killed=True)
    done = box.run(["true"])
    assert (done.user_time, done.system_time, done.max_rss, done.oom_killed) == (0.5, 0.25, 4096, True)
    assert done.duration > 0


def test_a_sandbox_that_dies_is_not_a_command_that_failed(box, provider):
    running = threading.Event()

    def killer(context):
        running.set()
        context.sleep(None)

    provider.programs["sleep"] = killer
    thread = threading.Thread(target=lambda: (running.wait(10), provider.die("box")))
    thread.start()
    with pytest.raises(SandboxDied, match="killed by a test"):
        box.run(["sleep", "1"])
    thread.join()
    assert "died" in box.transcript[-1].outcome


def test_handed_back_while_a_command_runs_is_stale(box, backend, provider):
    running = threading.Event()

    def program(context):
        running.set()
        context.sleep(None)

    provider.programs["sleep"] = program

    def hand_back():
        running.wait(10)
        backend.stale = True
        provider.reset(backend.handle, backend.clean)

    thread = threading.Thread(target=hand_back)
    thread.start()
    with pytest.raises(StaleSandbox):
        box.run(["sleep", "1"])
    thread.join()


def test_an_error_of_the_host_side_kills_the_command(box, provider):
    class Broken(io.RawIOBase):
        def write(self, data):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        box.run(["yes"], stdout=Broken())
    provider.snapshot(box._backend.handle)


def test_no_descriptor_is_left_open(box, descriptors):
    box.run(["true"])
    before = descriptors()
    for _ in range(20):
        box.run(["true"], input=b"x")
    with pytest.raises(CommandTimeout):
        box.run(["sleep", "9"], timeout=0)
    assert descriptors() == before


def test_many_threads(box):
    results = {}

    def work(number):
        results[number] = box.run(["echo", str(number)]).stdout

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: f"{n}\n" for n in range(16)}
    assert len(box.transcript) == 16


def test_single_bytes_cost_the_host_little_more_than_what_they_are():
    """A million objects of one byte each would be 50 MB."""
    read, write = os.pipe()
    reader = Reader(read, None)
    os.set_blocking(read, False)
    tracemalloc.start()
    try:
        for number in range(200_000):
            os.write(write, b"ab" if number % 1000 else bytes(5000))
            reader.pull(None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        os.close(read)
        os.close(write)
    data = reader.captured()
    assert peak < 3 * len(data)
    assert data == (bytes(5000) + b"ab" * 999) * 200


def test_what_is_no_text_costs_no_sixteen_times_its_size(monkeypatch):
    monkeypatch.setattr("pytest_airlock.sandbox.result.ESCAPED", 10)
    assert Text(True, None, None).decode(b"\xff" * 10) == "\\xff" * 10
    assert Text(True, None, None).decode(b"\xff" * 11) == "\ufffd" * 11
    assert Text(True, None, "backslashreplace").decode(b"\xff" * 11) == "\\xff" * 11, "who asks for it gets it"


def test_a_start_that_does_not_come_is_a_time_out(box, provider, monkeypatch):
    """The provider gives up with the whole sandbox, no sooner than the command's own time-out."""
    asked = []

    def spawn(_, command):
        asked.append(command.patience)
        raise SandboxDied("box", "stuck")

    monkeypatch.setattr(provider, "spawn", spawn)
    with pytest.raises(CommandTimeout) as caught:
        box.run(["true"], timeout=0)
    assert caught.value.result.returncode == -9
    assert "stuck" in "".join(caught.value.__notes__)
    assert "not started" in str(box.transcript)
    assert asked == [5]
    for words in ({}, {"timeout": 1000}):
        with pytest.raises(SandboxDied):
            box.run(["true"], **words)
    assert asked[1] is None
