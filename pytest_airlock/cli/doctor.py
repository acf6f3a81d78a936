"""`airlock doctor`: what works on this host, what does not, why, and what to do; one screen."""

from __future__ import annotations

import argparse
import json
import os
import platform
import textwrap
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pytest_airlock.cli.common import Verbs, managing_providers, say

if TYPE_CHECKING:
    from pytest_airlock.orchestrator.examining import Directory, Examination, Examined
    from pytest_airlock.providers.base import Features

__all__ = ["add_verbs"]

_WIDTH = 100
_SUBJECT = 18
_MARKS = {True: "yes", False: "NO ", None: " - "}


def add_verbs(verbs: Verbs) -> None:
    doctor = verbs.add_parser("doctor", help="what works on this host, what does not, why, and what to do")
    doctor.add_argument("--json", action="store_true", help="as JSON")
    doctor.add_argument(
        "--provider", metavar="NAME", help="the default to judge by (default: AIRLOCK_PROVIDER, or auto)"
    )
    doctor.set_defaults(verb=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    import platformdirs

    from pytest_airlock.orchestrator.examining import examine, measure
    from pytest_airlock.orchestrator.providers import AUTO
    from pytest_airlock.orchestrator.storage.state_files import default_state_dir

    asked = arguments.provider or os.environ.get("AIRLOCK_PROVIDER") or AUTO
    with managing_providers() as providers:
        found = examine(providers, asked)
    directories = {
        "state": measure(arguments.state_dir or default_state_dir()),
        "cache": measure(platformdirs.user_cache_path("pytest-airlock")),
    }
    if arguments.json:
        say(json.dumps(_as_json(found, directories), indent=2))
    else:
        for line in _screen(found, directories):
            say(line)
    return 0 if found.works else 1


# ---------------------------------------------------------------- for programs


def _as_json(found: Examination, directories: dict[str, Directory]) -> dict[str, Any]:
    """The keys are documented in docs/reference/cli.md, and stay."""
    from dataclasses import asdict

    return {
        "works": found.works,
        "default": found.default,
        "version": version("pytest-airlock"),
        "python": platform.python_version(),
        "system": {"name": platform.system(), "release": platform.release(), "machine": platform.machine()},
        "providers": {
            one.name: {
                "works": one.works,
                "seconds": one.seconds,
                "why": one.why,
                "fix": one.fix,
                "features": _features(one.features),
                "findings": [asdict(finding) for finding in one.findings],
            }
            for one in found.providers
        },
        "directories": {name: asdict(directory) for name, directory in directories.items()},
    }


def _features(features: Features | None) -> dict[str, dict[str, object]]:
    """Each word of the contract; none where nothing could be tried."""
    from pytest_airlock.providers.base import FEATURES, Absence

    if features is None:
        return {}
    absent = {word: features.absent.get(word, Absence("")) for word in FEATURES}
    return {word: {"present": word in features, "why": absent[word].why, "fix": absent[word].fix} for word in FEATURES}


# ---------------------------------------------------------------- for people


def _screen(found: Examination, directories: dict[str, Directory]) -> Iterator[str]:
    yield f"pytest-airlock {version('pytest-airlock')}, Python {platform.python_version()}, {platform.platform()}"
    if not found.providers:
        yield from _row(False, "providers", "none is installed")
    for one in found.providers:
        yield from _provider(one, default=one.name == found.default)
        if one.name != found.default:
            continue
        for finding in one.findings:
            yield from _row(finding.ok, finding.subject, finding.what, finding.why, finding.fix)
        if one.features is not None:
            yield from _feature_rows(one.features, {finding.why: finding.subject for finding in one.findings})
    for name, directory in directories.items():
        yield from _row(None, f"{name} directory", _measured(directory))


def _provider(one: Examined, *, default: bool) -> Iterator[str]:
    whose = ", the default," if default else ""
    if one.seconds is None:
        yield from _row(False, one.name, f"the provider{whose} does not work here", one.why, one.fix)
    else:
        took = f"a sandbox was made, ran a command and was destroyed in {one.seconds * 1000:.1f} ms"
        yield from _row(True, one.name, f"the provider{whose} works: {took}")


def _feature_rows(features: Features, told: dict[str, str]) -> Iterator[str]:
    """Present ones in one row; those that are missing for the same reason in one each. `told`: reasons seen above."""
    words = _features(features)
    yield from _row(True, "features", ", ".join(word for word in words if words[word]["present"]))
    reasons: dict[tuple[str, str], list[str]] = {}
    for word, feature in words.items():
        if not feature["present"]:
            reasons.setdefault((str(feature["why"]), str(feature["fix"])), []).append(word)
    for (why, fix), missing in reasons.items():
        if why and why in told:
            yield from _row(False, "", f"{', '.join(missing)}: see {told[why]}")
        else:
            yield from _row(False, "", ", ".join(missing), why, fix)


def _measured(directory: Directory) -> str:
    from pytest_airlock.orchestrator.policy.resources import format_size

    if not directory.entries:
        return f"{directory.path} (empty)"
    least = "" if directory.complete else "more than "
    return f"{directory.path} ({least}{format_size(directory.bytes)} in {directory.entries:,} entries)"


def _row(ok: bool | None, subject: str, what: str, why: str = "", fix: str = "") -> Iterator[str]:
    margin = " " * (len(_MARKS[ok]) + _SUBJECT + 2)
    yield from _wrapped(what, f"{_MARKS[ok]} {subject:<{_SUBJECT}} ", margin)
    for word, text in (("why", why), ("fix", fix)):
        if text:
            yield from _wrapped(text, f"{margin}{word}: ", f"{margin}     ")


def _wrapped(text: str, first: str, rest: str) -> Iterable[str]:
    """Commands in the text stay whole words, so that they can be copied."""
    return textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
