"""What users and the code under test get wrong, over the embedded engine: a clear error, or it simply works."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_airlock import Sandbox, create_sandbox, errors

PROVIDER = {"provider": "namespaces", "source": False}


@pytest.fixture
def real(project: pytest.Pytester) -> pytest.Pytester:
    """A project that uses the provider of this machine."""
    project.makeconftest("")
    project.makeini("[pytest]\nairlock_provider = namespaces\n")
    return project


@pytest.fixture(scope="module")
def shared_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRLOCK_STATE_DIR", str(tmp_path_factory.mktemp("shared-state")))
        with create_sandbox(**PROVIDER, timeout=60) as box:
            yield box


@pytest.fixture
def box(shared_box: Sandbox) -> Sandbox:
    """As after a hand-out: nothing is left of the test before."""
    shared_box.reset()
    return shared_box


# -- words and values --------------------------------------------------------------------------------------------------

BAD_SPECS: list[tuple[dict[str, Any], type[Exception], list[str]]] = [
    ({"memroy": "1G"}, errors.UnknownName, ["no such setting", "did you mean 'memory'?"]),
    ({"profile": "cautios"}, errors.UnknownName, ["no such profile", "did you mean 'cautious'?"]),
    ({"provider": "namespace"}, errors.UnknownName, ["no such provider", "did you mean 'namespaces'?"]),
    ({"user": "rot"}, errors.InvalidSpec, ["it is one of 'root', 'airlock'", "did you mean 'root'?"]),
    ({"memory": "4 Gigs"}, errors.InvalidSpec, ["memory='4 Gigs' is not valid", "such as '512M'"]),
    ({"memory": 0}, errors.InvalidSpec, ["memory=0 is not valid", "at least 1 byte"]),
    ({"disk": "10Z"}, errors.InvalidSpec, ["disk='10Z' is not valid", "such as '512M'"]),
    ({"cpu": 0}, errors.InvalidSpec, ["cpu=0 is not valid", "greater than or equal to 1"]),
    ({"cpu": -1}, errors.InvalidSpec, ["cpu=-1 is not valid", "greater than or equal to 1"]),
    ({"cpu": 1.5}, errors.InvalidSpec, ["cpu=1.5 is not valid", "whole number of processors"]),
    ({"cpu": "4"}, errors.InvalidSpec, ["cpu='4' is not valid", "whole number of processors"]),
    ({"cpu": 65_536}, errors.InsufficientResources, ["it can never fit", "ask for cpu=", "airlock_insufficient"]),
    ({"timeout": "30"}, errors.InvalidSpec, ["timeout='30' is not valid", "number of seconds"]),
    ({"env": {"A": 1}}, errors.InvalidSpec, ["env.A=1 is not valid", "names to texts"]),
    ({"env": {"A": "x\0y"}}, errors.InvalidSpec, ["the value of A has a NUL in it"]),
    ({"network": "opne"}, errors.InvalidSpec, ["did you mean 'open'?"]),
    ({"source": "/no/such/project"}, errors.MountForbidden, ["source='/no/such/project'", "create it first"]),
    ({"image": "debian:12"}, errors.InvalidSpec, ["no image of that name", 'image="host"']),
    ({"provision": ["make; make install"]}, errors.ProvisionForbidden, ["';' (character 5)", "as a list"]),
    ({"provision": [["false"]]}, errors.CommandFailed, ["provisioning command 1 of 1", "mend the command"]),
    ({"provision": [["no-such"]]}, FileNotFoundError, ["provisioning command 1 of 1", "mend the command"]),
]
BAD_NAMES = [
    ("a/b", "for example 'a-b'"),
    ("..", "neither starts nor ends with '-'"),
    ("a\0b", "it has '\\x00'"),
    ("\u0430dmin", "it has '\\u0430'"),
    ("admin\u202e", "it has '\\u202e'"),
    ("x" * 300, "it has 300 characters, at most 63"),
    ("", "it is empty"),
]
BAD_MOUNTS = [
    ("/", "it is the whole machine"),
    ("/etc:/x", "it is sensitive"),
    ("/usr/share/../../etc:/x", "it leads to /etc, which is sensitive"),
    ("/proc:/x", "it is sensitive"),
    ("~/.ssh:/x", "it is sensitive"),
    ("{tmp}/link:/x", "it leads to /etc, which is sensitive"),
    ("/no/such/directory:/x", "No such file or directory"),
    ("{tmp}/socket:/x", "only files and directories pass"),
    ("{tmp}:/proc", "the system inside is there"),
    ("{tmp}:relative", "an absolute path"),
    ("{tmp}:/x:rx", "it is one of 'ro', 'cow', 'rw'"),
    ("a:b:c:d", "'source:target:mode'"),
]
#: Networks that the profile does not allow, and entries that are none.
BAD_NETWORKS: list[tuple[dict[str, Any], type[Exception], list[str]]] = [
    ({"network": "open"}, errors.ProfileForbids, ["network mode 'open'", "it allows 'locked'"]),
    ({"network": "host", "profile": "dev"}, errors.ProfileForbids, ["network mode 'host'"]),
    ({"network": ["example.test"], "profile": "dev"}, errors.InvalidSpec, ["has no port", "example.test:443"]),
    ({"network": ["10.0.0.1/8:1"], "profile": "dev"}, errors.InvalidSpec, ["host bits"]),
    ({"network": [], "profile": "dev"}, errors.InvalidSpec, ["the list is empty"]),
]


def refused(spec: dict[str, Any], kind: type[Exception], texts: list[str], state: Path) -> None:
    with pytest.raises(kind) as caught, create_sandbox(**{**PROVIDER, **spec}):
        pytest.fail("a sandbox was made")
    for text in texts:
        assert text in str(caught.value)
    assert [path for path in state.rglob("*") if path.suffix in (".json", ".owner")] == []


@pytest.mark.parametrize(("spec", "kind", "texts"), BAD_SPECS, ids=[str(spec) for spec, _, _ in BAD_SPECS])
def test_a_bad_setting(own_state: Path, spec: dict[str, Any], kind: type[Exception], texts: list[str]) -> None:
    refused(spec, kind, texts, own_state)


def test_a_bad_runtime(own_state: Path, tmp_path: Path) -> None:
    spec = {"runtime": "nod", "source": tmp_path}
    refused(spec, errors.UnknownName, ["no such runtime", "did you mean 'node'?"], own_state)


@pytest.mark.parametrize(("name", "why"), BAD_NAMES, ids=[ascii(name)[:12] for name, _ in BAD_NAMES])
def test_a_bad_name(own_state: Path, name: str, why: str) -> None:
    refused({"name": name}, errors.InvalidName, [" is not valid: ", why], own_state)


@pytest.mark.parametrize(("mount", "why"), BAD_MOUNTS)
def test_a_bad_mount(own_state: Path, tmp_path: Path, mount: str, why: str) -> None:
    (tmp_path / "link").symlink_to("/etc")
    os.mkfifo(tmp_path / "socket")
    refused({"mounts": [mount.format(tmp=tmp_path)]}, errors.InvalidSpec, [why], own_state)


@pytest.mark.parametrize(("spec", "kind", "texts"), BAD_NETWORKS, ids=[str(spec) for spec, *_ in BAD_NETWORKS])
def test_a_bad_network(own_state: Path, spec: dict[str, Any], kind: type[Exception], texts: list[str]) -> None:
    refused(spec, kind, texts, own_state)


def test_every_source_of_settings_names_the_place_of_its_fault(real: pytest.Pytester) -> None:
    real.makepyfile(
        test_bad="""
        import pytest

        @pytest.mark.airlock(memory="4 Gigs", cpu="4", nam="x")
        def test_x(airlock_sandbox): pass
    """
    )
    for arguments, lines in (
        ([], ["*test_bad.py::test_x: memory='4 Gigs'*", "*test_bad.py::test_x: *'nam'*did you mean 'name'*"]),
        (["--airlock-keep=sometimes"], ["*command line: --airlock-keep: 'sometimes' is none of failed, all, none"]),
        (["-o", "airlock_profile=strickt"], ["*airlock_profile*'strickt'*", "*'strict'?*"]),
    ):
        result = real.runpytest(*arguments)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines_random(lines)
    real.makefile(".yaml", airlock="spec:\n  memroy: 4G\n")
    result = real.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*airlock.yaml:2: *memroy*", "*'memory'*"])


# -- the store ---------------------------------------------------------------------------------------------------------

RECORDS = {
    "corrupt": b'{"version": 1, \xff\xfe',
    "truncated": b'{"version":1,"name":"mine","provi',
    "empty": b"",
    "foreign-version": b'{"version":99,"name":"mine","provider":"namespaces","state":"running"}',
    "no-record": b"[" * 100_000,
}


@pytest.mark.parametrize("data", RECORDS.values(), ids=RECORDS)
def test_a_damaged_record_is_moved_aside_and_named(real: pytest.Pytester, own_state: Path, data: bytes) -> None:
    records = own_state / "records"
    records.mkdir(mode=0o700)
    (records / "mine.json").write_bytes(data)
    real.makepyfile("""
        def test_x(airlock_factory):
            assert airlock_factory(name="mine").run(["echo", "works"]).stdout == "works\\n"
    """)
    result = real.runpytest()
    result.assert_outcomes(passed=1)
    (kept,) = records.iterdir()
    assert kept.suffix == ".corrupt"
    assert kept.read_bytes() == data
    result.stdout.fnmatch_lines(["* airlock *", f"*{records / 'mine.json'}*", f"*hint: it was kept as {kept}"])


def test_a_damaged_record_is_told_outside_of_pytest_too(own_state: Path, caplog: pytest.LogCaptureFixture) -> None:
    (own_state / "records").mkdir(mode=0o700)
    (own_state / "records" / "other.json").write_bytes(b"")
    with create_sandbox(**PROVIDER):
        pass
    assert [record.name for record in caplog.records] == ["pytest_airlock"]
    assert "other.json" in caplog.text


def _state_in_a_file(top: Path) -> Path:
    (top / "state").write_text("")
    return top / "state"


def _state_below_a_file(top: Path) -> Path:
    return _state_in_a_file(top) / "below"


def _state_behind_a_dangling_link(top: Path) -> Path:
    (top / "state").symlink_to(top / "nowhere")
    return top / "state"


def _state_open_to_others(top: Path) -> Path:
    (top / "state").mkdir()
    (top / "state").chmod(0o777)
    return top / "state"


@pytest.mark.parametrize(
    ("make", "why", "fix"),
    [
        (_state_in_a_file, "it is not a directory", "move it away, or set AIRLOCK_STATE_DIR"),
        (_state_below_a_file, "Not a directory", "put the state elsewhere with AIRLOCK_STATE_DIR"),
        (_state_behind_a_dangling_link, "No such file or directory", "AIRLOCK_STATE_DIR leads nowhere"),
        (lambda _: Path("/proc/airlock"), "No such file or directory", "AIRLOCK_STATE_DIR leads nowhere"),
        (_state_open_to_others, "others have access to it", "chmod 700"),
        (lambda top: top / ("x" * 300), "File name too long", "put the state elsewhere with AIRLOCK_STATE_DIR"),
    ],
)
def test_a_state_directory_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, why: str, fix: str
) -> None:
    state = make(tmp_path)
    monkeypatch.setenv("AIRLOCK_STATE_DIR", str(state))
    with pytest.raises(errors.StoreError) as caught, create_sandbox(**PROVIDER):
        pytest.fail("a sandbox was made")
    assert why in caught.value.why
    assert fix in caught.value.hint
    assert str(state) in str(caught.value)


def test_an_unusable_state_directory_is_an_error_of_the_set_up(real: pytest.Pytester, tmp_path: Path) -> None:
    real.makepyfile("""
        def test_x(airlock_sandbox): pass
        def test_without_a_sandbox(): pass
    """)
    result = real.runpytest(f"--airlock-state-dir={_state_in_a_file(tmp_path)}")
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["E *StoreError: state in * cannot be used: it is not a directory", "E *hint: *"])


#: Runs in a mount name space of its own, where DIRECTORY is a file system of a few kilobytes.
FULL = """
import os, pathlib, subprocess, sys
from pytest_airlock import create_sandbox
from pytest_airlock.errors import StoreError

