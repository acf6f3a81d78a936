"""The guard fails on gross regressions, and only if they are there twice."""

from __future__ import annotations

from contestants import BWRAP, SUBPROCESS
from guard import BOUNDS, Bound, too_slow
from measure import Samples

RUN = Bound("run(true)", SUBPROCESS, 4)


def run(*ratios):
    """What sample() answers, one ratio after the other."""
    left = list(ratios)

    def sample():
        ratio = left.pop(0)
        return {"run(true)": Samples("run(true)", {0: ratio}), SUBPROCESS: Samples(SUBPROCESS, {0: 1.0})}

    return sample, left


def test_within_the_bounds_one_run_is_enough():
    sample, left = run(3.9, 100)
    assert too_slow([RUN], sample, print) == []
    assert left == [100]


def test_what_is_too_slow_once_is_measured_again(capsys):
    sample, left = run(5, 2)
    assert too_slow([RUN], sample, print) == []
    assert left == []
    assert "measuring once more" in capsys.readouterr().out


def test_what_is_too_slow_twice_fails():
    assert too_slow([RUN], run(5, 6)[0], print) == [RUN]


def test_each_ratio_is_printed_with_its_bound(capsys):
    too_slow([RUN], run(2)[0], print)
    assert " ".join(capsys.readouterr().out.split()) == "run(true) 2.00 × subprocess.run(true) at most 4 ok"


def test_a_rival_that_is_not_installed_breaks_no_bound(capsys):
    assert too_slow([Bound("run(true)", BWRAP, 1)], run(9)[0], print) == []
    assert "not measured" in capsys.readouterr().out


def test_every_case_is_held_against_something_that_is_always_there():
    """bwrap is not installed everywhere: what is held against it is held against a plain process too."""
    always = {bound.case for bound in BOUNDS if bound.reference != BWRAP}
    assert {bound.case for bound in BOUNDS} == always
