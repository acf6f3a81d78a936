"""What others take for the same: subprocess.run, bwrap, docker, podman, testcontainers, where they work."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

from measure import Case, Group
from timing import command, execute, timed

SUBPROCESS, BWRAP = "subprocess.run(true)", "bwrap true"
TESTCONTAINERS = "testcontainers: start, exec true, stop"
TEN_MB = ("head", "-c", str(10 * 1024**2), "/dev/zero")

#: What `pytest_airlock` does for a sandbox, as near as bwrap comes to it: all name spaces, a read-only system, a private /tmp.
BWRAP_OPTIONS = (
    "--unshare-all", "--die-with-parent", "--new-session", "--clearenv",
    "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib",
    "--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
)  # fmt: skip

#: As fast as a container gets: nothing to connect, and no 10 seconds of waiting for a PID 1 that ignores SIGTERM.
CONTAINER = ("--detach", "--network=none", "--stop-signal=KILL")

IMAGE_HINT = "`{engine} pull debian:stable-slim && {engine} tag debian:stable-slim {image}`"


@dataclass(frozen=True)
class Absence:
    """`why` is the contestant's own word and may name paths of this machine; `hint` says how it is installed."""

    why: str
    hint: str


@dataclass
class Contestants:
    """The groups to be sampled; of each contestant its version, or why it is not measured."""

    groups: list[Group] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    absent: dict[str, Absence] = field(default_factory=dict)

    def add(self, name: str, hint: str, find: Callable[[], tuple[str, Group]]) -> None:
        """Whatever keeps it from working is the reason it is not measured."""
        try:
            version, group = find()
            for case in group.cases.values():
                case()
        except (OSError, RuntimeError, ImportError) as error:
            reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
            self.absent[name] = Absence(reason.strip(), hint)
            return
        self.versions[name] = version
        self.groups.append(group)


@contextmanager
def contestants(image: str | None) -> Iterator[Contestants]:
    """Each is tried once; `image` is that of the containers, with true(1) and sleep(1) in it. None: no containers."""
    found = Contestants()
    found.groups.append(Group({SUBPROCESS: command([_which("true")])}))
    found.add("bwrap", "`apt install bubblewrap`", _bwrap)
    if image is None:
        yield found
        return
    with ExitStack() as stack:
        for engine, package in (("docker", "docker.io"), ("podman", "podman")):
            hint = f"`apt install {package}`, then {IMAGE_HINT.format(engine=engine, image=image)}"
            found.add(engine, hint, partial(_engine, engine, image, stack))
        found.add("testcontainers", "`pip install testcontainers`, with docker", partial(_testcontainers, image))
        yield found


def _which(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise FileNotFoundError(f"{program} is not installed")
    return path


def _bwrap() -> tuple[str, Group]:
    bwrap = _which("bwrap")
    version = execute([bwrap, "--version"]).decode().split()[-1]
    return version, Group({BWRAP: command([bwrap, *BWRAP_OPTIONS, "/usr/bin/true"])})


class Container:
    """The life of a container by the command line, as test suites live it. Each round makes one and ends it."""

    def __init__(self, engine: str, image: str) -> None:
        self._engine = _which(engine)
        self._image = image
        self._numbers = itertools.count(1)
        self._name = ""

    def cases(self, engine: str) -> dict[str, Case]:
        return {
            f"{engine} run -d": lambda: timed(self._run),
            f"{engine} exec true": lambda: timed(lambda: execute([self._engine, "exec", self._name, "true"])),
            f"{engine} rm -f, run -d": lambda: timed(self._anew),
            f"{engine} rm -f": lambda: timed(self._remove),
        }

    def _run(self) -> None:
        self._name = f"airlock-bench-{os.getpid()}-{next(self._numbers)}"
        execute([self._engine, "run", *CONTAINER, "--name", self._name, self._image, "sleep", "infinity"])

    def _remove(self) -> None:
        execute([self._engine, "rm", "-f", self._name])
        self._name = ""

    def close(self) -> None:
        """What a round that was interrupted has left."""
        if self._name:
            self._remove()

    def _anew(self) -> None:
        self._remove()
        self._run()


def _engine(engine: str, image: str, stack: ExitStack) -> tuple[str, Group]:
    container = Container(engine, image)
    stack.callback(container.close)
    part = "Server" if engine == "docker" else "Client"
    version = execute([_which(engine), "version", "--format", f"{{{{.{part}.Version}}}}"]).decode().strip()
    execute([_which(engine), "image", "inspect", image])
    return version, Group(container.cases(engine), every=3)


def _testcontainers(image: str) -> tuple[str, Group]:
    if importlib.util.find_spec("testcontainers") is None:
        raise ImportError("testcontainers is not installed")
    # Its reaper is one more container with an image of its own; it would be part of the first start only.
    os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"

    from docker.errors import DockerException
    from testcontainers.core.container import DockerContainer

    def life() -> float:
        start = time.perf_counter()
        try:
            with DockerContainer(image).with_command("sleep infinity") as container:
                container.exec("true")
        except DockerException as error:
            raise RuntimeError(str(error)) from error
        return time.perf_counter() - start

    version = importlib.metadata.version("testcontainers")
    return version, Group({TESTCONTAINERS: life}, every=6)
