"""Layers of settings to one spec, and every fault of a layer in words.

A layer is a mapping of what was *given*, so that "not given" and "given as the default" differ; None given means
"back to the default" and hides what layers further out say.
"""

from __future__ import annotations

import difflib
import os
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from pytest_airlock.errors import InvalidSpec, UnknownName
from pytest_airlock.models import Mount, Network, Profile, SandboxSpec
from pytest_airlock.orchestrator.contracts import Profiles
from pytest_airlock.orchestrator.policy.names import check_name
from pytest_airlock.orchestrator.policy.provision import resolve_commands

__all__ = ["DEFAULT_PROFILE", "explain", "faults", "merge_layers", "nearest_word", "validate_spec"]

#: The profile of a spec for which nobody chose one.
DEFAULT_PROFILE = "cautious"

_T = TypeVar("_T")
_UNITED = ("ports", "expose")
#: Where a union of types makes pydantic's own text a riddle.
_SHAPES = {
    "source": "it is a path, or False for none",
    "provision": "each command is a text or a list of texts",
    "env": "it maps names to texts",
}
#: What stands for a model of its own is a text or a mapping; which texts, pydantic cannot say.
_MODELS = {
    "mounts": "a mount is 'source', 'source:target' or 'source:target:mode', or a mapping of these words",
    "network": "it is 'locked', 'open', 'host', or a list of 'host:port' texts",
}
#: Where pydantic's words are those of Python's types, not of a marker or a YAML file.
_TYPES = {
    "tuple_type": "it is a list",
    "model_type": "it is a mapping",
    "bool_type": "it is true or false",
    "string_type": "it is a text",
}


def merge_layers(
    layers: Sequence[Mapping[str, object]],
    *,
    profiles: Profiles | None = None,
    default_profile: str = DEFAULT_PROFILE,
) -> dict[str, object]:
    """One layer out of many, closest first; pass all at once, because a None hides only what is in the same call.

    Scalars and `network`: the closest given. `env` by key, `mounts` by target, `ports` and `expose` unite, `provision`
    concatenates, outermost first. With `profiles`, the layer that chooses the profile also hides what layers further
    out say about things the profile has defaults for. Values are not validated (validate_spec does); UnknownName if
    the chosen profile is none of `profiles`.
    """
    if profiles is not None:
        layers = _below_profile(layers, profiles, default_profile)
    keys = dict.fromkeys(key for layer in layers for key in layer)
    return {key: _merged(key, [layer[key] for layer in layers if key in layer]) for key in keys}


def validate_spec(
    values: Mapping[str, object], *, where: str, known: Mapping[str, Collection[str]] | None = None
) -> SandboxSpec:
    """The spec of a layer. Raises its first fault (UnknownName, InvalidSpec and its kinds), the others as notes.

    `where` starts the text: "marker of test_x.py::test_y", say. `known` has the words that exist beyond the spec's
    own: {"profile": …, "provider": …, "runtime": …}.
    """
    spec, errors = _validated(values, known or {})
    if spec is None or errors:
        first, *others = errors
        first.what = f"{where}: {first.what}"
        for other in others:
            first.add_note(_line(other))
        raise first
    return spec


def faults(
    values: Mapping[str, object], *, where: str, known: Mapping[str, Collection[str]] | None = None
) -> list[str]:
    """Every fault of a layer as a text of one line, none if it is good; arguments as of validate_spec."""
    return [f"{where}: {_line(error)}" for error in _validated(values, known or {})[1]]


def explain(error: ValidationError, model: type[BaseModel]) -> list[InvalidSpec]:
    """What pydantic found, one InvalidSpec (or UnknownName) for each value that is wrong."""
    found: dict[tuple[object, ...], InvalidSpec] = {}
    for detail in error.errors(include_url=False):
        location = detail["loc"]
        if not location:
            field = "settings"
        elif location[0] in _SHAPES:
            # Each member of a union reports a fault of its own at a longer location: one is enough.
            location = location[:2] if location[0] == "env" or isinstance((*location, "")[1], int) else location[:1]
            field = _place(location)
        else:
            field = _place(location)
        found.setdefault(location, _fault(field, location, cast("dict[str, Any]", detail), model))
    return list(found.values())


