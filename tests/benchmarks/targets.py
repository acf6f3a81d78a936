"""What each row of the design is to reach, and what was measured of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import network
import resets
import sandboxes
import scale
import suites
from contestants import BWRAP, SUBPROCESS
from measure import Samples

MILLI, MICRO, MB = 1e-3, 1e-6, 1e6
Taken = Mapping[str, Samples]


@dataclass(frozen=True)
class Target:
    """`value(samples)` in `unit`s; KeyError says it was not measured. With `least`, more is better."""

    what: str
    value: Callable[[Taken], float]
    target: float
    stretch: float | None
    unit: str
    least: bool = False

    def reaches(self, measured: float, bound: float) -> bool:
        return measured >= bound if self.least else measured <= bound

    def verdict(self, measured: float | None) -> str:
        if measured is None:
            return "not measured"
        if self.stretch is not None and self.reaches(measured, self.stretch):
            return "stretch met"
        return "met" if self.reaches(measured, self.target) else "**missed**"

    def measured(self, samples: Taken) -> float | None:
        try:
            return self.value(samples)
        except KeyError:
            return None

    def show(self, value: float | None) -> str:
        """A bound, with the sign of what is better."""
        return "" if value is None else f"{'≥' if self.least else '≤'} {value:,g} {self.unit}"


def median(name: str, unit: float = 1.0) -> Callable[[Taken], float]:
    return lambda samples: samples[name].median / unit


def ratio(name: str, other: str) -> Callable[[Taken], float]:
    return lambda samples: samples[name].ratio(samples[other])


def difference(name: str, other: str, unit: float) -> Callable[[Taken], float]:
    return lambda samples: samples[name].difference(samples[other]) / unit


ANEW = "{} rm -f, run -d"

TARGETS = (
    Target("warm `run(true)`", ratio(sandboxes.RUN, SUBPROCESS), 1.1, 1.0, "× subprocess.run"),
    Target("create", ratio(sandboxes.CREATE, BWRAP), 0.8, 0.5, "× bwrap"),
    Target("create, no spare", ratio(sandboxes.UNSPARED_CREATE, BWRAP), 0.8, 0.5, "× bwrap"),
    Target("reset between tests", median(sandboxes.BETWEEN, MILLI), 1.0, None, "ms"),
    Target(
        "reset between tests, faster than docker's", ratio(ANEW.format("docker"), sandboxes.BETWEEN), 200, 400, "×",
        least=True,
    ),
    Target("explicit `reset()`", median(sandboxes.RESET, MILLI), 1.5, 0.8, "ms"),
    Target("`reset()`, no spare", ratio(sandboxes.UNSPARED_RESET, BWRAP), 0.9, 0.6, "× bwrap"),
    Target("destroy", ratio(sandboxes.DESTROY, BWRAP), 0.25, 0.15, "× bwrap"),
    Target("10 MB captured", ratio(sandboxes.TEN, sandboxes.PLAIN_TEN), 1.5, 1.1, "× subprocess.run"),
    *(
        Target(sandboxes.SNAPSHOT.format(size), median(sandboxes.SNAPSHOT.format(size), MILLI), 3, 1, "ms")
        for size in sandboxes.SIZES
    ),
    Target(f"diff of {sandboxes.DIFF_FILES:,} files, each", median(sandboxes.DIFF, MICRO), 15, 7, "µs"),
    Target("idle sandbox, with the kernel's share", median(scale.IDLE, MB), 1.5, 1.0, "MB"),
    Target("create at 500 live sandboxes", ratio(scale.CROWDED, scale.FIRST), 2, 1.3, "× the first"),
    *(
        Target(f"1,000 tests, one run each, `-n {workers}`", median(suites.THOUSAND.format(workers)), 5, 3, "s")
        for workers in (0, 2)
    ),
    Target("`connect()` and one byte", median(network.CONNECT_BYTE, MILLI), 0.2, None, "ms"),
    Target(
        "network of a sandbox, made and ended", difference(network.OWN_NETWORK, network.SHARED_NETWORK, MILLI), 0.3, None,
        "ms",
    ),
    Target("`network.lock()` until a connection is cut", median(network.CUT, MILLI), 1, None, "ms"),
    Target("plugin installed, unused", difference(suites.UNUSED, suites.BLOCKED, MILLI), 10, 3, "ms"),
    Target("all dead after SIGKILL of pytest", median(suites.KILLED, MILLI), 50, 10, "ms"),
    Target("left over after resets", median(resets.LEFT), 0, None, "things"),
)  # fmt: skip
