"""popen(): the Popen interface."""

from __future__ import annotations

import signal
import subprocess

import pytest

from pytest_airlock.errors import OutputLimitExceeded, SandboxDied, StaleSandbox


def test_streams_are_text_pipes_and_stdin_is_empty(box):
    with box.popen(["sh", "-c", "cat; echo out; echo err >&2"]) as process:
        assert process.stdin is None
        assert process.stdout.read() == "out\n"
        assert process.stderr.read() == "err\n"
    assert process.returncode == 0


def test_a_dialogue(box):
    with box.popen(["cat"], stdin=subprocess.PIPE) as process:
        process.stdin.write("héllo\n")
        assert process.stdout.readline() == "héllo\n"
        assert process.poll() is None
    assert process.returncode == 0


def test_bytes(box):
    with box.popen(["cat"], stdin=subprocess.PIPE, text=False) as process:
        process.stdin.write(b"\xff\r\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"\xff\r\n"


def test_communicate_sends_and_reads_all(box):
    process = box.popen(["cat"], stdin=subprocess.PIPE)
    out, err = process.communicate("x" * 300_000)
    assert (len(out), err, process.returncode) == (300_000, "", 0)


def test_communicate_goes_on_after_a_time_out(box, provider):
    process = box.popen(["sh", "-c", "echo begun; sleep 0.4; echo done"])
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        process.communicate(timeout=0.1)
    assert caught.value.cmd == process.args
    assert process.communicate() == ("begun\ndone\n", "")


def test_communicate_without_a_pipe_for_input_is_refused(box):
    with box.popen(["true"]) as process, pytest.raises(ValueError, match="stdin=PIPE"):
        process.communicate("x")


def test_streams_that_are_no_pipes_are_none(box):
    process = box.popen(["true"], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    assert process.communicate() == (None, None)


def test_a_host_file_is_refused_with_the_way_out(box, tmp_path):
    with (tmp_path / "out").open("wb") as file, pytest.raises(ValueError, match=r"use run\(\)"):
        box.popen(["true"], stdout=file)


def test_wait_and_poll(box):
    process = box.popen(["sleep", "100"])
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.01)
    process.terminate()
    assert process.wait() == -signal.SIGTERM == process.poll()
    process.send_signal(signal.SIGKILL)  # nothing: it has ended
    process.close()


def test_a_handled_signal_and_a_kill(box):
    with box.popen(["sh", "-c", "trap 'echo got' USR1; echo ready; sleep 100 & wait; sleep 100"]) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "got\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL


def test_kill_tree_ends_orphans_too(box):
    process = box.popen(["sh", "-c", "sh -c 'sleep 100 &'; echo ready; sleep 100"])
    assert process.stdout.readline() == "ready\n"
    process.kill_tree()
    assert process.stdout.read() == ""  # at the end: nobody holds the pipe
    assert process.wait() == -signal.SIGKILL
    process.close()


def test_an_error_in_the_body_does_not_wait_for_a_server(box):
    with pytest.raises(ZeroDivisionError), box.popen(["sleep", "100"]) as process:
        raise ZeroDivisionError
    assert process.returncode == -signal.SIGKILL


def test_the_end_is_in_the_transcript_once(box):
    with box.popen(["sh", "-c", "exit 4"]) as process:
        process.wait()
        process.wait()
    assert [entry.outcome for entry in box.transcript] == ["exit status 4"]


def test_death_of_the_sandbox(box, provider):
    process = box.popen(["sleep", "100"])
    provider.die("box")
    with pytest.raises(SandboxDied):
        process.wait()
    process.close()


@pytest.mark.parametrize(
    "use",
    [
        lambda p: p.poll(), lambda p: p.wait(), lambda p: p.communicate(), lambda p: p.terminate(), lambda p: p.kill(),
        lambda p: p.kill_tree(),
    ],
)  # fmt: skip
def test_stale_after_the_hand_back(box, backend, use):
    process = box.popen(["sleep", "100"])
    backend.stale = True
    with pytest.raises(StaleSandbox):
        use(process)
    process.close()


def test_no_descriptor_is_left_open(box, descriptors):
    with box.popen(["true"]) as process:
        process.wait()
    before = descriptors()
    for _ in range(10):
        box.popen(["cat"], stdin=subprocess.PIPE).communicate("x")
    assert descriptors() == before


def test_communicate_reads_no_more_than_its_limit(box):
    process = box.popen(["yes"], max_output=1000)
    with pytest.raises(OutputLimitExceeded) as caught:
        process.communicate()
    assert process.returncode == -9
    assert caught.value.stdout == "y\n" * 500
    assert box.popen(["echo", "x"], max_output=2).communicate() == ("x\n", "")
