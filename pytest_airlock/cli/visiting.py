"""`airlock run NAME -- cmd …` and `airlock shell NAME`: into a sandbox of a live run, beside what runs there.

The exit status is the command's own, 128 + n for signal n, and as env(1) and timeout(1) have it 127 if there is no such
program, 126 if it cannot be executed, 125 if airlock failed.
"""

from __future__ import annotations

import argparse
import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from pytest_airlock.cli.common import Verbs, explain, managing, warn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_airlock.providers.attaching import Terminal, Visit
    from pytest_airlock.providers.base import Command, Exit, Process

__all__ = ["add_verbs"]

_FAILED, _NOT_EXECUTABLE, _NOT_FOUND = 125, 126, 127
_SHELLS: list[tuple[str, ...]] = [("bash",), ("sh",)]
_TERMINAL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]{0,62}")
#: Milliseconds for what a terminal still shows when its command has ended.
_REST = 1000


def add_verbs(verbs: Verbs) -> None:
    run = verbs.add_parser("run", help="run a command in a sandbox of a live run")
    run.set_defaults(verb=_run)
    shell = verbs.add_parser("shell", help="a shell, or another command, on a terminal in a sandbox of a live run")
    shell.set_defaults(verb=_shell)
    for verb in (run, shell):
        verb.add_argument("--user", choices=("root", "airlock"), help="default: the sandbox's own user")
        verb.add_argument("--cwd", metavar="DIR", help="default: the sandbox's own")
        verb.add_argument("--env", metavar="NAME=VALUE", action="append", default=[], type=_variable)
        verb.add_argument("name", metavar="NAME")
        verb.add_argument(
            "command", metavar="-- COMMAND", nargs=argparse.REMAINDER, help="the program and its arguments"
        )


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _run(arguments: argparse.Namespace) -> int:
    argv = _words(arguments)
    if not argv:
        warn("there is no command: airlock run [options] NAME -- COMMAND …")
        return 2
    return _visit(arguments, lambda visit: _stream(visit, [argv], arguments))


def _shell(arguments: argparse.Namespace) -> int:
    argv = _words(arguments)
    choice = [argv] if argv else _SHELLS
    if not os.isatty(0) or not os.isatty(1):  # a script on stdin, say: it is no conversation
        return _visit(arguments, lambda visit: _stream(visit, choice, arguments))
    return _visit(arguments, lambda visit: _converse(visit, choice, arguments))


def _words(arguments: argparse.Namespace) -> tuple[str, ...]:
    words = tuple(arguments.command)
    return words[1:] if words[:1] == ("--",) else words


def _visit(arguments: argparse.Namespace, what: Any) -> int:
    from pytest_airlock.errors import AirlockError

    try:
        with managing(arguments) as manager, closing(manager.attach(arguments.name)) as visit:
            return _status(what(visit))
    except FileNotFoundError as error:
        warn(f"there is no {error.filename} in sandbox {arguments.name!r}")
        return _NOT_FOUND
    except PermissionError as error:
        if isinstance(error, AirlockError) or error.filename == arguments.name:
            warn(f"sandbox {arguments.name!r} cannot be entered: {error.strerror or error}")
            return _FAILED
        warn(f"{error.filename} in sandbox {arguments.name!r} may not be executed")
        return _NOT_EXECUTABLE
    except BrokenPipeError:
        return 128 + signal.SIGPIPE  # nobody reads what it writes
    except (AirlockError, ValueError) as error:
        sys.stderr.write(explain(error))
        return _FAILED


def _status(end: Exit) -> int:
    return end.returncode if end.returncode >= 0 else 128 - end.returncode


def _started(
    start: Any, choice: list[tuple[str, ...]], environ: Mapping[str, str], arguments: Any, **words: Any
) -> Any:
    """The first command of `choice` that is there."""
    from pytest_airlock.providers.base import Command

    env = tuple({**environ, **dict(arguments.env)}.items())
    for number, argv in enumerate(choice, 1):
        command: Command = Command(argv, env, arguments.cwd, arguments.user, **words)
        try:
            return start(command)
        except FileNotFoundError as error:
            if number == len(choice) or error.filename != argv[0]:
                raise
    return None


def _stream(visit: Visit, choice: list[tuple[str, ...]], arguments: argparse.Namespace) -> Exit:
    """On pipes; Ctrl-C goes to the command, which decides what it means."""
    from pytest_airlock.sandbox.pump import Reader, Target, Writer, pump

    source = "null" if sys.stdin is None else "pipe"
    process: Process = _started(visit.spawn, choice, visit.environ, arguments, stdin=source)
    with closing(process), _signals({signal.SIGINT: lambda: process.send_signal(signal.SIGINT)}):
        streams = ((process.stdout, 1), (process.stderr, 2))
        readers = [Reader(stream.fileno(), None, Target(fd, "", "")) for stream, fd in streams if stream]
        return pump(process, readers, Writer(process.stdin, source=0) if process.stdin else None, None)


def _converse(visit: Visit, choice: list[tuple[str, ...]], arguments: argparse.Namespace) -> Exit:
    """On a terminal inside, of which ours is the window."""
    from pytest_airlock.sandbox.pump import Reader, Target, Writer, pump

    size = _size()
    environ = {**visit.environ, "TERM": _terminal_name()}
    terminal: Terminal = _started(lambda command: visit.terminal(command, size), choice, environ, arguments)
    actions = {
        signal.SIGWINCH: lambda: terminal.resize(_size()),
        signal.SIGTERM: lambda: sys.exit(128 + signal.SIGTERM),
        signal.SIGHUP: lambda: sys.exit(128 + signal.SIGHUP),
    }
    with closing(terminal), _signals(actions), _raw(0):
        shown = Reader(terminal.stdout.fileno(), None, Target(1, "", ""))
        end = pump(terminal, [shown], Writer(terminal.stdin, source=0), None)
        # Its last words may still be on their way through the terminal.
        poll = select.poll()
        poll.register(shown.fd, select.POLLIN)
        while poll.poll(_REST) and shown.pull(None):
            pass
        return end


def _terminal_name() -> str:
    name = os.environ.get("TERM", "")
    return name if _TERMINAL_NAME.fullmatch(name) else "dumb"


def _size() -> tuple[int, int]:
    columns, rows = os.get_terminal_size(0)
    return rows, columns


@contextmanager
def _raw(fd: int) -> Iterator[None]:
    """Every key goes inside, Ctrl-C too; the terminal is as before afterwards, whatever happens."""
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextmanager
def _signals(actions: Mapping[signal.Signals, Any]) -> Iterator[None]:
    before = {number: signal.signal(number, lambda *_, act=action: act()) for number, action in actions.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
