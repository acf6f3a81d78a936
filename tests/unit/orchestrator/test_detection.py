"""What a project is made with, by the files it has."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pytest_airlock.errors import InvalidSpec, UnknownName
from pytest_airlock.models import RuntimeGuess
from pytest_airlock.orchestrator.contracts import Detector
from pytest_airlock.orchestrator.policy.detection import (
    MAX_BYTES,
    MAX_ENTRIES,
    UNKNOWN,
    RuntimeDetector,
    SmallDetector,
    Tree,
)

PIP = ("python", "-m", "pip", "install")


def project(root: Path, *names: str, **contents: str) -> Path:
    for name, content in [*((name, "") for name in names), *contents.items()]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def detect(root, runtime=None):
    return RuntimeDetector().detect(root, runtime)


CASES = {
    "node, no lock": ({"package.json": "{}"}, "node", ("npm", "install"), ()),
    "node, npm": (
        {"package.json": '{"scripts": {"start": "x"}}', "package-lock.json": ""},
        "node",
        ("npm", "ci"),
        ("npm", "start"),
    ),
    "node, pnpm": (
        {"package.json": '{"main": "app.js"}', "pnpm-lock.yaml": ""},
        "node",
        ("pnpm", "install", "--frozen-lockfile"),
        ("node", "app.js"),
    ),
    "node, yarn 1": (
        {"package.json": "{}", "yarn.lock": "", "index.js": ""},
        "node",
        ("yarn", "install", "--frozen-lockfile"),
        ("node", "index.js"),
    ),
    "node, yarn 4": (
        {"package.json": "{}", "yarn.lock": "", ".yarnrc.yml": ""},
        "node",
        ("yarn", "install", "--immutable"),
        (),
    ),
    "node, bun": (
        {"package.json": '{"scripts": {"start": "x"}}', "bun.lock": ""},
        "node",
        ("bun", "install", "--frozen-lockfile"),
        ("bun", "run", "start"),
    ),
    "node, main an option": ({"package.json": '{"main": "--eval=x"}'}, "node", ("npm", "install"), ()),
    "node, broken": ({"package.json": "{"}, "node", ("npm", "install"), ()),
    "node, no object": ({"package.json": "[1]"}, "node", ("npm", "install"), ()),
    "go": ({"go.mod": "module x", "main.go": ""}, "go", ("go", "mod", "download"), ("go", "run", ".")),
    "go, one command": (
        {"go.mod": "module x", "cmd/tool/main.go": ""},
        "go",
        ("go", "mod", "download"),
        ("go", "run", "./cmd/tool"),
    ),
    "rust": ({"Cargo.toml": ""}, "rust", ("cargo", "fetch"), ("cargo", "run")),
    "rust, locked": (
        {"Cargo.toml": "", "Cargo.lock": ""},
        "rust",
        ("cargo", "fetch", "--locked"),
        ("cargo", "run", "--locked"),
    ),
    "python, project": (
        {"pyproject.toml": '[project]\nname="x"\nscripts={tool="x:main"}'},
        "python",
        (*PIP, "."),
        ("tool",),
    ),
    "python, setup.py": ({"setup.py": "", "main.py": ""}, "python", (*PIP, "."), ("python", "main.py")),
    "python, requirements": (
        {"requirements.txt": "", "app.py": ""},
        "python",
        (*PIP, "-r", "requirements.txt"),
        ("python", "app.py"),
    ),
    "python, both": ({"requirements.txt": "", "setup.py": ""}, "python", (*PIP, "-r", "requirements.txt", "."), ()),
    "python, uv": ({"pyproject.toml": "[project]", "uv.lock": ""}, "python", ("uv", "sync", "--frozen"), ()),
    "python, poetry": ({"pyproject.toml": "[build-system]", "poetry.lock": ""}, "python", ("poetry", "install"), ()),
    "python, pipenv": ({"Pipfile": ""}, "python", ("pipenv", "install"), ()),
    "python, django": (
        {"requirements.txt": "", "manage.py": ""},
        "python",
        (*PIP, "-r", "requirements.txt"),
        ("python", "manage.py", "runserver"),
    ),
    "python, directory program": ({"setup.py": "", "__main__.py": ""}, "python", (*PIP, "."), ("python", ".")),
    "python, broken": ({"pyproject.toml": "["}, "python", (), ()),
    "docker": (
        {"Dockerfile": ""},
        "docker",
        ("docker", "build", "--file", "Dockerfile", "--tag", "app", "."),
        ("docker", "run", "--rm", "app"),
    ),
    "podman": (
        {"Containerfile": ""},
        "docker",
        ("docker", "build", "--file", "Containerfile", "--tag", "app", "."),
        ("docker", "run", "--rm", "app"),
    ),
    "compose": (
        {"compose.yaml": "", "Dockerfile": ""},
        "compose",
        ("docker", "compose", "build"),
        ("docker", "compose", "up"),
    ),
    "make": ({"Makefile": "all:\n\techo"}, "make", ("make",), ()),
    "make, targets": ({"Makefile": "run := 1\ndeps: x\nrun: y\n"}, "make", ("make", "deps"), ("make", "run")),
    "make, a variable is no target": ({"Makefile": "run := 1\n"}, "make", ("make",), ()),
    "dotnet": ({"App.csproj": ""}, "dotnet", ("dotnet", "restore"), ("dotnet", "run")),
    "dotnet, solution": ({"App.sln": "", "global.json": "{}"}, "dotnet", ("dotnet", "restore"), ("dotnet", "run")),
    "unknown": ({"README": "", "global.json": "{}"}, "unknown", (), ()),
}


@pytest.mark.parametrize("case", CASES)
def test_r13_a_runtime_is_told_by_its_files(tmp_path, case):
    files, runtime, install, run = CASES[case]
    guess = detect(project(tmp_path, **files))
    assert (guess.runtime, guess.install, guess.run) == (runtime, install, run)
    assert set(guess.evidence) <= set(files)
    assert bool(guess.evidence) == (runtime != "unknown")
    assert (0 < guess.confidence <= 1) == (runtime != "unknown")


@pytest.mark.parametrize(
    ("names", "runtime"),
    [
        (["package.json", "Dockerfile", "Makefile"], "node"),
        (["setup.py", "Makefile", "compose.yml"], "python"),
        (["go.mod", "package.json"], "go"),
        (["Cargo.toml", "setup.py"], "rust"),
        (["Dockerfile", "Makefile"], "docker"),
        (["pyproject.toml", "Makefile"], "make"),  # a pyproject.toml of tools alone makes no Python project
        (["pyproject.toml", "package.json"], "node"),
    ],
)
def test_r13_the_most_confident_guess_wins(tmp_path, names, runtime):
    assert detect(project(tmp_path, *names)).runtime == runtime


def test_r13_an_explicit_runtime_wins_over_the_files(tmp_path):
    root = project(tmp_path, "go.mod", "requirements.txt")
    guess = detect(root, "python")
    assert (guess.runtime, guess.confidence) == ("python", 1)
    assert guess.install == (*PIP, "-r", "requirements.txt")


@pytest.mark.parametrize("runtime", RuntimeDetector().names())
def test_r13_an_explicit_runtime_needs_no_evidence(tmp_path, runtime):
    guess = detect(tmp_path, runtime)
    assert (guess.runtime, guess.confidence, guess.evidence) == (runtime, 1, ())
    assert guess.install


def test_r13_the_known_runtimes():
    assert sorted(RuntimeDetector().names()) == ["compose", "docker", "dotnet", "go", "make", "node", "python", "rust"]
    assert isinstance(RuntimeDetector(), Detector)


def test_r13_auto_is_what_is_found(tmp_path):
    assert detect(project(tmp_path, "go.mod"), "auto") == detect(tmp_path)


def test_r13_an_unknown_runtime_is_an_error_with_the_nearest(tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'python'"):
        detect(tmp_path, "pyton")


def test_r13_detectors_can_be_registered_and_replaced(tmp_path):
    zig = RuntimeGuess(runtime="zig", confidence=0.99, install=("zig", "build"), evidence=("build.zig",))
    detector = RuntimeDetector()
    root = project(tmp_path, "build.zig", "go.mod")
    assert detector.detect(root).runtime == "go"
    detector.register(SmallDetector("zig", lambda tree: zig if tree.has("build.zig") else None))
    assert detector.detect(root) == zig
    assert detector.detect(tmp_path, "zig").confidence == 1
    detector.register(SmallDetector("zig", lambda tree: None))
    assert detector.detect(root).runtime == "go"
    assert detector.detect(tmp_path, "zig") == RuntimeGuess(runtime="zig", confidence=1)
    assert "zig" not in RuntimeDetector().names()


@pytest.mark.parametrize("name", ["", "auto", "unknown"])
def test_a_detector_has_a_name_of_its_own(name):
    with pytest.raises(InvalidSpec):
        RuntimeDetector().register(SmallDetector(name, lambda tree: None))


def test_a_missing_source_is_unknown(tmp_path):
    assert detect(tmp_path / "none") == UNKNOWN


def test_links_out_of_the_source_are_no_evidence(tmp_path):
    outside = project(tmp_path / "outside", **{"package.json": '{"main": "leak.js"}'})
    source = tmp_path / "source"
    source.mkdir()
    (source / "package.json").symlink_to(outside / "package.json")
    (source / "cmd").symlink_to(outside)
    assert detect(source) == UNKNOWN
    assert Tree(source).directories() == ()


def test_special_files_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "package.json")  # opening it to read would wait for ever
    (tmp_path / "Makefile").mkdir()
    assert detect(tmp_path) == UNKNOWN


def test_a_file_that_becomes_a_link_or_a_pipe_after_listing_is_not_read(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    source = project(tmp_path / "source", "one", "two", "three")
    tree = Tree(source)
    for name in ("one", "two", "three"):
        (source / name).unlink()
    (source / "one").symlink_to(secret)
    os.mkfifo(source / "two")
    assert (tree.text("one"), tree.text("two"), tree.text("three")) == ("", "", "")


def test_reading_is_bounded(tmp_path):
    with open(tmp_path / "Makefile", "wb") as file:
        file.truncate(10**10)  # sparse
    assert len(Tree(tmp_path).text("Makefile")) == MAX_BYTES
    assert detect(tmp_path).runtime == "make"


def test_listing_is_bounded(tmp_path):
    for number in range(MAX_ENTRIES + 10):
        (tmp_path / str(number)).touch()
    assert len(Tree(tmp_path).files()) == MAX_ENTRIES


def test_bytes_that_are_no_text_and_deep_nesting_are_no_error(tmp_path):
    (tmp_path / "package.json").write_text("[" * 100_000)
    (tmp_path / "pyproject.toml").write_bytes(b"\xff\xfe\0")
    assert detect(tmp_path).runtime == "node"


def test_nothing_is_read_twice_while_it_stays_the_same(tmp_path, monkeypatch):
    project(tmp_path, **{"package.json": json.dumps({"main": "a.js"})})
    detector = RuntimeDetector()
    first = detector.detect(tmp_path)
    monkeypatch.setattr(os, "open", None)
    assert detector.detect(tmp_path) is first


@pytest.mark.parametrize(
    ("name", "content"), [("package.json", '{"main": "other.js"}'), ("package-lock.json", ""), ("go.mod", "")]
)
def test_a_change_is_noticed(tmp_path, name, content):
    project(tmp_path, **{"package.json": '{"main": "a.js"}'})
    detector = RuntimeDetector()
    first = detector.detect(tmp_path)
    project(tmp_path, **{name: content})
    # File systems keep times in ticks: make sure that this change lies in another one.
    os.utime(tmp_path, ns=(1, 1))
    assert detector.detect(tmp_path) != first
