"""Provisioning commands: what a spec may ask to be run before the clean snapshot, as argv (r42, r43)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence

from pytest_airlock.errors import InvalidSpec, ProvisionForbidden

__all__ = ["MAX_CHARACTERS", "MAX_COMMANDS", "layer_key", "resolve_commands"]

#: Limits of commands given as text; argv lists have neither.
MAX_COMMANDS = 10
MAX_CHARACTERS = 4096

_OUTSIDE = re.compile(r"[^A-Za-z0-9 \t\n_./:=~+@#,-]")
_ARGV_HINT = "give the command as a list: ['program', 'argument']; a list may hold anything"


def resolve_commands(provision: Sequence[str | Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Each command as argv: a list as it is, a text as `/bin/sh -c text`.

    A text may hold letters, digits, space, tab, newline and `_ . / : = ~ + @ # , -` only, so that no shell ever sees a
    quote, a substitution, a glob or a redirection. Raises ProvisionForbidden (text), InvalidSpec (argv).
    """
    texts = sum(isinstance(command, str) for command in provision)
    if texts > MAX_COMMANDS:
        raise ProvisionForbidden(
            "provision", f"{texts} texts", f"at most {MAX_COMMANDS} commands may be text", hint=_ARGV_HINT
        )
    return tuple(_from_text(command) if isinstance(command, str) else _from_argv(command) for command in provision)


def layer_key(commands: Sequence[Sequence[str]], context: Mapping[str, object]) -> str:
    """The content key (sha256, hex) of what `commands` make: equal keys, equal layers (r15).

    `context` is everything else that they can see: image, user, environment, network, digests of the files they read.
    Its values are JSON-able; order of its keys does not matter.
    """
    content = json.dumps([[list(argv) for argv in commands], dict(context)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def _from_text(text: str) -> tuple[str, ...]:
    if len(text) > MAX_CHARACTERS:
        raise ProvisionForbidden(
            "provision", text, f"it has {len(text)} characters, at most {MAX_CHARACTERS} may be text", hint=_ARGV_HINT
        )
    if not text.strip():
        raise ProvisionForbidden("provision", text, "the command is empty")
    if text[0] in "-+":
        raise ProvisionForbidden("provision", text, "it starts with - or +: the shell would take it for its own option")
    outside = _OUTSIDE.search(text)
    if outside:
        raise ProvisionForbidden(
            "provision",
            text,
            f"{outside[0]!r} (character {outside.start() + 1}) is none of letters, digits, white space, _./:=~+@#,-",
            hint=_ARGV_HINT,
        )
    return ("/bin/sh", "-c", text)


def _from_argv(command: Sequence[str]) -> tuple[str, ...]:
    argv = tuple(command)
    if not argv or not argv[0]:
        raise InvalidSpec("provision", list(argv), "a command names at least its program")
    for argument in argv:
        # execve(2) ends every argument at its first NUL: it would be cut in silence.
        if "\0" in argument:
            raise InvalidSpec("provision", list(argv), f"the argument {argument!r} has a NUL in it")
    return argv
