"""From samples to docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from measure import Samples

SUBPROCESS, BWRAP = "subprocess.run(true)", "bwrap true"

#: (case, the reference of its target, at most this many times as long)
TARGETS = (
    ("create", BWRAP, 0.8),
    ("run(true)", SUBPROCESS, 1.1),
    ("reset", BWRAP, 0.9),
    ("destroy", BWRAP, 0.25),
)
UNUSED_TARGET_MS = 10.0

HEAD = """# Benchmarks

Written by `tox -e bench`; do not edit. Times are medians in milliseconds, with the 10th and 90th percentile beside them. A ratio is the
median over the rounds of this time by that of the reference *in the same round*.
"""

METHOD = """## Method

One process, one run. In every round each case is timed once, the groups in a random order, so that whatever disturbs the machine
disturbs all alike; {warmups} rounds to warm up, then {rounds} that count.

- *create*, *reset* and *destroy* go through the SandboxManager with store and lease, profile `cautious`. The reset is a full rebuild of a used sandbox,
  with the kernel's proof that the old one is dead.
- *run(true)* is the second command of a sandbox; *first run(true)* the first. Both capture their output, as *subprocess.run* does here.
- *bwrap* is one whole `bwrap {bwrap_options} /usr/bin/true`: made, used and ended. It has neither a
  writable system nor a filter of system calls, nor can it be reset.
- *plugin unused* is a whole `python -m pytest` of one empty test, with the plugin installed and with `-p no:airlock`, {unused_rounds} interleaved runs of each.

To repeat it, on a quiet machine: `tox -e bench`. bwrap is Debian's package `bubblewrap`; where it is not installed its column says "not measured".
"""


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"


def machine() -> dict[str, str]:
    """What the numbers depend on, and nothing that tells whose machine it is."""
    info = dict(
        line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    )
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    bwrap = shutil.which("bwrap")
    version = subprocess.run([bwrap, "--version"], capture_output=True, text=True, check=True).stdout if bwrap else ""
    return {
        "processor": f"{next(iter(info.values()), platform.machine()).strip()}, {len(os.sched_getaffinity(0))} usable",
        "memory": f"{int(memory.split()[1]) / 1024**2:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "bwrap": version.strip() or "not installed",
        "run as": "root" if os.geteuid() == 0 else "an ordinary user",
        "load at start": f"{os.getloadavg()[0]:.2f}",
    }


def page(samples: Mapping[str, Samples], unused: Mapping[str, Samples], facts: Mapping[str, str], method: str) -> str:
    rows = ["## Machine", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items())]
    rows += ["", "## Sandboxes", "", *_sandboxes(samples), "", "## Targets", "", *_targets(samples, unused)]
    rows += ["", "## The plugin, installed and unused", "", *_unused(unused)]
    return "\n".join([HEAD, *rows, "", method])


def _sandboxes(samples: Mapping[str, Samples]) -> list[str]:
    rows = ["| case | median ms | 10th - 90th | × subprocess.run | × bwrap |", "|---|---|---|---|---|"]
    for name, case in samples.items():
        spread = f"{milliseconds(case.percentile(10))} - {milliseconds(case.percentile(90))}"
        ratios = [f"{case.ratio(samples[r]):.2f}" if r in samples else "not measured" for r in (SUBPROCESS, BWRAP)]
        rows.append(f"| {name} | {milliseconds(case.median)} | {spread} | {ratios[0]} | {ratios[1]} |")
    return rows


def _targets(samples: Mapping[str, Samples], unused: Mapping[str, Samples]) -> list[str]:
    rows = ["| case | target | measured | |", "|---|---|---|---|"]
    for name, reference, most in TARGETS:
        target = f"≤ {most:g} × {reference.partition('(')[0]}"
        if reference not in samples:
            rows.append(f"| {name} | {target} | not measured | |")
            continue
        ratio = samples[name].ratio(samples[reference])
        rows.append(f"| {name} | {target} | {ratio:.2f} | {_met(ratio <= most)} |")
    cost = unused["plugin unused"].difference(unused["-p no:airlock"]) * 1e3
    rows.append(
        f"| plugin unused | ≤ {UNUSED_TARGET_MS:g} ms on a run | {cost:.1f} ms | {_met(cost <= UNUSED_TARGET_MS)} |"
    )
    return rows


def _met(met: bool) -> str:
    return "met" if met else "**missed**"


def _unused(unused: Mapping[str, Samples]) -> list[str]:
    rows = ["| run | median ms | 10th - 90th |", "|---|---|---|"]
    for name, case in unused.items():
        spread = f"{milliseconds(case.percentile(10))} - {milliseconds(case.percentile(90))}"
        rows.append(f"| {name} | {milliseconds(case.median)} | {spread} |")
    cost = unused["plugin unused"].difference(unused["-p no:airlock"])
    return [*rows, "", f"The difference, run by run: {milliseconds(cost)} ms."]