def nearest_word(word: object, known: Iterable[str]) -> str | None:
    """The known word that `word` was probably meant to be."""
    close = difflib.get_close_matches(str(word).lower(), list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def _below_profile(
    layers: Sequence[Mapping[str, object]], profiles: Profiles, default: str
) -> Sequence[Mapping[str, object]]:
    chosen = next((index for index, layer in enumerate(layers) if "profile" in layer), None)
    if chosen is None:
        return layers
    name = layers[chosen]["profile"]
    if name is not None and not isinstance(name, str):
        return layers  # a fault that validate_spec reports
    hidden = _governed(profiles.get(default if name is None else name))
    outer = [{key: value for key, value in layer.items() if key not in hidden} for layer in layers[chosen + 1 :]]
    return [*layers[: chosen + 1], *outer]


def _governed(profile: Profile) -> set[str]:
    """The settings for which the profile has a default, or which it forbids."""
    keys = {"network", "user"}
    keys.update(key for key in ("cpu", "memory", "disk") if getattr(profile, key) is not None)
    if not profile.mounts:
        keys.add("mounts")
    if profile.project == "absent":
        keys.update(("source", "expose"))
    if not profile.outlive:
        keys.add("keep")
    return keys


def _merged(key: str, values: Sequence[object]) -> object:
    """`values` closest first, at least one."""
    given = []
    for value in values:
        if value is None:
            break
        given.append(value)
    if not given:
        return None
    outermost_first = given[::-1]
    if key == "env" and all(isinstance(value, Mapping) for value in given):
        return {name: text for value in outermost_first for name, text in cast("Mapping[str, object]", value).items()}
    if not all(isinstance(value, (list, tuple)) for value in given):
        return given[0]
    if key not in ("mounts", "provision", *_UNITED):
        return given[0]
    items = [item for value in outermost_first for item in cast("Sequence[object]", value)]
    if key == "mounts":
        return list({_target(item, index): item for index, item in enumerate(items)}.values())
    if key in _UNITED:
        return [item for index, item in enumerate(items) if item not in items[:index]]
    return items


def _target(item: object, index: int) -> object:
    try:
        mount = SandboxSpec.model_validate({"mounts": [_plain(item)]}).mounts[0]
    except ValidationError:
        return index  # kept, so that validate_spec reports it
    return posixpath.normpath(mount.target or os.path.expanduser(mount.source))


def _validated(
    values: Mapping[str, object], known: Mapping[str, Collection[str]]
) -> tuple[SandboxSpec | None, list[InvalidSpec]]:
    fields = SandboxSpec.model_fields
    errors: list[InvalidSpec] = [
        UnknownName("setting", key, fields, nearest=nearest_word(key, fields)) for key in values if key not in fields
    ]
    given = {key: _plain(value) for key, value in values.items() if key in fields and value is not None}
    if isinstance(given.get("env"), dict):
        given["env"] = {
            name: text for name, text in cast("dict[str, object]", given["env"]).items() if text is not None
        }
    try:
        spec = SandboxSpec.model_validate(given)
    except ValidationError as error:
        return None, errors + explain(error, SandboxSpec)
    for kind, words in known.items():
        word = getattr(spec, kind)
        if word is not None and word not in words:
            errors.append(UnknownName(kind, word, words, nearest=nearest_word(word, words)))
    errors += _fault_of(resolve_commands, spec.provision)
    if spec.name is not None:
        errors += _fault_of(check_name, spec.name)
    return spec, errors


def _fault_of(check: Callable[[_T], object], value: _T) -> list[InvalidSpec]:
    try:
        check(value)
    except InvalidSpec as error:
        return [error]
    return []


def _plain(value: object) -> object:
    """Paths as texts: users hold pathlib's, the models speak str."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _place(location: Sequence[object]) -> str:
    """('mounts', 0, 'mode') → 'mounts[0].mode'."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.lstrip(".")


def _fault(field: str, location: Sequence[object], detail: dict[str, Any], model: type[BaseModel]) -> InvalidSpec:
    value = detail["input"]
    if detail["type"] == "extra_forbidden":
        parts: dict[str, type[BaseModel]] = {"mounts": Mount, "network": Network}
        owner = parts.get(str(location[0]), model) if len(location) > 1 else model
        return UnknownName("setting", field, owner.model_fields, nearest=nearest_word(location[-1], owner.model_fields))
    if detail["type"] == "value_error":
        # Values of an environment may be secrets, and errors end up in reports.
        shown = sorted(map(str, value)) if field == "env" and isinstance(value, dict) else value
        return InvalidSpec(field, shown, str(detail["ctx"]["error"]))
    if detail["type"] == "literal_error":
        words = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        nearest = nearest_word(value, words)
        hint = f"did you mean {nearest!r}?" if nearest else ""
        return InvalidSpec(field, value, f"it is one of {', '.join(map(repr, words))}", hint=hint)
    shapes = _MODELS if detail["type"] == "model_type" else _SHAPES
    shape = shapes.get(str(location[0])) if location else None
    shape = shape or _TYPES.get(detail["type"])
    message = str(detail["msg"])
    return InvalidSpec(field, value, shape or message[:1].lower() + message[1:])


def _line(error: InvalidSpec) -> str:
    text = f"{error.what}: {error.why}"
    return " ".join((f"{text} ({error.hint})" if error.hint else text).split())
