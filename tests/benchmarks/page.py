"""From what was measured to docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import network
import sandboxes
import scale
import suites
from contestants import BWRAP, BWRAP_OPTIONS, SUBPROCESS, Absence
from measure import Samples
from resets import LEFT, LeftOver
from targets import TARGETS, Taken
from units import number_text, size_text, time_text

HEAD = """# Benchmarks

Written by `tox -e bench`; do not edit. Everything stands beside its rivals: all cases were sampled in one interleaved run, on one machine.

![What it takes to run something in a world of its own: subprocess, airlock, bwrap, docker, podman]({charts}/bars.svg)

The scale is logarithmic: each line is ten times as long as the one before.
"""

METHOD = """## Method

One process, one run. In every round each case is timed once, the groups in a random order, so that whatever disturbs the machine disturbs all alike;
{rounds} rounds after {warmups} to warm up; dear cases run in some of the rounds only (*n* says in how many). A ratio is the median over the rounds of this time by that
of the reference *in the same round*; the spread is the 10th to the 90th percentile. The curves, the live sandboxes among them, what is idle and what is left over were measured after it.

- *create*, *reset()*, *destroy* go through the SandboxManager with store and lease, profile `cautious`. A reset is that of a used sandbox: a command ran and left a file; it ends with the kernel's
  proof that the old world is dead. *No spare* is the same with spare sandboxes forbidden: all is built when it is asked for.
- *reset between tests* is what the next test waits: from the hand-back of a used sandbox to a pristine one in hand.
- *run(true)* is a later command of a sandbox, *first run(true)* its first. Both capture their output, as *subprocess.run* does here.
- *bwrap* is one whole `bwrap {bwrap_options} /usr/bin/true`: made, used and ended. It has neither a writable system nor a filter of system calls, nor can it be reset.
- *docker* and *podman* are the command-line clients, as test suites call them: `run -d --network=none --stop-signal=KILL IMAGE sleep infinity`, `exec true`, `rm -f`; their reset is `rm -f` and `run -d`.
  *testcontainers* is one `DockerContainer` started, one `exec`, stopped, without its reaper.
- *10 MB* is `head -c 10485760 /dev/zero`, captured as bytes.
- *snapshot* is taken with so much changed since the last; *diff* finds {diff_files:,} new files, its time is for each of them.
- *idle sandbox, its own* is what only its PID 1 holds (private pages in smaps_rollup); *the kernel's* the growth of slab, page tables, stacks, per-cpu and shared memory
  of the whole machine from one sandbox to the next (median over batches of {batch}): other work disturbs it.
- *connect()*, *forward* and *loopback* reach the same server, inside and outside; a byte of it, then {megabytes} MB, of which the time is for each. *refused connect inside* is one of
  {tries:,} from a Python loop; *attempts* reads the record of as many. *attempts a second without loss* is the highest of {rates} at which none was lost.
- *allowed name* is the same server by a name that leads to it (`network.route`), asked from inside. *a connection inside is cut* from the call of `network.lock()`
  until the program is told. *a sandbox and its end* is create, start and delete of the provider.
- *plugin unused* is a whole `python -m pytest` of one empty test with the plugin installed, *plugin blocked* the same with `-p no:airlock`.
- *all dead after SIGKILL*: pytest with five busy sandboxes is killed; the time until the last process below it has ended, by pidfd.

To repeat it, on a quiet machine: `tox -e bench`, or `tox -e bench -- --quick` for a look of a minute. What is not installed is "not measured".
"""

PLOTS = {
    "live": "Sandboxes that live at the same time, made one after the other, and the first command in the newest of them.",
    "workers": "The whole pytest run, start of all workers included.",
    "files": "A diff that finds so many changed files.",
    "layers": "A snapshot on top of so many others, each with a changed file, and going back to it.",
}


@dataclass(frozen=True)
class Results:
    samples: Taken
    plots: Mapping[str, scale.Plot]
    left: LeftOver
    versions: Mapping[str, str]
    absent: Mapping[str, Absence]
    facts: Mapping[str, str]
    rounds: int
    warmups: int


def machine() -> dict[str, str]:
    """What the numbers depend on, and nothing that tells whose machine it is."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    processor = cpus[0].split(":", 1)[1].strip() if cpus else platform.machine()
    return {
        "processor": f"{processor}, {len(os.sched_getaffinity(0))} usable",
        "memory": f"{int(memory.split()[1]) / 1024**2:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}, {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "run as": "root" if os.geteuid() == 0 else "an ordinary user",
        "load at start": load(),
    }


