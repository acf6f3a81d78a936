"""Cost curves: what it takes when there is more of everything."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from measure import Samples
from process_tree import descendants, is_init, kernel_memory, unique_set_size
from sandboxes import Diffs
from subject import SPEC, session
from suites import many
from timing import command, timed

from pytest_airlock import AirlockError, Sandbox

FIRST, CROWDED = "create, the first 10", "create at 500 live"
OWN, KERNEL, IDLE = "idle sandbox, its own", "idle sandbox, the kernel's", "idle sandbox"

#: Sandboxes between two looks at the kernel's memory.
BATCH = 25

Points = list[tuple[float, float]]


@dataclass
class Plot:
    """One picture: curves by name, as (how many, seconds)."""

    title: str
    count: str
    curves: dict[str, Points] = field(default_factory=dict)

    def add(self, name: str, count: float, seconds: float) -> None:
        self.curves.setdefault(name, []).append((count, seconds))


@dataclass(frozen=True)
class Extent:
    """How far the curves go, and how often each is taken."""

    live: Sequence[int]
    workers: Sequence[int]
    suite: int
    files: Sequence[int]
    layers: Sequence[int]
    passes: int


FULL = Extent(
    live=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
    workers=(1, 2, 4, 8, 16),
    suite=400,
    files=(10, 100, 1000, 10_000),
    layers=(1, 2, 5, 10, 20, 50, 100, 200),
    passes=2,
)
QUICK = Extent(
    live=(1, 10, 100, 500), workers=(1, 2, 4), suite=100, files=(10, 1000, 10_000), layers=(1, 10, 50, 100), passes=1
)


def measure(extent: Extent, progress: Callable[[str], object]) -> tuple[dict[str, Plot], dict[str, Samples]]:
    """The plots, and those samples that only a crowd of sandboxes tells."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    crowds = []
    for number in range(1, extent.passes + 1):
        progress(f"{max(extent.live):,} live sandboxes, {number} of {extent.passes}")
        crowds.append(crowd(max(extent.live), progress))
    plots = {"live": _live(crowds, extent.live)}
    for name, curve in (("files", _files), ("layers", _layers), ("workers", _workers)):
        progress(f"curve: {name}")
        plots[name] = curve(extent)
    return plots, _samples(crowds)


@dataclass
class Crowd:
    """Seconds of each creation and of a first command in it, by how many there were; bytes of one when all were idle."""

    create: list[float] = field(default_factory=list)
    run: list[float] = field(default_factory=list)
    own: float | None = None
    held: list[int] = field(default_factory=list)

    @property
    def kernel(self) -> float:
        """Of one sandbox. The median over batches: what other work takes or gives back at one time is in few of them."""
        return statistics.median(after - before for before, after in pairwise(self.held)) / BATCH


def crowd(size: int, progress: Callable[[str], object]) -> Crowd:
    """So many live sandboxes, made one after the other; fewer where a limit of this machine ends it."""
    seen, boxes, meminfo = Crowd(), list[Sandbox](), Path("/proc/meminfo")
    with session() as airlock:
        seen.held.append(kernel_memory(meminfo.read_text()))
        for number in range(1, size + 1):
            start = time.perf_counter()
            try:
                boxes.append(airlock.create_named(SPEC, "benchmark"))
            except (AirlockError, OSError) as error:
                progress(f"no more than {number - 1} sandboxes live at the same time: {error}")
                break
            seen.create.append(time.perf_counter() - start)
            seen.run.append(timed(lambda: boxes[-1].run(["true"], check=True)))
            if number % BATCH == 0:
                seen.held.append(kernel_memory(meminfo.read_text()))
        try:
            sizes = [unique_set_size(pid) for pid in descendants(os.getpid()) if is_init(pid)]
            seen.own = statistics.mean(size for size in sizes if size)
        except PermissionError:
            seen.own = None  # an ordinary user may not look at PID 1
    return seen


def window(values: Sequence[float], count: int, width: int = 10) -> float:
    """The median of the last `width` values up to number `count`."""
    return statistics.median(values[max(0, count - width) : count])


def _live(crowds: Sequence[Crowd], counts: Sequence[int]) -> Plot:
    plot = Plot("Live sandboxes", "live sandboxes")
    reached = min(len(seen.create) for seen in crowds)
    for count in [count for count in counts if count <= reached]:
        plot.add("create", count, statistics.median(window(seen.create, count) for seen in crowds))
        plot.add("first run(true)", count, statistics.median(window(seen.run, count) for seen in crowds))
    return plot


def _samples(crowds: Sequence[Crowd]) -> dict[str, Samples]:
    values: dict[str, dict[int, float]] = {FIRST: {}, CROWDED: {}, KERNEL: {}, OWN: {}, IDLE: {}}
    for number, seen in enumerate(crowds):
        values[FIRST][number] = window(seen.create, 10)
        if len(seen.create) >= 500:
            values[CROWDED][number] = window(seen.create, 500)
        if len(seen.held) > 1:
            values[KERNEL][number] = seen.kernel
        if seen.own is not None and number in values[KERNEL]:
            values[OWN][number] = seen.own
            values[IDLE][number] = seen.own + seen.kernel
    return {name: Samples(name, taken) for name, taken in values.items() if taken}


def _files(extent: Extent) -> Plot:
    plot = Plot("Diff", "changed files")
    with session() as airlock:
        box = airlock.create_named(SPEC, "benchmark")
        for count in extent.files:
            diffs = Diffs(box, count)
            plot.add("diff", count, statistics.median(diffs() * count for _ in range(extent.passes)))
    return plot


def _layers(extent: Extent) -> Plot:
    """Each layer is one snapshot with one changed file in it."""
    plot = Plot("Snapshots on top of each other", "layers")
    with session() as airlock:
        box = airlock.create_named(SPEC, "benchmark")
        snapshots, restores = list[float](), list[float]()
        for number in range(1, max(extent.layers) + 1):
            box.path("/usr/local/layer").write_text(str(number))
            start = time.perf_counter()
            taken = box.snapshot()
            snapshots.append(time.perf_counter() - start)
            start = time.perf_counter()
            box.restore(taken)
            restores.append(time.perf_counter() - start)
            if number in extent.layers:
                plot.add("snapshot", number, window(snapshots, number))
                plot.add("restore", number, window(restores, number))
    return plot


def _workers(extent: Extent) -> Plot:
    plot = Plot(f"{extent.suite} tests with pytest-xdist", "workers")
    with many(extent.suite) as base:
        for count in extent.workers:
            case = command([*base, "-n", str(count)])
            plot.add("whole run", count, statistics.median(case() for _ in range(min(2, extent.passes))))
    return plot
