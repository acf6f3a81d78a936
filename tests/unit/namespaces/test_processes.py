"""Who has to die with a command: pure decisions on a list of processes, and the list itself."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from pytest_airlock.providers.namespaces.engine import processes
from pytest_airlock.providers.namespaces.engine.processes import Process, doomed


def process(pid, parent, started=100, state="S"):
    return Process(pid, parent, state, started, b"x")


CENSUS = processes.Census()
INIT = process(1, 0, 0)


def test_descendants_die_with_their_command():
    everybody = [INIT, process(2, 1), process(3, 2), process(4, 3), process(9, 1, started=5)]
    assert sorted(doomed(everybody, 2, 100, {2})) == [2, 3, 4]


def test_an_orphan_born_since_dies_with_its_children_and_an_older_one_lives():
    everybody = [INIT, process(2, 1), process(7, 1, started=100), process(8, 7, started=101), process(9, 1, started=99)]
    assert sorted(doomed(everybody, 2, 100, {2})) == [2, 7, 8]


def test_other_commands_and_what_they_started_are_no_orphans():
    everybody = [INIT, process(2, 1), process(5, 1, started=200), process(6, 5, started=201)]
    assert doomed(everybody, 2, 100, {2, 5}) == [2]


def test_the_dead_do_not_count_but_their_children_do():
    everybody = [INIT, process(2, 1, state="Z"), process(3, 2)]
    assert doomed(everybody, 2, 100, {2}) == [3]


def test_one_whose_first_thread_has_ended_dies_while_others_run():
    """proc_pid_stat(5) shows the state of the first thread: Z from its own end on, whatever the others do."""
    everybody = [
        INIT,
        process(2, 1),
        Process(3, 2, "Z", 100, b"x", threads=2),
        Process(4, 2, "Z", 100, b"x", threads=1),
    ]
    assert sorted(doomed(everybody, 2, 100, {2})) == [2, 3]


def test_a_look_at_everybody_ends_at_its_deadline():
    with pytest.raises(TimeoutError):
        CENSUS.scan(deadline=time.monotonic())
    assert os.getpid() in {process.pid for process in CENSUS.scan(deadline=time.monotonic() + 1000)}


def test_pid_1_never_dies_of_it_not_even_in_a_forged_circle():
    everybody = [process(1, 2, 0), process(2, 1), process(3, 3)]
    assert doomed(everybody, 2, 100, {2}) == [2]


def test_a_process_is_found_with_its_age_whatever_its_name_is():
    before = processes.now()
    with subprocess.Popen(
        ["/bin/sh", "-c", "printf 'a) b (c' > /proc/$$/comm; read line"], stdin=subprocess.PIPE
    ) as child:
        while (found := CENSUS.read(str(child.pid))) is not None and found.name != b"a) b (c":
            os.sched_yield()
        assert found is not None
        assert found.parent == os.getpid()
        assert before <= found.started <= processes.now()
        assert child.pid in {process.pid for process in CENSUS.alive()}
        child.stdin.close()
    assert CENSUS.read(str(child.pid)) is None
