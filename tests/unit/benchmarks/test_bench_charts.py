"""The pictures, where matplotlib is installed: `tox -e bench`."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import charts
import pytest
from scale import Plot

pytest.importorskip("matplotlib", reason="only `tox -e bench` installs matplotlib")

BARS = [charts.Bar("subprocess.run(true)", 0.001), charts.Bar("airlock: create", 0.004, ours=True)]


def words(picture):
    return [text.text for text in ET.parse(picture).iter("{http://www.w3.org/2000/svg}text")]


def test_a_bar_chart_names_each_bar_and_its_time(tmp_path):
    charts.draw_bars(BARS, tmp_path / "bars.svg")
    assert {"subprocess.run(true)", "1.00 ms", "airlock: create", "4.00 ms"} <= set(words(tmp_path / "bars.svg"))


def test_a_plot_names_its_curves_and_counts(tmp_path):
    plot = Plot("Diff", "changed files", {"diff": [(10, 0.004), (1000, 0.02)], "other": [(10, 0.001)]})
    charts.draw_plot(plot, tmp_path / "plot.svg")
    assert {"diff", "other", "changed files", "10", "1,000", "10 ms"} <= set(words(tmp_path / "plot.svg"))


def test_the_same_numbers_make_the_same_bytes(tmp_path):
    for name in ("first.svg", "second.svg"):
        charts.draw_bars(BARS, tmp_path / name)
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()


def test_the_background_is_the_pages_own(tmp_path):
    charts.draw_bars(BARS, tmp_path / "bars.svg")
    assert "#ffffff" not in (tmp_path / "bars.svg").read_text()
