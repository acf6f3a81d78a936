"""What a project is made with, guessed from the files it has (r13). Informs; nothing is run or installed here.

The source is untrusted: names are listed to a bound, files are read to a bound, links and special files are never
followed or opened.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pytest_airlock.errors import InvalidSpec, UnknownName
from pytest_airlock.models import RuntimeGuess
from pytest_airlock.orchestrator.policy.merge import nearest_word

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

__all__ = ["MAX_BYTES", "MAX_ENTRIES", "UNKNOWN", "RuntimeDetector", "SmallDetector", "Tree"]

#: Bounds of what is read of a source, in bytes of a file and entries of a directory.
MAX_BYTES = 256 * 1024
MAX_ENTRIES = 2_000

UNKNOWN = RuntimeGuess(runtime="unknown", confidence=0)

_PIP = ("python", "-m", "pip", "install")


_Stamp = tuple[int, int, int]


class Tree:
    """The top of a source directory, read safely. It remembers what it looked at, so that a guess can be kept."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)
        self._looked_at: dict[str, _Stamp | None] = {}
        self._files, self._directories = self._list("")

    def files(self) -> Sequence[str]:
        """Names of the regular files at the top, sorted; links are none."""
        return self._files

    def has(self, *names: str) -> tuple[str, ...]:
        """Those of `names` that are regular files at the top."""
        return tuple(name for name in names if name in self._files)

    def directories(self, below: str = "") -> Sequence[str]:
        """Names of the directories at the top, or in one of them, sorted; links are none."""
        if not below:
            return self._directories
        return self._list(below)[1] if below in self._directories else ()

    def text(self, name: str) -> str:
        """The first MAX_BYTES of a file at the top, "" if it is not there or not a regular file."""
        if name not in self._files:
            return ""
        self._looked_at.setdefault(name, self._stamp(name))
        # O_NOFOLLOW and O_NONBLOCK: between listing and opening it may have become a link or a FIFO.
        try:
            file = os.open(os.path.join(self.root, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return ""  # gone, unreadable or replaced: no evidence
        with open(file, "rb") as stream:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                return ""
            return stream.read(MAX_BYTES).decode("utf-8", "replace")

    def unchanged(self) -> bool:
        """Is all that was listed and read still the same, by inode, size and time of change?"""
        return all(self._stamp(name) == stamp for name, stamp in self._looked_at.items())

    def _stamp(self, name: str) -> _Stamp | None:
        try:
            found = os.lstat(os.path.join(self.root, name))
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _list(self, below: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        self._looked_at.setdefault(below, self._stamp(below))
        files, directories = [], []
        try:
            with os.scandir(os.path.join(self.root, below)) as entries:
                for entry in islice(entries, MAX_ENTRIES):
                    if entry.is_file(follow_symlinks=False):
                        files.append(entry.name)
                    elif entry.is_dir(follow_symlinks=False):
                        directories.append(entry.name)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return (), ()
        return tuple(sorted(files)), tuple(sorted(directories))


class SmallDetector(NamedTuple):
    """One runtime. `guess` looks at a tree and answers None where the tree is not its own.

    `fallback` is the guess for a spec that names the runtime though no file speaks for it.
    """

    runtime: str
    guess: Callable[[Tree], RuntimeGuess | None]
    fallback: RuntimeGuess | None = None


class RuntimeDetector:
    """All small detectors (contracts.Detector): the most confident guess wins, the earlier registered at a tie."""

    def __init__(self) -> None:
        self._detectors: dict[str, SmallDetector] = {detector.runtime: detector for detector in _BUILT_IN}
        self._kept: dict[tuple[str, str | None], tuple[Tree, RuntimeGuess]] = {}
        self._lock = threading.Lock()

    def register(self, detector: SmallDetector) -> None:
        """Add a detector; of the name of a known one it replaces that."""
        if not detector.runtime or detector.runtime in ("auto", "unknown"):
            raise InvalidSpec("runtime", detector.runtime, "a detector's name is a word of its own")
        with self._lock:
            self._detectors[detector.runtime] = detector
            self._kept.clear()

    def names(self) -> Sequence[str]:
        """The runtimes that can be named in a spec."""
        with self._lock:
            return tuple(self._detectors)

    def detect(self, source: Path, runtime: str | None = None) -> RuntimeGuess:
        """The best guess for `source`, `unknown` if there is none.

        A `runtime` that is named wins over every file (confidence 1), `auto` means what is found. Raises UnknownName.
        """
        key = os.fspath(source), runtime
        with self._lock:
            detectors = dict(self._detectors)
            kept = self._kept.get(key)
        # Every test of a run asks for the same project: to parse its files anew would cost more than its sandbox.
        if kept is not None and kept[0].unchanged():
            return kept[1]
        tree = Tree(source)
        guess = _best(tree, detectors, runtime)
        with self._lock:
            self._kept[key] = tree, guess
        return guess


def _best(tree: Tree, detectors: Mapping[str, SmallDetector], runtime: str | None) -> RuntimeGuess:
    if runtime not in (None, "auto"):
        named = detectors.get(str(runtime))
        if named is None:
            known = (*detectors, "auto")
            raise UnknownName("runtime", runtime, known, nearest=nearest_word(runtime, known))
        found = named.guess(tree) or named.fallback or RuntimeGuess(runtime=named.runtime, confidence=1)
        return found.model_copy(update={"confidence": 1.0})
    guesses = [guess for detector in detectors.values() if (guess := detector.guess(tree)) is not None]
    return max(guesses, key=lambda guess: guess.confidence, default=UNKNOWN)


def _guess(
    runtime: str,
    confidence: float,
    install: Sequence[str] = (),
    run: Sequence[str] = (),
    evidence: Sequence[str] = (),
) -> RuntimeGuess:
    return RuntimeGuess(
        runtime=runtime, confidence=confidence, install=tuple(install), run=tuple(run), evidence=tuple(evidence)
    )


def _node(tree: Tree) -> RuntimeGuess | None:
    if not tree.has("package.json"):
        return None
    locks: dict[str, tuple[str, ...]] = {
        "pnpm-lock.yaml": ("pnpm", "install", "--frozen-lockfile"),
        "yarn.lock": ("yarn", "install", "--immutable" if tree.has(".yarnrc.yml") else "--frozen-lockfile"),
        "bun.lock": ("bun", "install", "--frozen-lockfile"),
        "bun.lockb": ("bun", "install", "--frozen-lockfile"),
        "package-lock.json": ("npm", "ci"),
        "npm-shrinkwrap.json": ("npm", "ci"),
    }
    lock = tree.has(*locks)[:1]
    install = locks[lock[0]] if lock else ("npm", "install")
    package = _json(tree.text("package.json"))
    scripts, main = package.get("scripts"), package.get("main")
    run: tuple[str, ...] = ()
    if isinstance(scripts, dict) and "start" in scripts:
        run = (install[0], "start") if install[0] != "bun" else ("bun", "run", "start")
    elif isinstance(main, str) and main and not main.startswith("-"):
        run = ("node", main)
    elif tree.has("index.js"):
        run = ("node", "index.js")
    return _guess("node", 0.95 if lock else 0.9, install, run, ("package.json", *lock))


def _go(tree: Tree) -> RuntimeGuess | None:
    if not tree.has("go.mod"):
        return None
    commands = tree.directories("cmd")
    package = "." if tree.has("main.go") or len(commands) != 1 else f"./cmd/{commands[0]}"
    return _guess("go", 0.95, ("go", "mod", "download"), ("go", "run", package), tree.has("go.mod", "go.sum"))


def _rust(tree: Tree) -> RuntimeGuess | None:
    evidence = tree.has("Cargo.toml", "Cargo.lock")
    if "Cargo.toml" not in evidence:
        return None
    locked = ("--locked",) if "Cargo.lock" in evidence else ()
    return _guess("rust", 0.95, ("cargo", "fetch", *locked), ("cargo", "run", *locked), evidence)


def _python(tree: Tree) -> RuntimeGuess | None:
    evidence = tree.has(
        "pyproject.toml", "setup.py", "setup.cfg", "requirements.txt", "Pipfile", "uv.lock", "poetry.lock"
    )
    if not evidence:
        return None
    pyproject = _toml(tree.text("pyproject.toml"))
    packaged = "project" in pyproject or "build-system" in pyproject or "setup.py" in evidence
    if "uv.lock" in evidence:
        install: tuple[str, ...] = ("uv", "sync", "--frozen")
    elif "poetry.lock" in evidence:
        install = ("poetry", "install")
    elif "Pipfile" in evidence:
        install = ("pipenv", "install")
    elif "requirements.txt" in evidence:
        # A package that also pins its world: the package is what its own metadata says, the pins are the world.
        install = (*_PIP, "-r", "requirements.txt", *((".",) if packaged else ()))
    else:
        install = (*_PIP, ".") if packaged else ()
    # pyproject.toml and setup.cfg alone may hold nothing but the settings of tools.
    sure = packaged or len(evidence) > len(set(evidence) & {"pyproject.toml", "setup.cfg"})
    return _guess("python", 0.92 if sure else 0.3, install, _python_run(tree, pyproject), evidence)


def _python_run(tree: Tree, pyproject: Mapping[str, Any]) -> tuple[str, ...]:
    if tree.has("manage.py"):
        return ("python", "manage.py", "runserver")
    project = pyproject.get("project")
    scripts = project.get("scripts") if isinstance(project, dict) else None
    if isinstance(scripts, dict) and scripts:
        return (min(scripts),)
    program = tree.has("main.py", "app.py", "__main__.py")[:1]
    return ("python", *(program if program != ("__main__.py",) else (".",))) if program else ()


def _docker(tree: Tree) -> RuntimeGuess | None:
    evidence = tree.has("Dockerfile", "Containerfile")
    if not evidence:
        return None
    build = ("docker", "build", "--file", evidence[0], "--tag", "app", ".")
    return _guess("docker", 0.6, build, ("docker", "run", "--rm", "app"), evidence)


def _compose(tree: Tree) -> RuntimeGuess | None:
    evidence = tree.has("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
    if not evidence:
        return None
    return _guess("compose", 0.65, ("docker", "compose", "build"), ("docker", "compose", "up"), evidence)


def _make(tree: Tree) -> RuntimeGuess | None:
    evidence = tree.has("GNUmakefile", "makefile", "Makefile")
    if not evidence:
        return None
    targets = set(re.findall(r"^([A-Za-z0-9_-]+)[ \t]*:(?!=)", tree.text(evidence[0]), re.MULTILINE))
    install = next(
        (("make", name) for name in ("deps", "setup", "install-deps", "build") if name in targets), ("make",)
    )
    run = next((("make", name) for name in ("run", "start") if name in targets), ())
    return _guess("make", 0.4, install, run, evidence)


def _dotnet(tree: Tree) -> RuntimeGuess | None:
    suffixes = (".sln", ".slnx", ".csproj", ".fsproj", ".vbproj")
    evidence = tuple(name for name in tree.files() if name.endswith(suffixes)) + tree.has("global.json")
    if not evidence or evidence == ("global.json",):
        return None
    return _guess("dotnet", 0.9, ("dotnet", "restore"), ("dotnet", "run"), evidence)


_BUILT_IN = (
    SmallDetector("go", _go, _guess("go", 1, ("go", "mod", "download"), ("go", "run", "."))),
    SmallDetector("rust", _rust, _guess("rust", 1, ("cargo", "fetch"), ("cargo", "run"))),
    SmallDetector("node", _node, _guess("node", 1, ("npm", "install"), ("npm", "start"))),
    SmallDetector("dotnet", _dotnet, _guess("dotnet", 1, ("dotnet", "restore"), ("dotnet", "run"))),
    SmallDetector("python", _python, _guess("python", 1, (*_PIP, "."), ())),
    SmallDetector(
        "compose", _compose, _guess("compose", 1, ("docker", "compose", "build"), ("docker", "compose", "up"))
    ),
    SmallDetector(
        "docker",
        _docker,
        _guess("docker", 1, ("docker", "build", "--tag", "app", "."), ("docker", "run", "--rm", "app")),
    ),
    SmallDetector("make", _make, _guess("make", 1, ("make",), ())),
)


def _json(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}  # cut at the bound, or broken: the file's name is evidence enough
    return value if isinstance(value, dict) else {}


def _toml(text: str) -> Mapping[str, Any]:
    try:
        value: Mapping[str, Any] = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return {}
    return value
