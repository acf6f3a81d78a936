"""The table of settings agrees with what is written about it elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from pytest_airlock import config
from pytest_airlock.orchestrator.contracts import Insufficient
from pytest_airlock.plugin.settings import SETTINGS, Layer, Settings

BY_WORD = {setting.word: setting for setting in SETTINGS}


def layers(**values: dict[str, object]) -> Settings:
    here = Path("/here")
    return Settings(tuple(Layer(origin, "word", here / origin, given) for origin, given in values.items()))


def test_the_configuration_file_has_the_same_words(tmp_path: Path) -> None:
    for setting in SETTINGS:
        value = setting.choices[0] if setting.choices else "5"
        path = tmp_path / "airlock.yaml"
        path.write_text(f"{setting.word}: {value if setting.word == 'wait' else repr(value)}\n")
        assert str(config.load_config(path).settings[setting.word]).startswith(value)


@pytest.mark.parametrize("word", ["keep", "insufficient", "unavailable"])
def test_the_configuration_file_has_the_same_choices(tmp_path: Path, word: str) -> None:
    path = tmp_path / "airlock.yaml"
    for choice in BY_WORD[word].choices:
        path.write_text(f"{word}: {choice}\n")
        assert config.load_config(path).settings == {word: choice}


def test_choices_are_those_of_the_orchestrator() -> None:
    assert BY_WORD["insufficient"].choices == get_args(Insufficient)


def test_spelling() -> None:
    setting = BY_WORD["max_profile"]
    assert (setting.flag, setting.ini, setting.variable) == (
        "--airlock-max-profile",
        "airlock_max_profile",
        "AIRLOCK_MAX_PROFILE",
    )


def test_the_first_layer_that_sets_a_word_counts() -> None:
    settings = layers(a={}, b={"wait": 0.5, "profile": "dev"}, c={"wait": 7, "provider": "x"})
    assert settings.wait == 0.5
    assert settings.find("wait").origin == "b"
    assert settings.get("provider") == "x"
    assert settings.get("insufficient") == "error"
    assert settings.find("insufficient").origin == ""
    assert settings.get("max_profile") is None


def test_a_relative_state_directory_starts_where_it_was_said() -> None:
    assert layers(a={}, b={"state_dir": "state"}).state_dir == Path("/here/b/state")
    assert layers(a={"state_dir": "/abs"}).state_dir == Path("/abs")
    assert layers(a={}).state_dir is None


def test_only_words_of_a_sandbox_become_layers_of_its_spec() -> None:
    settings = layers(a={"profile": "dev", "wait": 3}, b={}, c={"provider": "x", "keep": "all"})
    assert settings.spec_layers() == [{"profile": "dev"}, {}, {"provider": "x"}]
