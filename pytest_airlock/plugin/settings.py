"""The words of the command line, the environment, the ini file and airlock.yaml/.toml, and which of them counts.

Read in every run, so only the standard library here; pydantic and yaml are imported if a configuration file exists.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from pytest_airlock.config import Config
    from pytest_airlock.errors import ConfigError

__all__ = ["SETTINGS", "Found", "Layer", "Setting", "Settings", "add_options", "read_settings"]


class Setting(NamedTuple):
    """One word: --airlock-WORD (if `option`), AIRLOCK_WORD, ini airlock_WORD, and a key of the configuration file."""

    word: str
    help: str
    default: str | None = None
    choices: tuple[str, ...] = ()
    option: bool = True

    @property
    def flag(self) -> str:
        return f"--airlock-{self.word.replace('_', '-')}"

    @property
    def ini(self) -> str:
        return f"airlock_{self.word}"

    @property
    def variable(self) -> str:
        return f"AIRLOCK_{self.word.upper()}"


SETTINGS = (
    Setting("profile", "security policy of sandboxes: strict, cautious (default), dev, trusted, or your own"),
    Setting("provider", "what makes sandboxes; auto (default) is the first that works here", "auto"),
    Setting("max_profile", "the least strict profile that any sandbox of this run may have"),
    Setting("state_dir", "directory of records and leases (default: the user's state directory)"),
    Setting(
        "keep",
        "what a factory made outlives the run if its profile may (trusted): always (all), if its test failed (failed), "
        "never (none); by default, if its spec says keep=True",
        choices=("failed", "all", "none"),
    ),
    Setting(
        "network_attempts",
        "if a test tried to use a network that is closed to it: nothing (ignore), a warning (warn), a failure (forbid)",
        None,
        ("ignore", "warn", "forbid"),
        False,
    ),
    Setting(
        "insufficient", "if the machine is too small: error, skip or clamp", "error", ("error", "skip", "clamp"), False
    ),
    Setting("unavailable", "if the provider cannot do what is asked: error or skip", "error", ("error", "skip"), False),
    Setting("wait", "seconds to wait for processors or memory that other runs hold", "300", (), False),
)

_BY_WORD = {setting.word: setting for setting in SETTINGS}


def add_options(parser: pytest.Parser) -> None:
    """Declare options and ini values, each with default None: what is not set must be told from what is."""
    group = parser.getgroup("airlock", "sandboxes (pytest-airlock)")
    for setting in SETTINGS:
        if setting.option:
            # Choices are checked with all other faults, by read_settings.
            metavar = "{" + ",".join(setting.choices) + "}" if setting.choices else setting.word.upper()
            group.addoption(setting.flag, dest=setting.ini, default=None, metavar=metavar, help=setting.help)
        parser.addini(setting.ini, setting.help, type="string", default=None)
    group.addoption(
        "--airlock-refresh",
        action="store_true",
        help="provision anew instead of using what earlier runs kept in the cache directory",
    )


class Layer(NamedTuple):
    """What one source sets. `origin` is its name in messages, `base` what its relative paths start from.

    `naming` is the attribute of Setting that says how a word is spelt there.
    """

    origin: str
    naming: str
    base: Path
    values: Mapping[str, object]


class Found(NamedTuple):
    """A value, and who set it under which name; both empty for a built-in value."""

    value: str | None
    origin: str = ""
    key: str = ""


class Settings:
    """The layers of a run below fixtures, closest first."""

    def __init__(self, layers: tuple[Layer, ...], file: Config | None = None) -> None:
        self.layers = layers
        self.file = file

    def get(self, word: str) -> str | None:
        """The first value that is set, else the built-in one."""
        return self.find(word).value

    def find(self, word: str) -> Found:
        """As get, with who set it."""
        setting = _BY_WORD[word]
        for layer in self.layers:
            if word in layer.values:
                return Found(str(layer.values[word]), layer.origin, getattr(setting, layer.naming))
        return Found(setting.default)

    @property
    def asked(self) -> bool:
        """Somebody gave words to this very run, on its command line."""
        return bool(self.layers[0].values)

    @property
    def wait(self) -> float:
        return float(self.get("wait") or 0)

    @property
    def state_dir(self) -> Path | None:
        """An absolute path; None = the default place."""
        for layer in self.layers:
            if "state_dir" in layer.values:
                return (layer.base / Path(str(layer.values["state_dir"])).expanduser()).absolute()
        return None

    def spec_layers(self) -> list[Mapping[str, object]]:
        """What the layers say about sandboxes, closest first."""
        layers: list[Mapping[str, object]] = [
            {word: layer.values[word] for word in ("profile", "provider", "network_attempts") if word in layer.values}
            for layer in self.layers
        ]
        if self.file is not None:
            layers[-1] = {**layers[-1], **self.file.spec}
        return layers

    def header(self) -> str:
        """The configured words, for the report header; nothing is looked up for it."""
        words = [f"profile {self.get('profile') or 'cautious'}", f"provider {self.get('provider')}"]
        words += [f"{word.replace('_', '-')} {value}" for word in ("max_profile", "keep") if (value := self.get(word))]
        return "airlock: " + ", ".join(words)


def read_settings(config: pytest.Config) -> Settings:
    """All layers, checked. Raises pytest.UsageError that names every fault."""
    cwd, inipath = Path.cwd(), config.inipath
    option = {s.word: v for s in SETTINGS if s.option and (v := config.getoption(s.ini)) is not None}
    ini = {s.word: v for s in SETTINGS if (v := config.getini(s.ini)) is not None}
    environ = {s.word: os.environ[s.variable] for s in SETTINGS if s.variable in os.environ}
    layers = [
        Layer("command line", "flag", config.invocation_params.dir, option),
        Layer("environment", "variable", cwd, environ),
        Layer(str(inipath or "ini"), "ini", inipath.parent if inipath else config.rootpath, ini),
    ]
    faults = [*_faults(layers), *_misspelt()]
    file = None
    # A stat of each name: a run without a file pays nothing else.
    if any((config.rootpath / name).exists() for name in _FILES):
        file, more = _read_file(config.rootpath)
        faults += more
    if faults:
        raise pytest.UsageError("\n".join(faults))
    if file is not None:
        layers.append(Layer(str(file.path), "word", config.rootpath, file.settings))
    return Settings(tuple(layers), file)


#: config.FILE_NAMES and the spellings it refuses, without importing it.
_FILES = ("airlock.yaml", "airlock.toml", "airlock.yml", ".airlock.yaml", ".airlock.toml")


def _read_file(directory: Path) -> tuple[Config | None, list[str]]:
    from pytest_airlock.config import find_config, load_config
    from pytest_airlock.errors import ConfigError

    try:
        path = find_config(directory)
        return (load_config(path) if path else None), []
    except ConfigError as error:
        return None, [str(error), *getattr(error, "__notes__", ())]


def _faults(layers: list[Layer]) -> Iterator[str]:
    for layer in layers:
        for word, value in layer.values.items():
            setting = _BY_WORD[word]
            if fault := _fault(setting, str(value), layer.origin, getattr(setting, layer.naming)):
                yield str(fault)


def _fault(setting: Setting, value: str, origin: str, key: str) -> ConfigError | None:
    why = hint = ""
    if not value.strip():
        why, hint = "it is set, but empty", "give it a value, or do not set it"
    elif setting.choices and value not in setting.choices:
        from pytest_airlock.config import nearest

        near = nearest(value, setting.choices)
        why = f"{value!r} is none of {', '.join(setting.choices)}"
        hint = f"did you mean {near!r}?" if near else ""
    elif setting.word == "wait" and not _is_seconds(value):
        why, hint = f"{value!r} is not a number of seconds", "give it a number above 0, such as 60"
    if not why:
        return None
    from pytest_airlock.errors import ConfigError

    return ConfigError(origin, why, key=key, hint=hint)


def _is_seconds(value: str) -> bool:
    try:
        return 0 < float(value) < math.inf
    except ValueError:
        return False


def _misspelt() -> Iterator[str]:
    """Variables that look like ours. Others may begin with AIRLOCK_ too, so only a near miss is a fault."""
    known = {setting.variable for setting in SETTINGS}
    strange = [name for name in os.environ if name.startswith("AIRLOCK_") and name not in known]
    if not strange:
        return
    from difflib import get_close_matches

    for name in strange:
        if near := get_close_matches(name, known, n=1, cutoff=0.85):
            yield f"environment: {name}: there is no such setting\n  hint: did you mean {near[0]}?"
