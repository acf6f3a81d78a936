"""Interleaving, medians and ratios."""

from __future__ import annotations

import pytest
from contestants import Absence, Contestants
from measure import Group, Samples, interleave
from process_tree import kernel_memory
from scale import Crowd, window
from units import number_text, size_text, time_text


def recorder(log, name):
    def case():
        log.append(name)
        return float(len(log))

    return case


def test_every_case_runs_once_in_every_round():
    log = []
    groups = [Group({name: recorder(log, name)}) for name in "abc"]
    samples = interleave(groups, rounds=4, warmups=0)
    assert [sorted(log[start : start + 3]) for start in range(0, 12, 3)] == [["a", "b", "c"]] * 4
    assert all(list(samples[name].values) == [0, 1, 2, 3] for name in "abc")


def test_groups_run_in_an_order_that_changes():
    log = []
    interleave([Group({name: recorder(log, name)}) for name in "abcd"], rounds=8, warmups=0)
    assert len({tuple(log[start : start + 4]) for start in range(0, 32, 4)}) > 1


def test_cases_of_a_group_keep_their_order():
    log = []
    group = Group({name: recorder(log, name) for name in ("create", "run", "destroy")})
    interleave([group, Group({"other": lambda: 1.0})], rounds=3, warmups=0)
    assert log == ["create", "run", "destroy"] * 3


def test_warm_ups_do_not_count():
    log = []
    samples = interleave([Group({"a": recorder(log, "a")})], rounds=2, warmups=3)
    assert samples["a"].values == {0: 4.0, 1: 5.0}


def test_a_rare_group_begins_in_the_first_round_and_is_never_a_warm_up():
    log = []
    samples = interleave([Group({"rare": recorder(log, "rare")}, every=3)], rounds=7, warmups=3)
    assert list(samples["rare"].values) == [0, 3, 6]
    assert len(log) == 3


def test_progress_names_each_round():
    seen = []
    interleave([], rounds=2, warmups=1, progress=seen.append)
    assert seen == [-1, 0, 1]


def test_a_ratio_is_that_of_the_same_round():
    # Round 1 is disturbed: both take ten times as long, the ratio stays.
    mine, other = Samples("mine", {0: 2.0, 1: 20.0, 2: 2.0}), Samples("other", {0: 1.0, 1: 10.0, 2: 1.0})
    assert mine.ratio(other) == 2.0
    assert mine.difference(other) == 1.0


def test_a_rare_case_is_compared_in_its_own_rounds():
    assert Samples("rare", {0: 6.0, 3: 8.0}).ratio(Samples("often", {0: 2.0, 1: 100.0, 2: 100.0, 3: 2.0})) == 3.5


def test_cases_that_never_met_are_not_compared():
    with pytest.raises(ValueError, match=r"'a' and 'b' were never sampled in the same round"):
        Samples("a", {0: 1.0}).ratio(Samples("b", {1: 1.0}))


def test_median_and_percentiles():
    samples = Samples("a", dict(enumerate(map(float, range(1, 102)))))
    assert (samples.median, samples.percentile(10), samples.percentile(90)) == (51.0, 11.0, 91.0)


def test_the_percentile_of_one_value_is_that_value():
    assert Samples("a", {0: 7.0}).percentile(90) == 7.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(9.9e-6, "9.90 µs"), (1.5e-3, "1.50 ms"), (0.0123, "12.3 ms"), (0.123, "123 ms"), (61, "61.0 s")],
)
def test_times_are_told_in_the_unit_that_fits(seconds, text):
    assert time_text(seconds) == text


def test_sizes_and_numbers():
    assert (size_text(1_500_000), size_text(20_000), number_text(12345.6)) == ("1.50 MB", "20.0 kB", "12,346")


def test_a_contestant_that_does_not_work_is_named_with_its_reason_and_the_way_to_install_it():
    def find():
        raise RuntimeError("docker run ended with 125:\nCannot connect to the Docker daemon\n\n")

    found = Contestants()
    found.add("docker", "`apt install docker.io`", find)
    assert found.absent == {"docker": Absence("Cannot connect to the Docker daemon", "`apt install docker.io`")}
    assert found.groups == []
    assert found.versions == {}


def test_a_contestant_is_tried_before_it_is_measured():
    log = []
    found = Contestants()
    found.add("bwrap", "", lambda: ("0.8.0", Group({"bwrap true": recorder(log, "tried")})))
    assert log == ["tried"]
    assert (found.versions, found.absent, len(found.groups)) == ({"bwrap": "0.8.0"}, {}, 1)


def test_the_window_ends_at_its_number():
    values = [float(number) for number in range(1, 101)]
    assert (window(values, 1), window(values, 4), window(values, 100)) == (1.0, 2.5, 95.5)


def test_the_kernels_memory_of_one_sandbox_survives_a_burst_of_other_work():
    assert Crowd(held=[0, 2500, 5000, 900_000, 902_500, 905_000]).kernel == 100


def test_the_kernels_memory_is_slab_stacks_tables_percpu_and_shared_memory():
    meminfo = "MemTotal: 9 kB\nShmem: 1 kB\nSlab: 2 kB\nSReclaimable: 7 kB\nKernelStack: 4 kB\nPageTables: 8 kB\nPercpu: 16 kB\n"
    assert kernel_memory(meminfo) == 31 * 1024
