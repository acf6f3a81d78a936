"""Every error: its text says what, why and what to do; its fields survive pickling; builtin parents catch it."""

from __future__ import annotations

import inspect
import pickle
import subprocess

import pytest

from pytest_airlock import errors
from pytest_airlock.errors import AirlockError
from pytest_airlock.sandbox import CompletedProcess

OWNER = {"pid": 7, "worker": "gw1", "test": ""}

SAMPLES = [
    errors.AirlockError("it broke", why="because", hint="mend it"),
    errors.InvalidSpec("cpu", 0, "too few", hint="give 1"),
    errors.InvalidName("name", "../x", "no label", hint="use a-z"),
    errors.MountForbidden("mounts", "/etc", "it is sensitive", hint="mount less"),
    errors.ProvisionForbidden("provision", "a;b", "it has ;", hint="use a list"),
    errors.UnknownName("profile", "strikt", ["strict", "dev"], nearest="strict"),
    errors.ConfigError("airlock.yaml", "no number", key="cpu", line=3, hint="write 4"),
    errors.ProfileForbids("strict", "network='open'", hint="use dev"),
    errors.UnsupportedFeature("memory", "fake", "no cgroup", hint="delegate one"),
    errors.ProviderUnavailable("fake", "clone3 is ENOSYS", hint="upgrade"),
    errors.InsufficientResources("cpu", 4, 2, can_ever_fit=False, why="two processors", hint="ask for 2"),
    errors.MissingExtra("https:// cannot be served", "tls", "certificates need trustme"),
    errors.ServedAppFailed("https://api.test", "ValueError: x", 2),
    errors.AlreadyExists("box", owner=OWNER, hint="another name"),
    errors.HeldElsewhere("box", owner=OWNER),
    errors.SandboxNotFound("box", hint="list them"),
    errors.SnapshotNotFound("box", "s1", hint="take one"),
    errors.InvalidTransition("box", "errored", "running", ["destroyed"]),
    errors.StaleSandbox("box"),
    errors.SandboxBusy("box", [(4, "sleep")]),
    errors.SandboxDied("box", "out of memory", hint="give more"),
    errors.ResetFailed("box", "a process in D state", hint="see dmesg"),
    errors.ProviderError("fake", "start", "EIO", hint="again"),
    errors.StoreError("/state", "EROFS", hint="mount it rw"),
    errors.CorruptRecord("/state/a.json", "no JSON", moved_to="/state/a.json.corrupt"),
    errors.CommandError("it ended", why="badly"),
    errors.CommandFailed(3, ["x"], "out", "err", CompletedProcess(["x"], 3, "out", "err", stdout_bytes=b"out")),
    errors.CommandTimeout(["x"], 1.5, "out", "err"),
    errors.OutputLimitExceeded(["x"], 10, "out", "err"),
]
NAMES = [type(sample).__name__ for sample in SAMPLES]


def test_there_is_a_sample_of_every_error():
    assert sorted(NAMES) == sorted(errors.__all__)


def test_all_names_every_error_of_the_module():
    found = [
        name for name, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, AirlockError) and value.__module__ == errors.__name__
    ]  # fmt: skip
    assert sorted(found) == sorted(errors.__all__)


def test_the_tree_in_the_docstring_is_the_tree():
    assert [name for name in errors.__all__ if f" {name} " not in f"{errors.__doc__} ".replace("\n", " ")] == []


@pytest.mark.parametrize("error", SAMPLES, ids=NAMES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_field_survives_pickling(error, protocol):
    error.add_note("said once more")
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.args == error.args
    fields = {name: value for name, value in vars(error).items() if name != "result"}
    assert {name: value for name, value in vars(copy).items() if name != "result"} == fields
    assert copy.__notes__ == error.__notes__
    error.__notes__.clear()


def test_the_result_of_a_failed_command_survives_pickling():
    error = next(sample for sample in SAMPLES if isinstance(sample, errors.CommandFailed))
    copy = pickle.loads(pickle.dumps(error))
    assert vars(copy.result) == vars(error.result)


@pytest.mark.parametrize("error", SAMPLES, ids=NAMES)
def test_the_text_is_what_why_and_hint(error):
    text = str(error)
    assert text.startswith(error.what)
    assert error.what
    if error.why:
        assert text.startswith(f"{error.what}: {error.why}")
    if error.hint:
        assert text.endswith(f"\n  hint: {error.hint}")


@pytest.mark.parametrize(
    ("error", "parents"),
    [
        (errors.InvalidSpec, ValueError), (errors.UnknownName, LookupError), (errors.ConfigError, ValueError),
        (errors.ProfileForbids, PermissionError), (errors.HeldElsewhere, PermissionError),
        (errors.SandboxNotFound, LookupError), (errors.SnapshotNotFound, LookupError),
        (errors.StaleSandbox, RuntimeError), (errors.CommandFailed, subprocess.CalledProcessError),
        (errors.CommandTimeout, subprocess.TimeoutExpired),
        (errors.OutputLimitExceeded, subprocess.SubprocessError), (errors.MissingExtra, ImportError),
    ],
)  # fmt: skip
def test_builtin_parents(error, parents):
    assert issubclass(error, parents)
    assert issubclass(error, AirlockError)


def test_a_failed_command_shows_what_it_wrote():
    error = errors.CommandFailed(3, ["x"], b"went \xff well\n", "x\x1b[2Jbroke\n", None)
    assert str(error) == ("command ['x'] returned 3\n--- stdout ---\nwent \\xff well\n--- stderr ---\nx\\x1b[2Jbroke")
    assert str(errors.CommandTimeout(["x"], 1, None, None)) == "command ['x'] timed out after 1 seconds"


def test_what_a_failed_command_wrote_is_shown_in_bounds():
    text = str(errors.CommandFailed(1, ["x"], "first" + "x" * 10_000_000 + "last", "", None))
    assert len(text) < 10_000
    assert "first" in text
    assert text.endswith("last")
    assert "characters left out" in text


def test_a_long_value_is_shortened():
    assert len(str(errors.InvalidSpec("env", "x" * 10_000, "why"))) < 300


def test_the_owner_of_a_held_name_is_named_without_empty_fields():
    assert str(errors.AlreadyExists("box", owner=OWNER)) == "sandbox 'box' already exists: held by pid 7, worker gw1"


def test_add_note_takes_text_only():
    with pytest.raises(TypeError, match="must be a str"):
        errors.AirlockError("x").add_note(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", SAMPLES[-2:], ids=NAMES[-2:])
def test_captured_output_has_the_words_of_subprocess(error):
    assert (error.output, error.stdout, error.stderr) == ("out", "out", "err")
