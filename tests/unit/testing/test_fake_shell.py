"""The tiny sh of FakeProvider, against the real one: both must say the same wherever the fake one answers at all."""

from __future__ import annotations

import os
import subprocess

import pytest

from pytest_airlock.providers.base import Command, ProviderSpec
from pytest_airlock.testing import FakeProvider

SCRIPTS = [
    "echo hello", "echo 'a  b' \"c d\" e\\ f", "echo a; echo b", "echo a\necho b", "echo a # comment", "echo a#b",
    "exit 3", "false", "true; exit", "false; exit", "exit 300", "false && echo no; echo $?", "false || echo yes",
    "true && false || echo third", "nothing-there; echo $?", "A=1; echo $A ${A}x", "A='x y'; echo \"$A\"",
    "echo $NOT_SET.", "echo '$A' \"\\$A\" \\$A",
    "echo out; echo err >&2", "echo err 2>&1 >&2", "printf '%s-' a b; echo", r"printf '\101\n'", "printf '%%\\n'",
    "cd /; pwd", "cd /nowhere 2>/dev/null; echo $?", "echo x > f; cat f; echo y >> f; cat f", "cat < f; echo $?",
    "cat nothing 2>/dev/null; echo $?", "> empty; cat empty; test -e empty && echo there", "rm -f none; echo $?",
    "rm none 2>/dev/null; echo $?", "mkdir d; test -d d && echo dir; rm d 2>/dev/null; echo $?; rm -r d; test -e d; echo $?",
    "mkdir -p a/b/c; mkdir -p a/b; test -d a/b/c; echo $?", "ln -s there l; test -L l; echo $?; test -e l; echo $?",
    "touch t; test -s t; echo $?; chmod 755 t; test -x t; echo $?", "[ a = a ]; echo $?; [ a = b ]; echo $?; [ a != b ]; echo $?",
    "[ -n x ]; echo $?; [ -z x ]; echo $?; [ -z '' ]; echo $?", "head -c 3 /dev/zero; echo", "mv f1 f2 2>/dev/null; echo $?",
    "kill -9 $$", "kill -TERM $$", "kill -s HUP $$", "kill -0 $$; echo $?", "trap 'echo got; exit 4' TERM; kill $$; echo no",
    "trap '' TERM; kill $$; echo survived", "sh -c 'exit 5'; echo $?", "sh -c 'kill -9 $$'; echo $?", "exec sh -c 'echo in; exit 6'",
    "sleep 0.01 & wait; echo $?", "sh -c 'exit 7' & wait $!; echo $?", "sleep 0; echo $?", ": ; echo $?", 'echo "$#" "$1"',
    "sh -c 'echo $0 $1 $#' name 'a b'", "sh -c 'printf \"<%s>\" \"$@\"' name 'a b' c; echo", "true > /dev/null; echo $?",
    "echo 'it'\"'\"'s'", "export A=1; sh -c 'echo $A'", "cat - < f", "rmdir none 2>/dev/null; echo $?",
]  # fmt: skip
REFUSED = [
    "echo a | cat",
    "(echo a)",
    "echo $(id)",
    "echo `id`",
    "if true; then echo a; fi",
    "while true; do :; done",
    "{ echo a; }",
]


@pytest.fixture
def sh():
    provider = FakeProvider()
    handle = provider.create(ProviderSpec("box"))
    provider.start(handle)
    env = tuple(provider.environ(handle).items())

    def run(script):
        process = provider.spawn(handle, Command(("sh", "-c", script), env, "/tmp"))
        out = process.stdout.read()
        while data := process.stdout.read():
            out += data
        returncode = process.wait(20).returncode
        process.close()
        return returncode, out

    yield run
    provider.close()


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_says_what_the_real_sh_says(sh, script, tmp_path):
    env = {"PATH": os.defpath, "HOME": "/root"}
    real = subprocess.run(
        ["/bin/sh", "-c", script], cwd=tmp_path, env=env, capture_output=True, stdin=subprocess.DEVNULL, check=False
    )
    assert sh(script) == (real.returncode, real.stdout)


@pytest.mark.parametrize("script", REFUSED)
def test_what_is_outside_the_subset_is_refused(sh, script):
    assert sh(script) == (2, b"")
