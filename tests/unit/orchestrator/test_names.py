"""Names of sandboxes: labels, never paths."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_airlock.errors import InvalidName
from pytest_airlock.orchestrator.policy.names import MAX_NAME, check_name, generated_name, marker_name

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z", re.ASCII)
labels = st.from_regex(LABEL, fullmatch=True).filter(lambda name: len(name) <= MAX_NAME)


@pytest.mark.parametrize("name", ["a", "0", "box", "box-1", "a--b", "x" * MAX_NAME])
def test_r45_labels_pass(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "a/b",
        "..",
        "../etc",
        ".",
        ".hidden",
        "a.b",
        "a\0b",
        "a\n",
        "\na",
        "Box",
        "-a",
        "a-",
        "a_b",
        "a b",
        "~",
        "x" * 300,
        "bо×",
        "ｂox",  # full-width b
        "٣",  # ARABIC-INDIC DIGIT THREE: str.isdigit() says yes
        "ı",  # dotless i
        "a\u200d",  # zero width joiner
        "ß",
        "K",  # KELVIN SIGN: lower() makes it k
        "\ud800",
        None,
        7,
        b"box",
    ],
)
def test_r45_anything_else_is_invalid(name):
    with pytest.raises(InvalidName):
        check_name(name)


def test_r45_the_limit_is_the_providers():
    assert check_name("abcd", limit=4) == "abcd"
    with pytest.raises(InvalidName, match="5 characters, at most 4"):
        check_name("abcde", limit=4)


def test_r45_the_error_says_what_a_name_is_made_of_and_a_near_one():
    with pytest.raises(InvalidName, match="for example 'my-box'"):
        check_name("My Box!")


def test_r45_the_error_does_not_repeat_a_long_name():
    with pytest.raises(InvalidName) as caught:
        check_name("x" * 100_000)
    assert len(str(caught.value)) < 500


@given(st.text(max_size=80))
@settings(deadline=None)
def test_r45_what_passes_is_a_label(text):
    try:
        assert LABEL.match(check_name(text))
    except InvalidName:
        assert not LABEL.match(text) or len(text) > MAX_NAME


@given(st.text(max_size=200), st.text(max_size=20), st.integers(0, 10**6), st.integers(1, 80))
@settings(deadline=None)
def test_r45_generated_names_are_labels_within_any_limit(test_id, worker, number, limit):
    assert check_name(generated_name(test_id, run_id="r", worker=worker, number=number, limit=limit), limit)


@given(labels, st.text(max_size=20), st.integers(0, 10**6), st.integers(1, 80))
@settings(deadline=None)
def test_r45_marker_names_are_labels_within_any_limit(name, worker, number, limit):
    assert check_name(marker_name(name, worker, number, limit), limit)


def test_generated_names_tell_tests_workers_runs_and_numbers_apart():
    base = {"test_id": "t.py::test_a", "run_id": "r", "worker": "gw0", "number": 0}
    others = [{"test_id": "t.py::test_b"}, {"run_id": "s"}, {"worker": "gw1"}, {"number": 1}]
    names = {generated_name(**{**base, **other}) for other in [{}, *others]}
    assert len(names) == 5
    assert generated_name(**base) == generated_name(**base)
    assert generated_name(**base).startswith("test-a-")


def test_generated_names_of_long_ids_that_differ_at_the_end_differ():
    names = {generated_name("t.py::" + "x" * 200 + end, run_id="r") for end in "ab"}
    assert len(names) == 2


def test_a_marker_name_says_worker_and_number():
    assert marker_name("box", "gw3", 2, 63) == "box-gw3-2"


def test_a_long_marker_name_is_shortened_and_stays_unique():
    first, second = (marker_name("x" * 60 + end, "gw3", 2, 63) for end in "ab")
    assert first != second
    assert first.endswith("-gw3-2")
    assert len(first) <= 63


def test_a_marker_name_that_is_no_label_is_not_repaired():
    with pytest.raises(InvalidName):
        marker_name("a/b", "gw0", 1, 63)
