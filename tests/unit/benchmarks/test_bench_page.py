"""What docs/benchmarks.md says of what was measured, and of what was not."""

from __future__ import annotations

import dataclasses

import charts
import pytest
import sandboxes
import scale
from contestants import BWRAP, SUBPROCESS, Absence
from measure import Samples
from page import Results, page
from resets import COUNTED, LeftOver
from scale import Plot
from targets import TARGETS, Target


def of(name, value, rounds=3):
    return Samples(name, dict.fromkeys(range(rounds), value))


def samples(**times):
    names = {"plain": SUBPROCESS, "bwrap": BWRAP, "run": sandboxes.RUN, "create": sandboxes.CREATE, "idle": scale.IDLE}
    return {names[key]: of(names[key], value) for key, value in times.items()}


@pytest.fixture
def results():
    return Results(
        samples=samples(plain=1e-3, bwrap=4e-3, run=1.05e-3, create=3e-3, idle=1.2e6),
        plots={
            name: Plot(name, "things", {"create": [(1, 0.001), (100, 0.02)]})
            for name in ("live", "workers", "files", "layers")
        },
        left=LeftOver(100, dict.fromkeys(COUNTED, 0), 4000),
        versions={"bwrap": "0.8.0"},
        absent={"docker": Absence("no socket in /home/me", "`apt install docker.io`")},
        facts={"kernel": "Linux 6.18.0"},
        rounds=3,
        warmups=1,
    )


def rows(text):
    """The first cell of each row with the others; a later row of the same name is another table's."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return {first: others for first, *others in reversed(cells)}


def test_a_target_is_met_missed_or_surpassed(results):
    found = rows(page(results, "charts"))
    assert found["warm `run(true)`"][2:] == ["1.05 × subprocess.run", "met"]
    assert rows(page(results, "charts"))["idle sandbox, with the kernel's share"][2:] == ["1.20 MB", "met"]
    slow = dataclasses.replace(results, samples={**results.samples, **samples(run=3e-3, create=1e-3)})
    found = rows(page(slow, "charts"))
    assert found["warm `run(true)`"][3] == "**missed**"
    assert found["destroy"][2:] == ["", "not measured"]
    assert "| create | ≤ 0.8 × bwrap | ≤ 0.5 × bwrap | 0.25 × bwrap | stretch met |" in page(slow, "charts")


def test_more_is_better_where_the_target_says_so():
    faster = Target("faster", lambda _: 0.0, 200, 400, "×", least=True)
    assert [faster.verdict(value) for value in (150, 250, 450)] == ["**missed**", "met", "stretch met"]
    assert faster.show(200) == "≥ 200 ×"


def test_what_was_not_measured_has_no_number():
    for target in TARGETS:
        assert target.measured({}) is None
        assert target.verdict(None) == "not measured"


def test_a_rival_that_is_missing_is_told_and_its_ratio_not_measured(results):
    alone = dataclasses.replace(results, samples=samples(plain=1e-3, create=3e-3))
    text = page(alone, "charts")
    assert "| docker | not measured; to install it: `apt install docker.io` |" in text
    assert "/home/me" not in text
    assert "| create | 3.00 ms | 3.00 ms - 3.00 ms | 3.00 | not measured | 3 |" in text


def test_all_cases_have_median_spread_ratios_and_number(results):
    assert "| create | 3.00 ms | 3.00 ms - 3.00 ms | 3.00 | 0.75 | 3 |" in page(results, "charts")
    assert "| idle sandbox | 1.20 MB | 1.20 MB - 1.20 MB |  |  | 3 |" in page(results, "charts")


def test_the_curves_are_shown_and_told_in_words(results):
    text = page(results, "charts")
    assert "*create*: 1.00 ms at 1, 20.0 ms at 100." in text
    for name in results.plots:
        assert f"(charts/{name}.svg)" in text
    assert "(charts/bars.svg)" in text


def test_what_is_left_over_counts_only_what_there_is_more_of():
    left = LeftOver(10, {"processes": -2, "mounts": 1, "descriptors": 0, "files": 2}, None)
    assert left.samples.median == 3


def test_left_over_is_told_by_kind(results):
    assert "After 100 resets there are more than before: 0 processes, 0 mounts, 0 descriptors, 0 files;" in page(
        results, "charts"
    )


def test_bars_are_those_that_were_measured_ours_marked(results):
    shown = charts.bars(results.samples)
    assert [(bar.label, bar.ours) for bar in shown] == [
        ("subprocess.run(true)", False), ("airlock: run(true)", True), ("airlock: create", True), ("bwrap true", False),
    ]  # fmt: skip


def test_the_axis_has_the_powers_of_ten_around_the_times():
    assert [name for _, name in charts.axis_names([0.0012, 0.3])] == ["1 ms", "10 ms", "100 ms", "1 s"]
