"""diff(): comparable with plain sets, without noise, readable when it fails."""

from __future__ import annotations

import pickle

import pytest

from pytest_airlock.errors import SnapshotNotFound, StaleSandbox
from pytest_airlock.providers.base import Change
from pytest_airlock.sandbox import DEFAULT_IGNORE, ChangedPath, Diff
from pytest_airlock.sandbox.diff import collect


def test_one_new_file_is_one_path(box):
    box.shell("echo '#!/bin/sh' > /usr/local/bin/tool; chmod 755 /usr/local/bin/tool")
    diff = box.diff()
    assert diff.added == {"/usr/local/bin/tool"}
    assert not diff.modified
    assert not diff.deleted
    [path] = diff.added
    assert (path.type, path.size, path.mode) == ("file", 10, 0o755)


def test_parents_that_were_made_are_listed(box):
    box.run(["mkdir", "-p", "/opt/a/b"])
    assert box.diff() == Diff(added={"/opt/a", "/opt/a/b"})


def test_modified_and_deleted(box):
    box.shell("echo x >> /etc/hosts; rm /etc/passwd")
    assert box.diff() == Diff(modified={"/etc/hosts"}, deleted={"/etc/passwd"})


def test_noise_is_left_out_unless_asked_for(box):
    box.shell("echo x > /tmp/t; mkdir -p /opt/__pycache__; touch /opt/__pycache__/m.pyc; touch /run/x")
    assert not box.diff()
    everything = box.diff(ignore=())
    assert {"/tmp/t", "/opt/__pycache__", "/opt/__pycache__/m.pyc", "/run/x"} == everything.added
    assert {"/tmp", "/opt", "/run"} == everything.modified


def test_ignoring_more(box):
    box.shell("mkdir /var/log; touch /var/log/a; touch /opt/x.log /opt/x.txt")
    assert box.diff(ignore=(*DEFAULT_IGNORE, "/var/log", "*.log")).added == {"/opt/x.txt"}
    with pytest.raises(TypeError, match="sequence"):
        box.diff(ignore="/var")


@pytest.mark.parametrize(
    ("path", "ignore", "left_out"),
    [
        ("/tmp", "/tmp", True),
        ("/tmp/a/b", "/tmp", True),
        ("/tmpfile", "/tmp", False),
        ("/var/tmp", "/tmp", False),
        ("/a/__pycache__/b", "__pycache__", True),
        ("/a/x__pycache__", "__pycache__", False),
        ("/a/b.log", "*.log", True),
        ("/a/b.log/c", "*.log", True),
        ("/a/b.logs", "*.log", False),
        ("/var/cache/x", "/var/*/x", True),
        ("/var/a/b/x", "/var/*/x", False),
        ("/a+b", "/a+b", True),
        ("/aab", "/a+b", False),
        ("/x\ny/z", "/x?y", True),
    ],
)
def test_what_a_word_of_ignore_matches(path, ignore, left_out):
    assert (not collect([Change("added", path, "file")], (ignore,))) is left_out


def test_since_a_snapshot(box):
    box.run(["touch", "/opt/before"])
    snapshot = box.snapshot()
    box.run(["touch", "/opt/after"])
    assert box.diff(since=snapshot).added == {"/opt/after"}
    assert box.diff().added == {"/opt/before", "/opt/after"}
    box.restore(snapshot)
    assert not box.diff(since=snapshot)


def test_a_snapshot_of_another_sandbox_is_refused(box, other):
    with pytest.raises(SnapshotNotFound, match="belongs to sandbox 'other'"):
        box.restore(other.snapshot())


def test_a_snapshot_of_an_earlier_hand_out_is_stale(box, other):
    snapshot = other.snapshot()
    other._backend.stale = True
    with pytest.raises(StaleSandbox):
        box.diff(since=snapshot)


def test_text_names_every_path_and_escapes_it():
    diff = Diff(
        added={ChangedPath("/a\x1b[31m", "file", 1234, 0o755)},
        modified={ChangedPath("/d", "dir", 0, 0o700)},
        deleted={"/x"},
    )
    assert str(diff) == "added    /a\\x1b[31m (file, 1,234 bytes, 0755)\nmodified /d (dir, 0700)\ndeleted  /x"
    assert str(Diff()) == "no changes"


def test_a_failing_comparison_is_readable(pytester):
    pytester.makepyfile(
        """
        from pytest_airlock.sandbox import ChangedPath, Diff

        def test_it():
            diff = Diff(added={ChangedPath("/usr/bin/tool"), ChangedPath("/usr/bin/extra")})
            assert diff.added == {"/usr/bin/tool"}
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:airlock")
    result.stdout.fnmatch_lines(["*Extra items in the left set:*", "*'/usr/bin/extra'*"])


def test_a_changed_path_is_its_text_and_keeps_its_facts_through_pickle():
    path = pickle.loads(pickle.dumps(ChangedPath("/a", "symlink", 3, 0o777)))
    assert path == "/a"
    assert hash(path) == hash("/a")
    assert (path.type, path.size, path.mode) == ("symlink", 3, 0o777)


def test_a_diff_of_very_many_paths_is_shown_in_part():
    added = frozenset(ChangedPath(f"/{number:06}") for number in range(100_000))
    text = str(Diff(added))
    assert len(text) < 2 * 1024 * 1024
    shown = text.count("\n")
    assert text.endswith(f"\n[… {100_000 - shown:,} more …]")
