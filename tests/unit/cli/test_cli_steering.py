"""airlock lock, unlock, allow; and the policies that list and status show."""

from __future__ import annotations

import json

import pytest
from cli_helpers import record, run

from pytest_airlock.models import MAX_ALLOW, Network, State
from pytest_airlock.providers.base import Handle, ProviderSpec
from pytest_airlock.testing import FakeProvider


@pytest.fixture
def theirs(store, provider, alive):
    """The provider of a live run, with a running sandbox `box` of profile dev; the command has one of its own."""
    owner = FakeProvider()
    handle = owner.create(ProviderSpec("box"))
    owner.start(handle)
    save(store, alive, handle)
    return owner


def save(store, alive, handle: Handle, **fields: object) -> None:
    allowed = ("locked", "allow", "open")
    store.save(record("box", alive, profile="dev", handle=handle.to_json(), network_allowed=allowed, **fields))


def policy(owner: FakeProvider) -> Network:
    return Network(mode=owner.rule("box").mode, allow=owner.rule("box").allow)


def test_r46_allow_lock_and_unlock_a_sandbox_of_a_live_run(store, theirs, capsys) -> None:
    assert run("allow", "box", "Example.com:443", "10.0.0.0/8:*") == 0
    allowed = Network(mode="allow", allow=("example.com:443", "10.0.0.0/8:*"))
    assert policy(theirs) == store.load("box").network == allowed
    assert run("lock", "box") == 0
    assert policy(theirs) == Network()
    assert store.load("box").before_lock == allowed
    assert run("unlock", "box") == 0
    assert policy(theirs) == store.load("box").network == allowed
    assert run("lock", "box") == run("allow", "box", "two:2") == 0
    assert capsys.readouterr().out.splitlines() == [
        "the network of box is allow example.com:443, 10.0.0.0/8:*",
        "the network of box is locked",
        "the network of box is allow example.com:443, 10.0.0.0/8:*",
        "the network of box is locked",
        "the network of box is allow two:2",
    ]


def test_unlock_of_what_nobody_locked_opens(theirs, capsys) -> None:
    assert run("unlock", "box") == 0
    assert policy(theirs).mode == "open"
    assert run("allow", "box", "10.0.0.5:5432") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "the network of box is open, and 10.0.0.5:5432"


@pytest.mark.parametrize("entries", [["nonsense"], ["fine:1", "localhost:80"]])
def test_what_is_no_entry_is_said(theirs, capsys, entries: list[str]) -> None:
    assert run("allow", "box", *entries) == 1
    assert f"allow[{len(entries) - 1}]={entries[-1]!r} is not valid" in capsys.readouterr().err
    assert policy(theirs) == Network()


def test_allow_without_an_entry_is_usage() -> None:
    with pytest.raises(SystemExit, match="2"):
        run("allow", "box")


def test_r46_the_recorded_profile_binds_the_command(store, provider, alive, capsys) -> None:
    store.save(record("box", alive))
    assert run("unlock", "box") == 1
    assert "profile 'cautious'" in capsys.readouterr().err
    assert ("attach", "box") not in provider.calls


def test_it_is_another_users(theirs, provider, capsys) -> None:
    provider.faults.fail("attach", PermissionError(13, "it belongs to another user", "box"))
    assert run("lock", "box") == 1
    assert capsys.readouterr().err == "airlock: sandbox 'box' cannot be entered: it belongs to another user\n"


@pytest.mark.parametrize("verb", [("lock", "box"), ("unlock", "box"), ("allow", "box", "a:1")])
@pytest.mark.parametrize(
    ("whose", "fields", "text"),
    [
        ("dead", {}, "has ended\n  hint: `airlock gc` removes what it left"),
        ("alive", {"state": State.STOPPED}, "sandbox 'box' cannot be entered: it is stopped, not running"),
    ],
    ids=["dead", "stopped"],
)
def test_what_cannot_be_entered_says_why(store, provider, capsys, request, verb, whose, fields, text) -> None:
    save(store, request.getfixturevalue(whose), Handle("fake", "box", {"fake": 0}), **fields)
    assert run(*verb) == 1
    assert text in capsys.readouterr().err


def test_what_is_not_there_is_said(store, provider, capsys) -> None:
    assert run("lock", "box") == 1
    assert capsys.readouterr().err == "airlock: there is no sandbox 'box'\n"
    assert list(store.root.rglob("*.lock")) == []


def test_list_and_status_show_policies(store, provider, dead, capsys) -> None:
    many = Network(mode="allow", allow=tuple(f"h{number}:1" for number in range(MAX_ALLOW)))
    store.save(record("box", dead, network=Network(), before_lock=many))
    assert run("list") == 0
    assert "locked (before: allow h0:1, h1:1, … 998 more)" in capsys.readouterr().out
    assert run("status", "box") == 0
    rows = {line.partition("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert rows["network"].split()[1:] == ["locked"]
    assert rows["before lock"].endswith("h19:1, … 980 more")
    assert run("status", "box", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["before_lock"]["allow"]) == MAX_ALLOW