state = pathlib.Path(os.environ["AIRLOCK_STATE_DIR"])
def files():
    return [path.name for path in state.rglob("*") if path.is_file() and path.suffix not in (".lock", ".lease")]
def works():
    with create_sandbox(source=False, provider="namespaces") as box:
        return box.run(["echo", "works"]).stdout
def refused():
    try:
        works()
    except StoreError as error:
        return str(error).replace("\\n", " ")
    return "it was made"

try:
    with open(state / "filler", "wb", 0) as file:
        while True:
            file.write(bytes(4096))
except OSError:
    print(refused())
print(files())
(state / "filler").unlink()
print(works(), end="")
print(files())
subprocess.run(["mount", "-o", "remount,bind,ro", str(state)], check=True)
print(refused())
"""


def test_a_full_and_a_read_only_disk(own_state: Path) -> None:
    enter = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--user", "--map-root-user"])]
    script = 'mount -t tmpfs -o size=64k,mode=700 tmpfs "$0" && exec "$@"'
    command = [*enter, "/bin/sh", "-c", script, str(own_state), sys.executable, "-c", FULL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    full, left, works, clean, read_only = done.stdout.splitlines()
    assert "No space left on device" in full
    assert "hint: the disk is full: free some space, or put the state elsewhere" in full
    assert (left, works, clean) == ("['filler']", "works", "[]")
    assert "Read-only file system" in read_only
    assert "hint: the file system is read-only: put the state elsewhere" in read_only


def test_two_runs_at_once(real: pytest.Pytester, own_state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real.makepyfile(
        test_first="""
        def test_holds(airlock_factory, airlock_sandbox):
            box = airlock_factory(name="mine")
            print("held", flush=True)
            assert input() == "go on"
            assert box.run(["echo", "mine"]).stdout == "mine\\n"
            assert not airlock_sandbox.path("/etc/second").exists()
        """,
        test_second="""
        import os
        import pytest
        from pytest_airlock.errors import AlreadyExists

        def test_meets(airlock_factory, airlock_sandbox):
            with pytest.raises(AlreadyExists) as caught:
                airlock_factory(name="mine")
            assert f"held by pid {os.environ['OTHER']}" in str(caught.value)
            assert "test_first.py::test_holds" in str(caught.value)
            airlock_sandbox.shell("echo second > /etc/second", check=True)
        """,
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-m", "pytest", "-s", "test_first.py"], cwd=real.path, **pipes) as first:
        said: list[str] = []
        # Ends at the word, or with the process.
        while (line := first.stdout.readline()) and "held" not in line:
            said.append(line)
        assert line, "".join(said)
        monkeypatch.setenv("OTHER", str(first.pid))
        real.runpytest_subprocess("test_second.py").assert_outcomes(passed=1)
        output, _ = first.communicate("go on\n", timeout=60)
    assert "1 passed" in output
    assert list(own_state.rglob("*.json")) == []


# -- commands ----------------------------------------------------------------------------------------------------------


def test_arguments_that_no_system_takes(box: Sandbox) -> None:
    with pytest.raises(ValueError, match="argv is empty: its first item is the program to run"):
        box.run([])
    with pytest.raises(ValueError, match="embedded null byte"):
        box.run(["echo", "a\0b"])
    with pytest.raises(OSError, match="Argument list too long"):
        box.run(["echo", "x" * 200_000])
    with pytest.raises(FileNotFoundError):
        box.run([""])
    assert box.run(["printf", "%s|", "", "two\nlines", ""]).stdout == "|two\nlines||"


def test_programs_that_cannot_be_executed(box: Sandbox) -> None:
    with pytest.raises(FileNotFoundError, match=r"pass a list, or use shell\(\)"):
        box.run("ls -l")
    with pytest.raises(PermissionError, match="may not be executed"):
        box.run(["/etc"])
    with pytest.raises(PermissionError, match="may not be executed"):
        box.run(["/etc/passwd"])
    box.shell("printf '#!/no/such/interpreter\\n' >/tmp/script && chmod 755 /tmp/script", check=True)
    with pytest.raises(FileNotFoundError):
        box.run(["/tmp/script"])
    box.shell("echo 'echo no first line' >/tmp/script", check=True)
    with pytest.raises(OSError, match="Exec format error"):
        box.run(["/tmp/script"])


def test_output_that_is_no_text(box: Sandbox) -> None:
    assert box.run(["printf", r"\377\000"]).stdout == "\\xff\0"
    assert box.run(["printf", r"\351"], encoding="latin-1").stdout == "\u00e9"
    with pytest.raises(UnicodeDecodeError):
        box.run(["printf", r"\377"], errors="strict")
    with pytest.raises(errors.CommandFailed) as caught:
        box.shell(r"printf '\033[2J\377' >&2; exit 3", check=True)
    assert str(caught.value).endswith("--- stderr ---\n\\x1b[2J\\xff")


def test_a_command_that_closes_its_streams(box: Sandbox) -> None:
    code = "import os\nfor fd in (0, 1, 2): os.close(fd)\nos._exit(7)"
    assert box.run([sys.executable, "-c", code], input="x" * 1_000_000).returncode == 7


@pytest.mark.parametrize("streams", ["", ">/dev/null 2>&1 </dev/null"], ids=["keeps-streams", "closes-streams"])
def test_a_command_that_daemonises(box: Sandbox, streams: str) -> None:
    done = box.shell(f"(setsid sh -c 'sleep 1000; :' {streams} &) ; echo started", timeout=30)
    assert done.stdout == "started\n"
    box.reset()
    assert "sleep" not in box.shell("cat /proc/[0-9]*/comm").stdout


def test_a_command_that_ignores_every_signal_it_can(box: Sandbox) -> None:
    code = """
import signal
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
print("deaf", flush=True)
while True:
    signal.pause()
"""
    with pytest.raises(errors.CommandTimeout, match="timed out after 1 seconds\n--- stdout ---\ndeaf") as caught:
        box.run([sys.executable, "-c", code], timeout=1)
    assert caught.value.stdout == "deaf\n"
    assert "valid_signals" not in box.shell("cat /proc/[0-9]*/cmdline").stdout


@pytest.mark.parametrize(
    "loop",
    [
        "while True:\n  try: os.fork()\n  except OSError: pass",  # ever more of them
        "while True:\n  if os.fork(): os._exit(0)",  # always one, never the same
        "while True:\n  if os.fork(): signal.pause()\n  os.setsid()",  # a chain of sessions
    ],
    ids=["bomb", "runaway", "chain"],
)
def test_a_command_that_forks_for_ever(box: Sandbox, loop: str) -> None:
    try:
        box.run([sys.executable, "-c", f"import os, signal  # forks\n{loop}"], timeout=2)
    except (errors.CommandTimeout, errors.SandboxDied):
        pass
    box.reset()
    assert box.run(["echo", "alive"]).stdout == "alive\n"
    assert "forks" not in box.shell("cat /proc/[0-9]*/cmdline").stdout
