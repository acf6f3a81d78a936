"""From the words of subprocess to a provider's Command, and from its errors to those of subprocess."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Union

from pytest_airlock.providers.base import Command, Redirect
from pytest_airlock.sandbox.paths import SandboxPath

__all__ = ["Argument", "Arguments", "arguments", "build", "explain", "redirect"]

Argument = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]", SandboxPath]
Arguments = Argument | Sequence[Argument]


def _word(value: Argument) -> str:
    word = value if isinstance(value, str) else str(value) if isinstance(value, SandboxPath) else os.fsdecode(value)
    if "\0" in word:
        raise ValueError("embedded null byte")
    return word


def arguments(argv: Arguments) -> tuple[str, ...]:
    """One word is a program's name, as in subprocess without a shell."""
    if isinstance(argv, (str, bytes, SandboxPath, os.PathLike)):
        return (_word(argv),)
    words = tuple([_word(value) for value in argv])
    if not words:
        raise ValueError("argv is empty: its first item is the program to run")
    return words


def environment(env: Mapping[Any, Any]) -> tuple[tuple[str, str], ...]:
    made = tuple([(_word(name), _word(value)) for name, value in env.items()])
    for name, _ in made:
        if not name or "=" in name:
            raise ValueError(f"illegal environment variable name: {name!r}")
    return made


def build(
    argv: tuple[str, ...],
    env: Mapping[Any, Any],
    cwd: Argument | None,
    user: str | None,
    streams: tuple[Redirect, Redirect, Redirect],
) -> Command:
    return Command(argv, environment(env), None if cwd is None else _word(cwd), user, *streams)


def redirect(name: str, value: Any) -> Redirect:
    """The provider's word for an argument of subprocess; what is no constant is a file that the host pumps."""
    if value == subprocess.DEVNULL:
        return "null"
    if value == subprocess.STDOUT:
        if name != "stderr":
            raise ValueError("STDOUT can only be used for stderr")
        return "stdout"
    return "pipe"


def explain(error: OSError, name: str, argv: Arguments, command: Command) -> OSError:
    """The same error with a hint, where there is one to give."""
    program = command.argv[0]
    if error.errno not in (errno.ENOENT, errno.EACCES) or (command.cwd and error.filename == command.cwd):
        return error
    hint = ""
    if isinstance(argv, (str, bytes)) and len(program.split()) > 1:
        hint = "a str is one program name: pass a list, or use shell() for a command line"
    elif error.errno == errno.EACCES:
        hint = "it is there, but may not be executed: chmod it, or run it by its interpreter"
    elif found := _on_host(program):
        hint = f"the host has {found}: copy_in() it, mount it, or provision it"
    if not hint:
        return error
    text = f"{os.strerror(error.errno)} in sandbox {name!r} ({hint})"
    return type(error)(error.errno, text, error.filename or program)


def _on_host(program: str) -> str | None:
    if "/" not in program:
        return shutil.which(program)
    return program if Path(program).exists() else None
