"""An attack is written once, as a function of a sandbox. It is run twice: as things are, where its outcome is `expected` to the letter
and the host is unharmed; and with protections switched off (weakened.py), where it must be seen to work.

    @attack("EPERM", stops="system-call filter", controls={("no system-call filter", "capabilities kept"): "ok"})
    def mounts_a_file_system(box):
        \"\"\"Mount a tmpfs over /mnt.\"\"\"
        return box.attack("answer = call('mount', b'x', b'/mnt', b'tmpfs', 0, 0)")

Several controls tell the layers apart: one that removes the first only says who stops it then. Where harm to this machine would be real, or
where a mode cannot do without the protection, `not_shown` says so, and the table with it.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from attacker import Box

MODES = ("root", "range", "single")
ATTACKS: list[Attack] = []


class AnyOf:
    """One of these: what differs between kernels."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __eq__(self, other: object) -> bool:
        return other in self.values

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return " or ".join(map(short, self.values))


class Fits:
    """Whatever passes a test, under a name for the table."""

    def __init__(self, name: str, test: Callable[[Any], bool]) -> None:
        self.name, self.test = name, test

    def __eq__(self, other: object) -> bool:
        return bool(self.test(other))

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return self.name


class By:
    """A value for each id mode (root, range, single), or for each user inside (user_root, user_airlock); `other` for the rest."""

    def __init__(self, other: Any = None, **values: Any) -> None:
        self.other, self.values = other, values

    def of(self, mode: str, user: str) -> Any:
        return self.values.get(mode, self.values.get(f"user_{user}", self.other))


class Attack(NamedTuple):
    """`controls`: weakenings → what is seen then. `not_shown`: why there is no control, for all modes or by mode."""

    name: str
    run: Callable[[Box], Any]
    expected: Any
    stops: str
    controls: Mapping[tuple[str, ...], Any]
    not_shown: str | Mapping[str, str]
    users: tuple[str, ...]
    control_user: str
    words: Mapping[str, Any]

    @property
    def what(self) -> str:
        return " ".join((self.run.__doc__ or self.name.replace("_", " ")).split())

    def why_not_shown(self, mode: str) -> str:
        return self.not_shown if isinstance(self.not_shown, str) else self.not_shown.get(mode, "")


def attack(
    expected: Any,
    *,
    stops: str,
    controls: Mapping[tuple[str, ...], Any] | None = None,
    not_shown: str | Mapping[str, str] = "",
    users: tuple[str, ...] = ("root", "airlock"),
    control_user: str = "root",
    **words: Any,
) -> Callable[[Callable[[Box], Any]], Callable[[Box], Any]]:
    """Register an attack; `words` are those of ProviderSpec for its sandbox."""
    if not controls and not not_shown:
        raise ValueError("an attack has a control, or says why not")

    def register(function: Callable[[Box], Any]) -> Callable[[Box], Any]:
        ATTACKS.append(
            Attack(function.__name__, function, expected, stops, controls or {}, not_shown, users, control_user, words)
        )
        return function

    return register


def value_for(value: Any, mode: str, user: str) -> Any:
    return value.of(mode, user) if isinstance(value, By) else value


def load() -> list[Attack]:
    """All attacks of the modules attacks_*.py beside this one."""
    for path in sorted(Path(__file__).parent.glob("attacks_*.py")):
        importlib.import_module(path.stem)
    return ATTACKS


def short(value: Any) -> str:
    """An answer in a cell of the table."""
    if isinstance(value, dict) and value:
        codes = Counter(map(short, value.values()))
        if len(value) > 3 and len(codes) <= 3:
            return ", ".join(f"{code} × {count}" for code, count in codes.items())
        return ", ".join(f"{name}: {short(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(short, value)) or "nothing"
    if isinstance(value, str):
        return value.strip() or "nothing"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "nothing"}[value]
    return repr(value) if isinstance(value, (AnyOf, Fits)) else json.dumps(value, default=repr)
