"""`airlock lock`, `unlock` and `allow`: the network of a sandbox of a run that is at work, on the real engine."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator

import pytest
from far_ends import Server, own_name, serving

AIRLOCK = [sys.executable, "-c", "import sys; from pytest_airlock.cli import main; sys.exit(main())"]
PATIENCE = 60
#: A test that says what its sandbox reaches whenever it is asked, and how the policy reads.
ASKED = """
import os, pytest

DIAL = '''
import errno, socket, sys
try:
    print(socket.create_connection((sys.argv[1], int(sys.argv[2])), 60).recv(5).decode())
except OSError as error:
    print(type(error).__name__)
'''

@pytest.mark.airlock(profile="dev", network="locked")
def test_asked(airlock_factory):
    box = airlock_factory(name="steered")
    with open("answers", "w") as answers, open("questions") as questions:
        print("ready", file=answers, flush=True)
        for line in questions:
            word, *words = line.split()
            if word == "dial":
                answer = box.run(["python3", "-c", DIAL, *words]).stdout.strip()
            elif word == "snapshot":
                box.snapshot()
                answer = None
            elif word == "policy":
                answer = repr(box.network)
            else:
                answer = repr(getattr(box.network, word)(*words))
            print(answer, file=answers, flush=True)
"""


class Run:
    """A run of pytest whose test answers."""

    def __init__(self, questions: int, answers: int) -> None:
        self._questions, self._answers = questions, answers

    def ask(self, *words: object) -> str:
        os.write(self._questions, (" ".join(map(str, words)) + "\n").encode())
        return self.line()

    def line(self) -> str:
        made = b""
        while not made.endswith(b"\n"):
            assert select.select([self._answers], [], [], PATIENCE)[0], "no answer came"
            made += os.read(self._answers, 1)
        return made.decode().strip()


@pytest.fixture
def run(project: pytest.Pytester) -> Iterator[Run]:
    project.makeconftest("")
    project.makeini("[pytest]\nairlock_provider = namespaces\n")
    project.makepyfile(test_asked=ASKED)
    for name in ("questions", "answers"):
        os.mkfifo(project.path / name)
    answers = os.open(project.path / "answers", os.O_RDONLY | os.O_NONBLOCK)
    # Both ends, so that it opens whether or not the other side has.
    questions = os.open(project.path / "questions", os.O_RDWR)
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=project.path, stdout=subprocess.PIPE
    ) as process:
        try:
            assert select.select([answers], [], [], PATIENCE)[0], "the test never began"
            made = Run(questions, answers)
            assert made.line() == "ready"
            yield made
            os.close(questions)
            assert process.wait(PATIENCE) == 0, process.stdout.read() if process.stdout else b""
        finally:
            os.close(answers)
            process.kill()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def airlock(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*AIRLOCK, *words], capture_output=True, timeout=PATIENCE, check=False)


def test_another_process_allows_locks_and_unlocks(run: Run, server: Server) -> None:
    name, port = own_name(), server.port
    assert run.ask("dial", name, port) == "gaierror"
    done = airlock("allow", "steered", f"{name}:{port}", f"127.0.0.0/8:{port}")
    assert done.returncode == 0, done.stderr
    assert run.ask("policy") == f"<network allow: {name}:{port}, 127.0.0.0/8:{port}>"
    assert run.ask("dial", name, port) == "hello"
    assert airlock("lock", "steered").returncode == 0
    assert run.ask("policy") == "<network locked>"
    assert run.ask("dial", name, port) == "gaierror"
    assert airlock("unlock", "steered").returncode == 0
    assert run.ask("dial", name, port) == "hello"
    assert f"{name}:{port}".encode() in airlock("status", "steered").stdout


def test_owner_and_others_act_on_one_policy(run: Run, server: Server) -> None:
    name, port = own_name(), server.port
    assert airlock("allow", "steered", f"127.0.0.0/8:{port}").returncode == 0
    assert run.ask("allow", f"{name}:{port}") == "None"
    assert run.ask("policy") == f"<network allow: 127.0.0.0/8:{port}, {name}:{port}>"
    assert run.ask("dial", name, port) == "hello"
    assert airlock("lock", "steered").returncode == 0
    assert run.ask("unlock") == "None"
    assert run.ask("dial", name, port) == "hello"
    assert run.ask("lock") == "None"
    assert run.ask("dial", name, port) == "gaierror"


def test_a_snapshot_keeps_what_another_process_set(run: Run, server: Server) -> None:
    name, port = own_name(), server.port
    assert run.ask("allow", f"{name}:{port}", f"127.0.0.0/8:{port}") == "None"
    assert run.ask("dial", name, port) == "hello"
    assert airlock("lock", "steered").returncode == 0
    assert run.ask("snapshot") == "None"
    assert run.ask("policy") == "<network locked>"
    assert run.ask("dial", name, port) == "gaierror"


def test_what_is_refused_changes_nothing(run: Run) -> None:
    for words, text in (
        (("allow", "steered", "example.test"), b"has no port"),
        (("allow", "nobody", "example.test:443"), b"nobody"),
        (("allow", "steered"), b"usage"),
    ):
        done = airlock(*words)
        assert done.returncode in (1, 2)
        assert text in done.stderr
    assert run.ask("policy") == "<network locked>"
