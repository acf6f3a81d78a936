"""airlock.yaml and airlock.toml: what is read, and what is said about each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_airlock.config import find_config, load_config, nearest
from pytest_airlock.errors import ConfigError
from pytest_airlock.orchestrator.policy.profiles import ProfileRegistry

YAML = """\
profile: strict
wait: 5
spec:
  memory: 512M
  env: {A: "1"}
  mounts:
    - /srv/data
profiles:
  builder:
    extends: strict
    project: cow
"""

TOML = """\
profile = "strict"
wait = 5

[spec]
memory = "512M"
env = { A = "1" }
mounts = ["/srv/data"]

[profiles.builder]
extends = "strict"
project = "cow"
"""


def write(directory: Path, text: str, name: str = "airlock.yaml") -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def fault(directory: Path, text: str, name: str = "airlock.yaml") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(write(directory, text, name))
    return caught.value


@pytest.mark.parametrize(("name", "text"), [("airlock.yaml", YAML), ("airlock.toml", TOML)])
def test_both_formats_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    config = load_config(write(tmp_path, text, name))
    assert config.settings == {"profile": "strict", "wait": 5}
    assert config.spec == {"memory": "512M", "env": {"A": "1"}, "mounts": ["/srv/data"]}
    assert config.profiles["builder"].extends == "strict"
    assert config.profiles["builder"].changes() == {"project": "cow"}


@pytest.mark.parametrize("text", ["", "# nothing\n", "spec:\nprofiles:\n"])
def test_an_empty_file_sets_nothing(tmp_path: Path, text: str) -> None:
    config = load_config(write(tmp_path, text))
    assert (dict(config.settings), dict(config.spec), dict(config.profiles)) == ({}, {}, {})


def test_a_section_keeps_only_what_was_set(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "profiles: {p: {extends: dev, cpu: 2}}"))
    assert config.profiles["p"].changes() == {"cpu": 2}


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ("profile: strict\nprofil: dev\n", 2, "profil", ["no such key", "'profile'"]),
        ("spec:\n  cpu: 2\n  memroy: 4G\n", 3, "spec.memroy", ["no such key", "'memory'"]),
        ("spec:\n  memory: 4 Gigs\n", 2, "spec.memory", ["'512M'", "'4 Gigs'"]),
        ("spec:\n  cpu: 0\n", 2, "spec.cpu", ["greater than or equal to 1", "not 0"]),
        ("spec:\n  cpu: -1\n", 2, "spec.cpu", ["greater than or equal to 1"]),
        ("spec:\n  cpu: 1.5\n", 2, "spec.cpu", ["whole number"]),
        ('spec:\n  cpu: "4"\n', 2, "spec.cpu", ["whole number"]),
        ("spec:\n  env:\n    A: one\n    B: 1\n", 4, "spec.env.B", ['"1"']),
        ("spec:\n  mounts:\n    - /srv\n    - {sorce: /opt}\n", 4, "spec.mounts.1.sorce", ["'source'"]),
        ("spec:\n  network:\n  - a:1\n  - b\n", 4, "spec.network.1", ["'b' has no port"]),
        ("spec:\n  network:\n    mode: open\n    allow:\n    - a:0\n", 5, "spec.network.allow.0", ["'0' is no port"]),
        ("spec:\n  network: [localhost:80]\n", 2, "spec.network.0", ["is the sandbox itself"]),
        ("spec:\n  name: db\n", 2, "spec.name", ["airlock_factory"]),
        ("spec:\n  profile: dev\n", 2, "spec.profile", ["top level"]),
        ("keep: fialed\n", 1, "keep", ["'failed'", "not 'fialed'"]),
        ("wait: 0\n", 1, "wait", ["more than 0"]),
        ("profiles:\n  mine:\n    project: cow\n", 2, "profiles.mine.extends", ["missing"]),
        ("profiles:\n  mine:\n    extends: dev\n    netwrok: open\n", 4, "profiles.mine.netwrok", ["'network'"]),
        ("profiles:\n  mine: {extends: dev, project: rwx}\n", 2, "profiles.mine.project", ["'rw'", "not 'rwx'"]),
        ("profile: strict\nkeep: all\nprofile: dev\n", 3, "profile", ["line 1"]),
        ("profile: [\n", 2, "", ["not YAML"]),
        ("- a\n", 1, "", ["list"]),
        ("1: a\n", 1, "1", ["quotes"]),
    ],
)
def test_a_fault_names_file_line_and_key(tmp_path: Path, text: str, line: int, key: str, words: list[str]) -> None:
    error = fault(tmp_path, text)
    assert error.source == str(tmp_path / "airlock.yaml")
    assert (error.line, error.key) == (line, key)
    assert f"airlock.yaml:{line}" in str(error)
    for word in words:
        assert word in str(error)


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ('profile = "dev"\nprofil = "dev"\n', 2, "profil", ["'profile'"]),
        ('\n[spec]\nmemroy = "4G"\n', 3, "spec.memroy", ["'memory'"]),
        ('spec.cpu = "4"\n', 1, "spec.cpu", ["whole number"]),
        ('[profiles."my own"]\nextends = "dev"\nproject = "x"\n', 3, "profiles.my own.project", ["'cow'"]),
        ("profile = \n", 1, "", ["not TOML"]),
        ("keep = 'all'\nkeep = 'none'\n", 2, "", ["Cannot overwrite a value"]),
    ],
)
def test_toml_faults_have_a_line_too(tmp_path: Path, text: str, line: int, key: str, words: list[str]) -> None:
    error = fault(tmp_path, text, "airlock.toml")
    assert (error.line, error.key) == (line, key)
    for word in words:
        assert word in str(error)


def test_every_fault_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    error = fault(tmp_path, "spec:\n  cpu: 0\n  memory: x\nkep: all\n")
    assert error.line == 2
    notes: list[str] = vars(error)["__notes__"]
    assert [note.split(": ")[0].rpartition(":")[2] for note in notes] == ["3", "4"]


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "airlock.yaml"
    path.write_bytes(b"profile: \xff\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(path)


def test_a_yaml_tag_runs_no_code(tmp_path: Path) -> None:
    error = fault(tmp_path, "spec:\n  image: !!python/object/apply:os.getcwd []\n")
    assert error.line == 2


def test_an_alias_of_what_holds_it_ends(tmp_path: Path) -> None:
    error = fault(tmp_path, "spec: &spec\n  env: *spec\n")
    assert error.key.startswith("spec.env")


def test_two_files_are_a_fault(tmp_path: Path) -> None:
    write(tmp_path, "")
    write(tmp_path, "", "airlock.toml")
    with pytest.raises(ConfigError, match=r"airlock\.toml stands beside it"):
        find_config(tmp_path)


@pytest.mark.parametrize("name", ["airlock.yml", ".airlock.toml"])
def test_a_name_that_would_not_be_read_is_a_fault(tmp_path: Path, name: str) -> None:
    write(tmp_path, "", name)
    with pytest.raises(ConfigError, match="rename it to airlock"):
        find_config(tmp_path)


def test_no_file_is_no_fault(tmp_path: Path) -> None:
    assert find_config(tmp_path) is None


@pytest.mark.parametrize(
    ("word", "right"),
    [("memroy", "memory"), ("Memory", "memory"), ("max-profile", "max_profile"), ("zzz", None), (3, None)],
)
def test_nearest(word: object, right: str | None) -> None:
    assert nearest(word, ["memory", "max_profile", "cpu"]) == right


def test_profiles_are_registered_after_what_they_extend(tmp_path: Path) -> None:
    text = "profiles:\n  b: {extends: a, user: airlock}\n  a: {extends: strict, project: cow}\n"
    registry = ProfileRegistry()
    load_config(write(tmp_path, text)).add_profiles(registry)
    assert (registry.get("b").project, registry.get("b").user) == ("cow", "airlock")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("profiles:\n  a: {extends: b}\n  b: {extends: a}\n", 2, ["extends itself"]),
        ("profiles:\n\n  a: {extends: strickt}\n", 3, ["no such profile", "'strict'"]),
        ("profiles:\n  dev: {extends: strict}\n", 2, ["built-in"]),
        ("profiles:\n  a: {extends: strict, network: open}\n", 2, ["network_allowed"]),
    ],
)
def test_a_profile_that_cannot_be_registered(tmp_path: Path, text: str, line: int, words: list[str]) -> None:
    config = load_config(write(tmp_path, text))
    with pytest.raises(ConfigError) as caught:
        config.add_profiles(ProfileRegistry())
    assert caught.value.line == line
    for word in words:
        assert word in str(caught.value)
