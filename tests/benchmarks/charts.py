"""The pictures of docs/benchmarks.md, as SVG by matplotlib: the same bytes for the same numbers, on light and on dark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import sandboxes
from contestants import BWRAP, SUBPROCESS, TESTCONTAINERS
from measure import Samples
from scale import Plot
from units import tick_text, time_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLE = Path(__file__).with_name("charts.mplstyle")
#: Contrast enough on white and on black; what is behind them is the page's own.
OURS, OTHERS = "#2f81f7", "#8c959f"


@dataclass(frozen=True)
class Bar:
    label: str
    seconds: float
    ours: bool = False


#: (label, case, is it ours), from the cheapest way to run something to the dearest.
BARS = (
    ("subprocess.run(true)", SUBPROCESS, False),
    ("airlock: run(true)", sandboxes.RUN, True),
    ("airlock: reset between tests", sandboxes.BETWEEN, True),
    ("airlock: create", sandboxes.CREATE, True),
    ("bwrap true", BWRAP, False),
    ("docker exec true", "docker exec true", False),
    ("docker run -d", "docker run -d", False),
    ("docker rm -f, run -d (its reset)", "docker rm -f, run -d", False),
    ("podman exec true", "podman exec true", False),
    ("podman run -d", "podman run -d", False),
    ("podman rm -f, run -d (its reset)", "podman rm -f, run -d", False),
    (TESTCONTAINERS, TESTCONTAINERS, False),
)


def bars(samples: Mapping[str, Samples]) -> list[Bar]:
    """Those that were measured, in the order of BARS."""
    return [Bar(label, samples[case].median, ours) for label, case, ours in BARS if case in samples]


def axis_names(seconds: Sequence[float]) -> Iterator[tuple[float, str]]:
    """The powers of ten around these times, each with its name."""
    power = 1e-6
    while power < min(seconds) / 10.01:
        power *= 10
    while True:
        yield power, tick_text(power)
        if power >= max(seconds):
            return
        power *= 10


def draw_bars(shown: Sequence[Bar], output: Path) -> None:
    with _figure(output, height=0.6 + 0.32 * len(shown)) as axes:
        places, times = range(len(shown)), [bar.seconds for bar in shown]
        colours = [OURS if bar.ours else OTHERS for bar in shown]
        axes.barh(places, times, color=colours, height=0.7)
        axes.set_yticks(places, [bar.label for bar in shown])
        axes.invert_yaxis()
        axes.set_xscale("log")
        names = list(axis_names([min(times) / 3, *times]))  # so that the shortest bar is one
        axes.set_xticks([power for power, _ in names], [name for _, name in names])
        axes.set_xlim(names[0][0], names[-1][0] * 2)
        for place, bar in enumerate(shown):
            axes.annotate(
                time_text(bar.seconds), (bar.seconds, place), (4, 0), textcoords="offset points", va="center",
            )  # fmt: skip


def draw_plot(plot: Plot, output: Path) -> None:
    with _figure(output, height=3.0) as axes:
        for name, points in plot.curves.items():
            axes.plot(*zip(*points, strict=True), label=name)
        counts = sorted({count for points in plot.curves.values() for count, _ in points})
        names = list(axis_names([seconds for points in plot.curves.values() for _, seconds in points]))
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(counts, [f"{count:,g}" for count in counts])
        axes.set_yticks([power for power, _ in names], [name for _, name in names])
        axes.set_ylim(names[0][0], names[-1][0])
        axes.set_xlabel(plot.count)
        axes.legend(frameon=False)


@contextmanager
def _figure(output: Path, *, height: float) -> Iterator[Axes]:
    """Axes to draw on, written when the block ends; without a date, which would make each file another."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(8, height), layout="constrained")
        yield figure.add_subplot()
        figure.savefig(output, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
