"""`airlock.yaml` and `airlock.toml`: the settings that live in a project, validated, each fault with file, line and key.

profile: cautious            # the words of the command line
spec:                        # defaults of every sandbox: the words of @pytest.mark.airlock
  memory: 512M
profiles:                    # own profiles, each extending another one
  builder: {extends: strict, project: cow}
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, ValidationError

from pytest_airlock.errors import ConfigError, InvalidSpec
from pytest_airlock.models import Cpu, Mount, MountMode, Network, NetworkMode, Profile, SandboxSpec, Seconds, Size

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

__all__ = ["FILE_NAMES", "Config", "UserProfile", "find_config", "load_config", "nearest"]

#: What is looked for in the root directory; at most one may exist.
FILE_NAMES = ("airlock.yaml", "airlock.toml")

#: Spellings that would be ignored in silence, and what to call the file instead.
_NEAR_NAMES = {"airlock.yml": "airlock.yaml", ".airlock.yaml": "airlock.yaml", ".airlock.toml": "airlock.toml"}

#: Keys and indices that lead to a place in a file, and the line (from 1) of each place.
_Place = tuple[str | int, ...]
_Lines = dict[_Place, int]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class UserProfile(_Section):
    """A profile of a configuration file: what it `extends`, and what it says otherwise. None = as the extended one."""

    extends: StrictStr
    project: Literal["absent", "cow", "rw"] | None = None
    mounts: tuple[MountMode, ...] | None = None
    network: Literal["locked", "open"] | None = None
    network_allowed: tuple[NetworkMode, ...] | None = None
    provision_network: StrictBool | None = None
    user: Literal["root", "airlock"] | None = None
    nested: StrictBool | None = None
    outlive: StrictBool | None = None
    cpu: Cpu | None = None
    memory: Size | None = None
    disk: Size | None = None
    pass_env: tuple[str, ...] | None = None

    def changes(self) -> dict[str, Any]:
        """What was set, as fields of models.Profile."""
        return {key: getattr(self, key) for key in self.model_fields_set if key != "extends"}


class _File(_Section):
    profile: StrictStr | None = None
    provider: StrictStr | None = None
    state_dir: StrictStr | None = None
    max_profile: StrictStr | None = None
    keep: Literal["failed", "all", "none"] | None = None
    insufficient: Literal["error", "skip", "clamp"] | None = None
    unavailable: Literal["error", "skip"] | None = None
    network_attempts: Literal["ignore", "warn", "forbid"] | None = None
    wait: Seconds | None = None
    spec: SandboxSpec = Field(default_factory=SandboxSpec)
    profiles: dict[str, UserProfile] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Config:
    """What a file says: `settings` by option word, `spec` as it was written, `profiles` by name."""

    path: Path
    settings: Mapping[str, object] = field(default_factory=dict)
    spec: Mapping[str, object] = field(default_factory=dict)
    profiles: Mapping[str, UserProfile] = field(default_factory=dict)
    _lines: Mapping[_Place, int] = field(default_factory=dict, repr=False)

    def add_profiles(self, registry: Extendable) -> None:
        """Register the profiles of the file, each after the one it extends. Raises ConfigError."""
        waiting = dict(self.profiles)
        while waiting:
            name = next((name for name, profile in waiting.items() if profile.extends not in waiting), None)
            if name is None:
                first = next(iter(waiting))
                raise self._profile_error(first, f"it extends itself, by way of {', '.join(waiting)}")
            profile = waiting.pop(name)
            try:
                registry.extend(name, profile.extends, **profile.changes())
            except InvalidSpec as error:
                raise self._profile_error(name, f"{error.what}: {error.why}", error.hint) from error

    def _profile_error(self, name: str, why: str, hint: str = "") -> ConfigError:
        place = ("profiles", name)
        return ConfigError(str(self.path), why, key=_dotted(place), line=_line(place, self._lines), hint=hint)


class Extendable(Protocol):
    """The part of a profile registry that a file needs."""

    def extend(self, name: str, base: str, **changes: object) -> Profile: ...


def nearest(word: object, known: Iterable[str]) -> str | None:
    """The known word that `word` was probably meant to be, or None."""
    if not isinstance(word, str):
        return None
    folded = word.lower().replace("-", "_")
    close = difflib.get_close_matches(folded, list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def find_config(directory: Path) -> Path | None:
    """The configuration file of a directory, None if it has none.

    Raises ConfigError for two files, and for a spelling that would never be read.
    """
    found = [directory / name for name in FILE_NAMES if (directory / name).is_file()]
    if len(found) > 1:
        raise ConfigError(
            str(found[0]), "airlock.toml stands beside it, and only one of them can be right", hint="remove one"
        )
    if not found:
        for name, right in _NEAR_NAMES.items():
            if (directory / name).is_file():
                raise ConfigError(
                    str(directory / name), "a file of this name is not read", hint=f"rename it to {right}"
                )
    return found[0] if found else None


def load_config(path: Path) -> Config:
    """Read and check one file. Raises ConfigError for the first fault, with a note for each further one."""
    source = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(source, f"it is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise ConfigError(source, f"it cannot be read ({error.strerror})") from error
    data, lines = (_read_toml if path.suffix == ".toml" else _read_yaml)(text, source)
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(source, f"it holds a {_kind(data)}, not keys with values", line=1, hint="write `key: value`")
    # An empty section (`spec:` with nothing below it) is None in YAML; it says nothing, so it is no fault.
    data = {key: value for key, value in data.items() if not (value is None and key in ("spec", "profiles"))}
    faults = list(_faults(data, lines, source))
    if faults:
        # A key that is missing is told after one that is misspelt: it is often the same mistake.
        first, *more = sorted(faults, key=lambda fault: (fault.line or 0, fault.why == _MISSING))
        for fault in more:
            first.add_note(f"also {fault}")
        raise first
    file = _File.model_validate(data)
    settings = {
        key: value
        for key in _File.model_fields
        if key not in ("spec", "profiles") and (value := getattr(file, key)) is not None
    }
    return Config(path, settings, data.get("spec", {}), file.profiles, lines)


def _faults(data: Mapping[str, Any], lines: _Lines, source: str) -> Iterator[ConfigError]:
    try:
        _File.model_validate(data)
    except ValidationError as error:
        seen: set[tuple[str, str]] = set()
        for item in error.errors(include_url=False):
            fault = _fault(item, data, lines, source)
            if (fault.key, fault.why) not in seen:
                seen.add((fault.key, fault.why))
                yield fault
    spec = data.get("spec")
    for key, why, hint in _MISPLACED:
        if isinstance(spec, dict) and spec.get(key) is not None:
            yield ConfigError(source, why, key=f"spec.{key}", line=_line(("spec", key), lines), hint=hint)


_MISSING = "it is missing"
_MISPLACED = (
    ("name", "a name belongs to one sandbox, not to all", "give it to airlock_factory or to a marker"),
    ("profile", "it stands at the top level", "write `profile:` outside of `spec:`"),
    ("provider", "it stands at the top level", "write `provider:` outside of `spec:`"),
)


def _fault(item: Any, data: Mapping[str, Any], lines: _Lines, source: str) -> ConfigError:
    """One ConfigError for one error of pydantic, whose `loc` may end in the names of union members."""
    place: _Place = item["loc"]
    if item["type"] == "missing":
        parent, key = _line(place[:-1], lines), _dotted(place)
        return ConfigError(source, _MISSING, key=key, line=parent, hint=f"add `{place[-1]}`")
    place = _existing(place, data)
    line, key = _line(place, lines), _dotted(place)
    if item["type"] == "extra_forbidden":
        known = _known(place[:-1])
        near = nearest(place[-1], known)
        hint = f"did you mean {near!r}? " if near else ""
        return ConfigError(
            source, "there is no such key", key=key, line=line, hint=f"{hint}known: {', '.join(sorted(known))}"
        )
    why = item["msg"].removeprefix("Value error, ")
    hint = ""
    if item["type"] == "string_type" and isinstance(item["input"], (bool, int, float)):
        hint = f'put it in quotes: "{str(item["input"]).lower() if isinstance(item["input"], bool) else item["input"]}"'
    elif item["type"] == "literal_error":
        near = nearest(item["input"], re.findall(r"'(\w+)'", item["ctx"]["expected"]))
        hint = f"did you mean {near!r}?" if near else ""
    return ConfigError(source, f"{why}, not {item['input']!r}"[:300], key=key, line=line, hint=hint)


def _known(section: _Place) -> Iterable[str]:
    match section:
        case ():
            return _File.model_fields
        case ("profiles", _):
            return UserProfile.model_fields
        case ("spec", "mounts", _):
            return Mount.model_fields
        case ("spec", "network"):
            return Network.model_fields
        case _:
            return SandboxSpec.model_fields.keys() - {"name", "profile", "provider"}


def _existing(place: _Place, data: Any) -> _Place:
    """The part of `place` that leads through `data`."""
    found: list[int | str] = []
    for step in place:
        if isinstance(data, list) and isinstance(step, str):
            continue  # what a validator makes of a list: network: [a] is network: {allow: [a]}
        held: Iterable[Any] = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
        if step not in held:
            break
        found.append(step)
        data = data[step]
    return tuple(found)


def _line(place: _Place, lines: Mapping[_Place, int]) -> int | None:
    """The line of a place, or of what holds it."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place)