def load() -> str:
    """The average of the last minute."""
    return f"{os.getloadavg()[0]:.2f}"


def page(results: Results, charts: str) -> str:
    parts = (
        HEAD.format(charts=charts), "## Targets", "", *_targets(results.samples), "",
        "## All cases", "", *_cases(results.samples), "", *_left_over(results.left), "",
        "## With more of everything", "", *_plots(results.plots, charts),
        "## Machine", "", "| | |", "|---|---|",
        *(f"| {key} | {value} |" for key, value in {**results.facts, **results.versions}.items()),
        *(f"| {name} | not measured; to install it: {absence.hint} |" for name, absence in results.absent.items()), "", _method(results),
    )  # fmt: skip
    return "\n".join(parts)


def _targets(samples: Taken) -> Iterator[str]:
    yield from ("| | target | stretch | measured | |", "|---|---|---|---|---|")
    for target in TARGETS:
        measured = target.measured(samples)
        shown = "" if measured is None else f"{number_text(measured)} {target.unit}"
        bounds = f"{target.show(target.target)} | {target.show(target.stretch)}"
        yield f"| {target.what} | {bounds} | {shown} | {target.verdict(measured)} |"


_UNITS = {**dict.fromkeys((scale.OWN, scale.KERNEL, scale.IDLE), size_text), network.RATE: number_text}


def _cases(samples: Taken) -> Iterator[str]:
    yield from ("| case | median | 10th - 90th | × subprocess.run | × bwrap | n |", "|---|---|---|---|---|---|")
    for name, case in samples.items():
        if name == LEFT:
            continue
        text = _UNITS.get(name, time_text)
        ratios = (_ratio(case, samples, reference) for reference in (SUBPROCESS, BWRAP))
        spread = f"{text(case.percentile(10))} - {text(case.percentile(90))}"
        yield f"| {name} | {text(case.median)} | {spread} | {' | '.join(ratios)} | {len(case.values)} |"


#: Cases that a command of its own process is no measure of.
_WITHOUT_RATIO = (
    sandboxes.DIFF, suites.UNUSED, suites.BLOCKED, scale.FIRST, scale.CROWDED, scale.OWN, scale.KERNEL, scale.IDLE,
    *(suites.THOUSAND.format(workers) for workers in (0, 2)), suites.KILLED, network.RATE,
)  # fmt: skip


def _ratio(case: Samples, samples: Taken, reference: str) -> str:
    if case.name in _WITHOUT_RATIO:
        return ""
    return number_text(case.ratio(samples[reference])) if reference in samples else "not measured"


def _left_over(left: LeftOver) -> Iterator[str]:
    counts = ", ".join(f"{count} {kind}" for kind, count in left.more.items())
    grown = "not readable" if left.memory is None else f"{left.memory / 1000:+,.0f} kB in all"
    yield f"After {left.resets:,} resets there are more than before: {counts}; memory of the processes that stay: {grown}."


def _plots(plots: Mapping[str, scale.Plot], charts: str) -> Iterator[str]:
    for name, words in PLOTS.items():
        plot = plots[name]
        ends = ((curve, points[0], points[-1]) for curve, points in plot.curves.items())
        said = (
            f"*{curve}*: {time_text(little)} at {first:,g}, {time_text(much)} at {last:,g}."
            for curve, (first, little), (last, much) in ends
        )
        yield from (f"### {plot.title}", "", " ".join((words, *said)), "")
        yield from (f"![{plot.title}: time by number of {plot.count}]({charts}/{name}.svg)", "")


def _method(results: Results) -> str:
    options = " ".join(BWRAP_OPTIONS)
    files = sandboxes.DIFF_FILES
    return METHOD.format(
        rounds=results.rounds,
        warmups=results.warmups,
        bwrap_options=options,
        diff_files=files,
        batch=scale.BATCH,
        megabytes=network.MEGABYTES,
        tries=network.TRIES,
        rates=", ".join(f"{rate:,}" for rate in network.RATES),
    )
