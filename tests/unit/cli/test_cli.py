from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import record, run

from pytest_airlock import cli
from pytest_airlock.errors import ProviderError
from pytest_airlock.models import Owner, State
from pytest_airlock.orchestrator.storage.store import FileStore


def test_list_of_nothing(store: FileStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    assert capsys.readouterr().out == "no sandboxes\n"


@pytest.mark.usefixtures("provider")
def test_list_shows_every_sandbox_and_whose_it_is(store, capsys, alive: Owner, dead: Owner) -> None:
    store.save(record("theirs", alive))
    store.save(record("orphan", dead))
    store.save(record("kept", dead, kept=True))
    assert run("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "STATE", "PROVIDER", "PROFILE", "NETWORK", "OWNER"]
    words = {line.split()[0]: line for line in lines[1:]}
    assert "running" in words["theirs"]
    assert f"pid {alive.pid} gw1 test_x.py::test_y" in words["theirs"]
    assert "stopped" in words["orphan"]
    assert "kept, left by" in words["kept"]


@pytest.mark.usefixtures("provider")
def test_list_and_status_as_json(store: FileStore, capsys, dead: Owner) -> None:
    store.save(record("box", dead))
    run("list", "--json")
    assert [found["name"] for found in json.loads(capsys.readouterr().out)] == ["box"]
    run("status", "box", "--json")
    assert json.loads(capsys.readouterr().out)["enforced"] == ["network_locked"]


@pytest.mark.usefixtures("provider")
def test_status_tells_what_is_known(store: FileStore, capsys, dead: Owner) -> None:
    store.save(record("box", dead, state=State.ERRORED, error="it broke", remains="the sandbox"))
    assert run("status", "box") == 0
    shown = capsys.readouterr().out
    assert "errored" in shown
    assert "it broke" in shown
    assert "the sandbox" in shown


def test_status_of_nothing_is_an_error_with_its_text(store: FileStore, capsys) -> None:
    assert run("status", "box") == 1
    assert capsys.readouterr().err == "airlock: there is no sandbox 'box'\n"


def test_r07_a_provider_that_fails_spoils_only_its_own_line(store, provider, capsys, dead: Owner) -> None:
    provider.faults.fail("is_running", ProviderError("fake", "ask", "told so"), name="a")
    store.save(record("a", dead))
    store.save(record("b", dead))
    assert run("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "running*" in lines[1]
    assert "stopped" in lines[2]


def test_destroy_removes_an_orphan_and_what_was_kept(store, provider, capsys, dead: Owner) -> None:
    store.save(record("box", dead, kept=True))
    assert run("destroy", "box") == 0
    assert capsys.readouterr().out == "destroyed box\n"
    assert ("delete", "box") in provider.calls
    assert store.records() == []
    assert run("destroy", "box") == 1
    assert run("destroy", "box", "--missing-ok") == 0


@pytest.fixture
def exported(store: FileStore, dead: Owner) -> Path:
    """Where the files of `box` are, which was kept by a run that is over."""
    place = store.kept_dir("box")
    (place / "files").mkdir(parents=True)
    (place / "files/left").write_text("x" * 1536)
    export = {"path": str(place), "files": 1, "bytes": 1536, "changes": 4, "left_out": 3}
    store.save(record("box", dead, kept=True, state=State.STOPPED, export=export))
    return place


def test_r12_list_and_status_show_where_an_export_is(store, provider, capsys, exported: Path, dead: Owner) -> None:
    store.save(record("other", dead))
    shown = f"{exported} (1 file, 1.5 KiB, 3 left out: see its changes.json)"
    assert run("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [shown in line for line in lines] == [False, True, False]
    assert lines[0].endswith("KEPT AS FILES")
    assert run("status", "box") == 0
    assert f"  {shown}\n" in capsys.readouterr().out
    assert [operation for operation, name in provider.calls if name == "box"] == []


@pytest.mark.usefixtures("provider")
@pytest.mark.parametrize("verb", [("destroy", "box"), ("gc", "--kept")])
def test_r12_an_export_goes_when_it_is_told_to(store: FileStore, exported: Path, verb: tuple[str, ...]) -> None:
    assert run("gc") == 0
    assert run("stop", "box") == 0
    assert (exported / "files/left").exists()
    assert run(*verb) == 0
    assert not exported.exists()
    assert store.records() == []


@pytest.mark.parametrize("verb", ["destroy", "stop"])
def test_a_sandbox_of_a_live_run_is_never_touched(store, provider, capsys, alive: Owner, verb: str) -> None:
    store.save(record("box", alive))
    assert run(verb, "box") == 1
    told = capsys.readouterr().err
    assert "belongs to another run" in told
    assert f"pid {alive.pid}, worker gw1, test test_x.py::test_y" in told
    assert "hint: end that run first" in told
    assert provider.calls == []
    assert len(store.records()) == 1


def test_stop_of_a_kept_sandbox(store, provider, capsys, dead: Owner) -> None:
    store.save(record("box", dead, kept=True))
    assert run("stop", "box") == 0
    assert ("stop", "box") in provider.calls
    assert store.load("box").state is State.STOPPED
    assert store.load("box").kept


def test_gc_removes_what_the_dead_left_and_nothing_else(store, provider, capsys, alive: Owner, dead: Owner) -> None:
    store.save(record("theirs", alive))
    store.save(record("orphan", dead))
    store.save(record("kept", dead, kept=True))
    assert run("gc") == 0
    told = capsys.readouterr().out
    assert "removed sandbox 'orphan', left by process" in told
    assert "held by live runs: theirs" in told
    assert "kept on purpose" in told
    assert [found.name for found in store.records()] == ["kept", "theirs"]
    assert run("gc", "--kept") == 0
    assert [found.name for found in store.records()] == ["theirs"]


def test_gc_with_nothing_to_do(store: FileStore, capsys) -> None:
    assert run("gc") == 0
    assert capsys.readouterr().out == "nothing to collect\n"


def test_gc_that_fails_says_so_and_exits_with_1(store, provider, capsys, dead: Owner) -> None:
    provider.faults.fail("delete", ProviderError("fake", "delete", "stuck"))
    store.save(record("box", dead))
    assert run("gc") == 1
    assert "could not remove sandbox 'box'" in capsys.readouterr().err
    assert len(store.records()) == 1


def test_the_state_directory_can_be_given(tmp_path: Path, capsys, provider, dead: Owner) -> None:
    FileStore(tmp_path / "elsewhere").save(record("box", dead))
    assert run("--state-dir", str(tmp_path / "elsewhere"), "list") == 0
    assert "box" in capsys.readouterr().out


def test_a_corrupt_record_is_said_and_the_others_are_listed(store, provider, capsys, dead: Owner) -> None:
    store.save(record("good", dead))
    (store.root / "records" / "bad.json").write_text("{")
    assert run("list") == 0
    told = capsys.readouterr()
    assert "good" in told.out
    assert "bad.json" in told.err
    assert ".corrupt" in told.err


def test_an_unusable_state_directory_is_an_error_with_a_hint(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert run("--state-dir", str(tmp_path / "file"), "list") == 1
    assert "hint:" in capsys.readouterr().err


@pytest.mark.usefixtures("provider")
def test_nothing_in_a_record_steers_the_terminal(store: FileStore, capsys, dead: Owner) -> None:
    evil = dead.model_copy(update={"test": "\x1b]0;owned\x07test\r"})
    store.save(record("box", evil, state=State.ERRORED, error="\x1b[2J"))
    for verb in (["list"], ["status", "box"]):
        run(*verb)
        assert "\x1b" not in capsys.readouterr().out


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["fly"], ["status"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(argv)
        assert caught.value.code == 2
    assert "usage: airlock" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [("run", "box", "--", "true"), ("shell", "box")])
@pytest.mark.parametrize(
    ("fields", "owner", "text"),
    [
        ({}, "alive", "provider 'fake' cannot provide 'attach' on this host"),
        ({}, "dead", "its run (process {pid}) has ended\n  hint: `airlock gc` removes what it left"),
        ({"state": State.STOPPED}, "alive", "sandbox 'box' cannot be entered: it is stopped, not running"),
        ({"state": State.CREATING}, "alive", "sandbox 'box' cannot be entered: it is creating, not running"),
        (
            {"kept": True, "export": {"path": "/kept/box", "files": 1, "bytes": 1, "changes": 1}},
            "dead",
            "it was kept as files, and no process of it runs\n  hint: look at them in /kept/box",
        ),
    ],
    ids=["cannot", "dead", "stopped", "creating", "kept as files"],
)
@pytest.mark.parametrize("provider", [{"without": ("Attaches",)}], indirect=True)
@pytest.mark.usefixtures("provider")
def test_what_cannot_be_entered_says_why(store, capsys, request, verb, fields, owner, text) -> None:
    whose = request.getfixturevalue(owner)
    store.save(record("box", whose, **fields))
    assert run(*verb) == 125
    assert text.format(pid=whose.pid) in capsys.readouterr().err


def test_a_command_that_is_not_there_is_usage(capsys) -> None:
    assert run("run", "box") == 2
    assert "there is no command" in capsys.readouterr().err
    for wrong in ("=x", "NAME"):
        with pytest.raises(SystemExit, match="2"):
            run("run", "--env", wrong, "box", "true")
