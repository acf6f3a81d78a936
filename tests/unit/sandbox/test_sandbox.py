"""The rest of what a test holds: states, network, transcript, and the end of a hand-out."""

from __future__ import annotations

import pytest

from pytest_airlock.errors import SandboxBusy, StaleSandbox
from pytest_airlock.models import Network
from pytest_airlock.sandbox import Sandbox, Transcript, TranscriptEntry, escape
from pytest_airlock.sandbox.transcript import HALF, MAX_ENTRIES, MAX_TOTAL, Excerpt


def test_reset_takes_everything_back(box):
    box.shell("echo x > /etc/new; sleep 100 &")
    box.network.unlock()
    box.environ["A"] = "1"
    box.reset()
    assert not box.path("/etc/new").exists()
    assert "A" not in box.environ
    box.snapshot()  # refused if the daemon lived


def test_snapshot_refuses_running_processes_unless_told_to_end_them(box):
    box.shell("sleep 100 &")
    with pytest.raises(SandboxBusy, match="sleep"):
        box.snapshot()
    box.snapshot(stop=True)


def test_network(box, provider):
    assert box.network.policy == Network(mode="locked")
    assert box.run(["getent", "hosts", "example.org"]).returncode == 2
    assert not box.network.attempts[1:]
    assert (box.network.attempts[0].host, box.network.attempts[0].verdict) == ("example.org", "refused")
    box.network.allow("example.org:53")
    box.network.allow("example.com:443", "example.org:53")
    assert box.network.policy.allow == ("example.org:53", "example.com:443")
    assert box.run(["getent", "hosts", "example.org"]).returncode == 0
    box.network.unlock()
    assert provider.rule("box").mode == "open"
    box.network.lock()
    assert box.run(["getent", "hosts", "example.org"]).returncode == 2
    with pytest.raises(ValueError, match="lock"):
        box.network.allow()


def test_info_and_name(box):
    assert box.info.name == box.name == "box"
    assert repr(box) == "<Sandbox 'box'>"


STALE = {
    "run": lambda box: box.run(["true"]),
    "shell": lambda box: box.shell("true"),
    "popen": lambda box: box.popen(["true"]),
    "path": lambda box: box.path("/etc").exists(),
    "copy_in": lambda box: box.copy_in(__file__, "/tmp"),
    "copy_out": lambda box: box.copy_out("/etc", "/tmp/never"),
    "diff": lambda box: box.diff(),
    "snapshot": lambda box: box.snapshot(),
    "restore": lambda box: box.restore("x"),
    "reset": lambda box: box.reset(),
    "info": lambda box: box.info,
    "environ": lambda box: box.environ,
    "policy": lambda box: box.network.policy,
    "lock": lambda box: box.network.lock(),
    "attempts": lambda box: box.network.attempts,
}


@pytest.mark.parametrize("operation", STALE)
def test_every_operation_is_stale_after_the_hand_back(box, backend, operation):
    box.run(["true"])
    backend.stale = True
    with pytest.raises(StaleSandbox, match="airlock_session_sandbox"):
        STALE[operation](box)


def test_the_transcript_stays_readable_after_the_hand_back(box, backend):
    box.run(["echo", "hello"])
    backend.stale = True
    assert "hello" in str(box.transcript)


def test_the_transcript_tells_every_command_but_no_input_and_no_environment(box):
    box.run(["cat"], input="secret", stdout=-3, env={"PATH": "/bin", "TOKEN": "secret"}, cwd="/tmp", user="airlock")
    box.shell("echo out; echo err >&2; exit 3")
    with pytest.raises(FileNotFoundError):
        box.run(["nothing"])
    text = str(box.transcript)
    assert "secret" not in text
    assert "$ cat cwd=/tmp user=airlock" in text
    assert "$ /bin/sh -c 'echo out; echo err >&2; exit 3'\n  out\n! err\n→ exit status 3 after" in text
    assert "$ nothing\n→ not started: " in text
    assert [len(box.transcript), box.transcript[1].argv[0]] == [3, "/bin/sh"]


def test_the_transcript_has_what_went_to_a_host_file(box, tmp_path):
    with (tmp_path / "f").open("wb") as file:
        box.run(["head", "-c", "200000", "/dev/zero"], stdout=file)
        box.run(["echo", "short"], stdout=file)
    long, short = box.transcript
    assert (len(long.stdout.head), len(long.stdout.tail), long.stdout.size) == (HALF, HALF, 200_000)
    assert (short.stdout.head, short.stdout.tail) == (b"short\n", b"")


def test_an_excerpt_keeps_head_and_tail():
    excerpt = Excerpt.of(b"a" * HALF + b"-" * 1000 + b"z" * HALF)
    assert str(excerpt) == "a" * HALF + "\n[… 1,000 bytes …]\n" + "z" * HALF
    assert str(Excerpt.of(b"x" * 2 * HALF)) == "x" * 2 * HALF


def test_the_transcript_is_bounded_in_entries_and_bytes():
    transcript = Transcript()
    for number in range(MAX_ENTRIES + 5):
        transcript.add(TranscriptEntry((str(number),), "exit status 0"))
    assert (len(transcript), transcript.dropped, transcript[0].argv) == (MAX_ENTRIES, 5, ("5",))
    assert str(transcript).startswith("[… 5 earlier commands …]\n$ 5\n")
    for _ in range(300):
        transcript.add(
            TranscriptEntry(("x",), "", stdout=Excerpt.of(bytes(200_000)), stderr=Excerpt.of(bytes(200_000)))
        )
    assert sum(len(e.stdout.head + e.stdout.tail + e.stderr.head + e.stderr.tail) for e in transcript) <= MAX_TOTAL


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain é 漢\tx\n", "plain é 漢\tx\n"),
        ("\x1b]0;evil\x07", "\\x1b]0;evil\\x07"),
        ("a\u202eb", "a\\u202eb"),
        ("a\rb", "a\\x0db"),
        ("\udcff\U000e0001", "\\udcff\\U000e0001"),
        ("\x9b31m", "\\x9b31m"),
    ],
)
def test_escape(raw, shown):
    assert escape(raw) == shown


def test_terminal_sequences_of_a_command_are_escaped(box):
    box.run(["printf", r"\x1b[2J%s\n", "\x1b[1m"])
    assert "\x1b" not in str(box.transcript)


def test_two_hand_outs_have_transcripts_of_their_own(backend):
    first, second = Sandbox(backend), Sandbox(backend)
    first.run(["true"])
    assert (len(first.transcript), len(second.transcript)) == (1, 0)
