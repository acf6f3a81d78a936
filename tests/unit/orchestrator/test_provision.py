"""Provisioning commands: the allow-list of text, and boundaries proved by executing."""

from __future__ import annotations

import json
import string
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_airlock.errors import InvalidSpec, ProvisionForbidden
from pytest_airlock.orchestrator.policy.provision import MAX_CHARACTERS, MAX_COMMANDS, layer_key, resolve_commands

ALLOWED = string.ascii_letters + string.digits + " \t\n_./:=~+@#,-"
TELL = [
    sys.executable,
    "-I",
    "-c",
    "import json, os, sys; print(json.dumps([os.fsencode(a).hex() for a in sys.argv[1:]]))",
]
NASTY = [
    "two words",
    "'single'",
    '"double"',
    "x;echo y",
    "$(touch /never)",
    "`id`",
    "${HOME}",
    "line\nbreak",
    "*",
    "[a-z]?",
    "",
    "-e",
    "--",
    "\\",
    "a\\nb",
    "tab\there",
    "!history",
    "~",
    "#no comment",
    "ünïcode",
    "caf\udce9",
    " lead and trail ",
    "|&><(){}",
]


def told(argv):
    done = subprocess.run(argv, check=True, capture_output=True, timeout=30)
    return [bytes.fromhex(text).decode("utf-8", "surrogateescape") for text in json.loads(done.stdout)]


def test_r42_text_runs_in_a_posix_shell():
    assert resolve_commands(["make all"]) == (("/bin/sh", "-c", "make all"),)


@pytest.mark.parametrize("character", ALLOWED)
def test_r42_every_allowed_character_passes(character):
    assert resolve_commands([f"x{character}x"])[0][2] == f"x{character}x"


@pytest.mark.parametrize(
    "character", sorted({chr(code) for code in range(256)} - set(ALLOWED)) + ["\u2028", "а", "＄", "\ud800"]
)
def test_r42_every_other_character_is_refused_and_named(character):
    with pytest.raises(ProvisionForbidden) as caught:
        resolve_commands([f"x{character}"])
    assert f"{character!r} (character 2)" in caught.value.why
    assert "as a list" in caught.value.hint


def test_r42_a_newline_at_the_end_opens_no_gap():
    with pytest.raises(ProvisionForbidden):
        resolve_commands(["x\n;"])


def test_r42_at_most_ten_texts():
    assert len(resolve_commands(["true"] * MAX_COMMANDS)) == MAX_COMMANDS == 10
    with pytest.raises(ProvisionForbidden, match="at most 10"):
        resolve_commands(["true"] * (MAX_COMMANDS + 1))


def test_r42_argv_lists_do_not_count():
    commands = [["true"]] * 20 + ["true"] * MAX_COMMANDS
    assert len(resolve_commands(commands)) == 30


def test_r42_at_most_4096_characters():
    assert resolve_commands(["x" * MAX_CHARACTERS])[0][2] == "x" * 4096
    with pytest.raises(ProvisionForbidden, match="4097 characters"):
        resolve_commands(["x" * (MAX_CHARACTERS + 1)])


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_r42_an_empty_text_is_refused(text):
    with pytest.raises(ProvisionForbidden, match="empty"):
        resolve_commands([text])


@pytest.mark.parametrize("text", ["-x", "+x", "--help"])
def test_r42_a_text_is_never_an_option_of_the_shell(text):
    with pytest.raises(ProvisionForbidden, match="option"):
        resolve_commands([text])


@pytest.mark.parametrize("argv", [[], [""], ["x", "a\0b"]])
def test_r42_an_argv_that_cannot_be_executed_is_refused(argv):
    with pytest.raises(InvalidSpec):
        resolve_commands([argv])


def test_r43_argv_reaches_the_program_argument_by_argument():
    (argv,) = resolve_commands([[*TELL, *NASTY]])
    assert told(argv) == NASTY


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=5))
@settings(deadline=None, max_examples=20)
def test_r43_any_argv_reaches_the_program(arguments):
    (argv,) = resolve_commands([[*TELL, *arguments]])
    assert told(argv) == arguments


def test_r43_text_reaches_the_shell_as_one_argument_and_splits_at_white_space_only(tmp_path):
    program = tmp_path / "tell"
    program.write_text(f'#!/bin/sh\nexec {" ".join(map(repr_for_shell, TELL))} "$@"\n')
    program.chmod(0o755)
    words = ["a=1", "b:c", "x,y", "u@h", "1+1", "-v", "--long=opt", "../p", "m#n"]
    (argv,) = resolve_commands([f"{program}\t{'  '.join(words)}"])
    assert told(argv) == words


def test_r43_no_text_that_passes_can_write_substitute_or_match_files(tmp_path):
    """Everything of a shell's grammar that needs a character outside the list cannot be said at all."""
    for text in [
        "echo x > f",
        "echo $HOME",
        "echo `id`",
        "echo *",
        "echo a; echo b",
        "a & b",
        "a | b",
        "echo 'x'",
        "(a)",
        "a\\\nb",
    ]:
        with pytest.raises(ProvisionForbidden):
            resolve_commands([text])


def test_r43_lines_of_a_text_are_commands_of_one_shell(tmp_path):
    (argv,) = resolve_commands([f"cd {tmp_path}\nmkdir made"])
    subprocess.run(argv, check=True, timeout=30)
    assert (tmp_path / "made").is_dir()


def repr_for_shell(text):
    return "'" + text.replace("'", "'\\''") + "'"


def test_r15_equal_content_has_an_equal_key_whatever_its_order():
    commands = resolve_commands(["make", ["x", "y"]])
    assert layer_key(commands, {"image": "host", "user": "root"}) == layer_key(
        commands, {"user": "root", "image": "host"}
    )


def test_r15_every_difference_makes_another_key():
    context = {"image": "host"}
    keys = [
        layer_key([("a", "b")], context),
        layer_key([("ab",)], context),
        layer_key([("a",), ("b",)], context),
        layer_key([("b", "a")], context),
        layer_key([("a", "b")], {"image": "other"}),
        layer_key([], context),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 for key in keys)
