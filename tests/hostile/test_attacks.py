"""Every attack of attacks_*.py: held as things are, and seen to work with its protections off."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attacks
import pytest
import weakened
from attacker import Box
from attacks import Attack
from host import Host

from pytest_airlock.providers.namespaces import client

ALL = attacks.load()
CONTROLS = [(attack, off) for attack in ALL for off in attack.controls]


def named(value: object) -> str:
    return value.name if isinstance(value, Attack) else "+".join(value).replace(" ", "_")  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(tmp_path_factory.mktemp("host"))
    yield host
    host.close()


def group(attack: Attack) -> str:
    return attack.run.__module__.removeprefix("attacks_").replace("_", " ")


@pytest.mark.parametrize("attack", ALL, ids=named)
def test_attack_is_held_and_the_host_unharmed(
    attack: Attack,
    make_box: Callable[..., Box],
    host: Host,
    mode: str,
    users: tuple[str, ...],
    row: Callable[..., None],
) -> None:
    seen: dict[str, Any] = {}
    before = host.state()
    for user in [user for user in attack.users if user in users] or users[:1]:
        box = make_box(**attack.words)
        box.user = user
        seen[user] = attack.run(box)
        assert seen[user] == attacks.value_for(attack.expected, mode, user)
    assert host.state() == before
    user, answer = next(iter(seen.items()))
    expected = attacks.value_for(attack.expected, mode, user)
    why = attack.why_not_shown(mode)
    row(attack.what, group=group(attack), stops=attack.stops, expected=expected, seen=answer, reason=why)


@pytest.mark.parametrize(("attack", "off"), CONTROLS, ids=named)
def test_attack_works_without_what_stops_it(
    attack: Attack,
    off: tuple[str, ...],
    make_weak_box: Callable[..., Box],
    host: Host,
    mode: str,
    users: tuple[str, ...],
    row: Callable[..., None],
) -> None:
    if attack.why_not_shown(mode):
        return  # said in the table
    before = host.state()
    box = make_weak_box(*off, **attack.words)
    box.user = attack.control_user if attack.control_user in users else users[0]
    seen = attack.run(box)
    assert seen == attacks.value_for(attack.controls[off], mode, box.user)
    if off == list(attack.controls)[-1]:
        assert seen != attacks.value_for(attack.expected, mode, box.user), "what is off makes no difference"
    row(attack.what, group=group(attack), off=" (+) ".join(off), without=seen)
    assert host.state() == before, "a control must not harm this machine"


def texts(engine: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in engine.rglob("*.py")}


def test_the_product_cannot_be_weakened_and_each_weakening_finds_its_place(tmp_path: Path) -> None:
    assert not any("weakened" in text for text in texts(Path(client.__file__).parent / "engine").values())
    plain = texts(weakened.copy_engine(tmp_path / "plain", ()) / "engine")
    for number, (name, edits) in enumerate(weakened.WEAKENINGS.items()):
        changed = texts(weakened.copy_engine(tmp_path / str(number), (name,)) / "engine")
        assert (changed == plain) == all(isinstance(edit, weakened.OnHost) for edit in edits), name
        for file, text in changed.items():
            compile(text, file, "exec")


@pytest.mark.parametrize(
    "edit", [weakened.Replace("no such text", ""), weakened.Replace("import os", ""), weakened.Redefine("nowhere", "")]
)
def test_a_weakening_that_finds_nothing_or_several_places_raises(tmp_path: Path, edit: weakened.Edit) -> None:
    weakened.copy_engine(tmp_path, ())
    with pytest.raises(weakened.NothingToWeaken):
        weakened._apply(tmp_path / "engine", edit)


def test_every_attack_has_a_name_of_its_own() -> None:
    names = [attack.name for attack in ALL]
    assert [name for name, same in itertools.groupby(sorted(names)) if len(list(same)) > 1] == []