def _dotted(place: _Place) -> str:
    return ".".join(str(step) for step in place)


def _kind(value: object) -> str:
    if isinstance(value, list):
        return "list"
    return "text" if isinstance(value, str) else type(value).__name__


def _read_yaml(text: str, source: str) -> tuple[Any, _Lines]:
    lines: _Lines = {}
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, lines
        _number(node, (), lines, set(), source)
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise ConfigError(
            source, error.problem or str(error), line=mark.line + 1 if mark else None, hint="it is not YAML"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(source, " ".join(str(error).split()), hint="it is not YAML") from error
    finally:
        loader.dispose()


def _number(node: yaml.Node, place: _Place, lines: _Lines, seen: set[int], source: str) -> None:
    """Note the line of every key and item. PyYAML lets the last of two equal keys win in silence: refused here."""
    lines.setdefault(place, node.start_mark.line + 1)
    if id(node) in seen:  # an alias, perhaps of a node that holds it
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _number(item, (*place, index), lines, seen, source)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                raise ConfigError(source, "a key is a text", key=str(key.value), line=line, hint="put it in quotes")
            inner = (*place, key.value)
            if inner in lines:
                raise ConfigError(
                    source,
                    f"it stands in line {lines[inner]} already",
                    key=_dotted(inner),
                    line=line,
                    hint="remove one",
                )
            lines[inner] = line
            _number(value, inner, lines, seen, source)


def _read_toml(text: str, source: str) -> tuple[Any, _Lines]:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"\(at line (\d+), column \d+\)$", str(error))
        line = int(match[1]) if match else None
        why = str(error)[: match.start()].strip() if match else str(error)
        raise ConfigError(source, why, line=line, hint="it is not TOML") from error
    return data, _number_toml(text)


_TOML_PART = r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'"""
_TOML_KEY = rf"(?:{_TOML_PART})(?:\s*\.\s*(?:{_TOML_PART}))*"
_TOML_TABLE = re.compile(rf"\s*\[\[?\s*({_TOML_KEY})\s*\]")
_TOML_PAIR = re.compile(rf"\s*({_TOML_KEY})\s*=")


def _number_toml(text: str) -> _Lines:
    """The lines of tables and keys. tomllib tells none; this scan serves messages only, the values are tomllib's."""
    lines: _Lines = {}
    table: _Place = ()
    for number, row in enumerate(text.splitlines(), 1):
        if header := _TOML_TABLE.match(row):
            table = _toml_key(header[1])
            place = table
        elif pair := _TOML_PAIR.match(row):
            place = (*table, *_toml_key(pair[1]))
        else:
            continue
        for depth in range(1, len(place) + 1):
            lines.setdefault(place[:depth], number)
    return lines


def _toml_key(text: str) -> _Place:
    return tuple(part.strip("\"'") for part in re.findall(_TOML_PART, text))
