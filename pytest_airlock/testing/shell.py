"""`sh` of a fake sandbox: a documented tiny subset, everything else is refused with status 2.

Lists of simple commands joined by `;`, newline, `&`, `&&`, `||`; single and double quotes, backslash; `$NAME`,
`${NAME}`, `$$`, `$!`, `$?`, `$#`, `$0` to `$9`, a lone `"$@"`; `NAME=value`; redirections `<`, `>`, `>>`, `2>`, `2>>`, `2>&1`, `>&2`;
`cd`, `exit`, `trap`, `wait`, `exec`, `export`, `:` besides the programs of the sandbox. No field splitting, globs, pipes,
substitutions, groups or control structures.
"""

from __future__ import annotations

import os
import re
import signal as signals
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pytest_airlock.testing.process import Context, Task, signal_number
from pytest_airlock.testing.streams import Nothing, Redirected, Stream

__all__ = ["sh"]

_TOKEN = re.compile(
    r"""(?P<blank>[ \t]+|\\\n|(?<![^\s;&])\#[^\n]*)
      | (?P<redirect>2>&1|[12]?>&2|[012]?>>|[012]?>|<)
      | (?P<op>&&|\|\||;|&|\n)
      | (?P<refused>[|()`{}]|\$\()
      | (?P<word>(?:'[^']*'|"(?:\\.|[^"\\`])*"|\\.|\$\{\w+\}|\$(?!\()|[^\s;&|<>()`{}'"\\$])+)""",
    re.VERBOSE | re.DOTALL,
)
_PIECE = re.compile(
    r"""'(?P<single>[^']*)'|"(?P<double>(?:\\.|[^"\\])*)"|\\(?P<escaped>.)|(?P<bare>[^'"\\]+)""", re.DOTALL
)
_VARIABLE = re.compile(r"\\([$\"\\`])|\$(?:\{(\w+)\}|([A-Za-z_]\w*|[0-9$!?#]))")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=", re.ASCII)
_CONTROL = frozenset({"if", "while", "until", "for", "case", "function", "!"})


class Exit(Exception):
    def __init__(self, status: int) -> None:
        self.status = status


class Refused(Exception):
    """Outside the subset."""


@dataclass
class Simple:
    """One simple command; `joined` is the operator before it."""

    joined: str = ";"
    words: list[str] = field(default_factory=list)
    redirects: list[tuple[str, str]] = field(default_factory=list)
    background: bool = False


def parse(script: str) -> list[Simple]:
    made = [Simple()]
    at = 0
    pending = ""
    while at < len(script):
        match = _TOKEN.match(script, at)
        if match is None or match["refused"]:
            raise Refused(script[at : at + 20])
        at = match.end()
        here = made[-1]
        if redirect := match["redirect"]:
            if "&" in redirect:
                here.redirects.append((redirect, ""))
            else:
                pending = redirect
        elif word := match["word"]:
            if pending:
                here.redirects.append((pending, word))
                pending = ""
            elif not here.words and word in _CONTROL:
                raise Refused(word)
            else:
                here.words.append(word)
        elif op := match["op"]:
            here.background = op == "&"
            made.append(Simple(op if op in ("&&", "||") else ";"))
    return [command for command in made if command.words or command.redirects]


class Shell:
    """One running sh."""

    def __init__(self, context: Context, arguments: Sequence[str]) -> None:
        self.context = context
        self.arguments = list(arguments)
        self.status = 0
        self.last: Task | None = None
        self.jobs: list[Task] = []

    def run(self, script: str) -> int:
        try:
            commands = parse(script)
        except Refused as error:
            self.context.err(f"sh: {str(error)!r} is outside the subset of the fake sh\n")
            raise Exit(2) from None
        for command in commands:
            if (command.joined == "&&" and self.status) or (command.joined == "||" and not self.status):
                continue
            self.status = self.simple(command)
            self.context.task.check()  # a trap runs when the command before it is over, the last one's too
        return self.status

    def simple(self, command: Simple) -> int:
        first = next((i for i, word in enumerate(command.words) if not _ASSIGNMENT.match(word)), len(command.words))
        words = [text for word in command.words[first:] for text in self.expand(word)]
        inner = self.context.clone(self.context.task, tuple(words))
        for word in command.words[:first]:
            name, _, value = word.partition("=")
            (inner if words else self.context).env[name] = "".join(self.expand(value))
        try:
            if status := self.redirect(inner, command):
                return status
            return self.execute(inner, words, background=command.background) if words else 0
        finally:
            inner.close()

    def execute(self, inner: Context, words: list[str], *, background: bool) -> int:
        special = _SPECIAL.get(words[0])
        if special and not background:
            return special(self, inner)
        program = inner.world.programs.get(words[0])
        if program and words[0] in _IN_SHELL and not background:
            result = program(inner)
            return result if isinstance(result, int) else 0
        try:
            child = inner.world.start_program(inner, tuple(words), self.context.task)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            inner.err(f"sh: 1: {words[0]}: {'not found' if missing else error.strerror}\n")
            return 127 if missing else 126
        if background:
            self.last = child
            self.jobs.append(child)
            return 0
        return _status(self.context.task.wait(child))

    def redirect(self, inner: Context, command: Simple) -> int:
        if command.background:
            _replace(inner, "stdin", Nothing())
        for operator, word in command.redirects:
            if operator == "2>&1":
                _replace(inner, "stderr", inner.stdout.dup())
            elif operator.endswith(">&2"):
                _replace(inner, "stdout", inner.stderr.dup())
            else:
                name = "stdin" if operator == "<" else "stderr" if operator.startswith("2") else "stdout"
                path = self.expand(word)[0]
                try:
                    _replace(inner, name, self.open(path, operator))
                except OSError as error:
                    self.context.err(f"sh: 1: cannot open {path}: {error.strerror}\n")
                    return 2
        return 0

    def open(self, path: str, operator: str) -> Stream:
        files, whole = self.context.files, self.context.at(path)
        if whole == "/dev/null":
            return Nothing()
        if operator == "<":
            files.stat(whole)
        else:
            files.write(whole, b"", append=True)
            if not operator.endswith(">>"):
                files.truncate(whole, 0)
        return Redirected(files, whole)

    def expand(self, word: str) -> list[str]:
        if word in ('"$@"', "$@"):
            return self.arguments[1:]
        made = ""
        for piece in _PIECE.finditer(word):
            if piece["single"] is not None:
                made += piece["single"]
            elif piece["escaped"] is not None:
                made += piece["escaped"]
            else:
                text = piece["double"] if piece["double"] is not None else piece["bare"]
                made += _VARIABLE.sub(lambda found: found[1] or self.value(found[2] or found[3] or ""), text)
        return [made] if made or any(quote in word for quote in "'\"\\") else []

    def value(self, name: str) -> str:
        if name.isdecimal():
            return self.arguments[int(name)] if int(name) < len(self.arguments) else ""
        own: dict[str, Callable[[], object]] = {
            "$": lambda: self.context.task.pid,
            "!": lambda: self.last.pid if self.last else "",
            "?": lambda: self.status,
            "#": lambda: len(self.arguments) - 1,
        }
        return str(own[name]()) if name in own else self.context.env.get(name, "")

    def cd(self, inner: Context) -> int:
        path = inner.at(inner.argv[1] if len(inner.argv) > 1 else inner.env.get("HOME", "/"))
        try:
            place = inner.files.resolve(path)
            if place.node is None or place.node.kind != "dir":
                raise FileNotFoundError(path)
        except OSError:
            inner.err(f"sh: 1: cd: can't cd to {path}\n")
            return 2
        self.context.cwd = place.path
        return 0

    def exit(self, inner: Context) -> int:
        raise Exit(int(inner.argv[1]) & 0xFF if len(inner.argv) > 1 else self.status)

    def export(self, inner: Context) -> int:
        self.context.env.update(word.split("=", 1) for word in inner.argv[1:] if "=" in word)  # type: ignore[misc]
        return 0

    def colon(self, _: Context) -> int:
        return 0

    def exec(self, inner: Context) -> int:
        program, inner.argv = inner.world.find(inner.argv[1:], inner.env, inner.cwd)
        result = program(inner)
        raise Exit(result if isinstance(result, int) else 0)

    def wait(self, inner: Context) -> int:
        chosen = [job for job in self.jobs if str(job.pid) in inner.argv[1:]] if len(inner.argv) > 1 else self.jobs
        status = 0
        for job in chosen:
            status = _status(self.context.task.wait(job, signals=True))
        return status if len(inner.argv) > 1 else 0

    def trap(self, inner: Context) -> int:
        text, task = inner.argv[1], self.context.task
        for word in inner.argv[2:]:
            number = signal_number(word)
            task.ignored.discard(number)
            task.handlers.pop(number, None)
            if text == "":
                task.ignored.add(number)
            elif text != "-":
                task.handlers[number] = lambda: self._handle(text)
        return 0

    def _handle(self, text: str) -> None:
        self.run(text)


_SPECIAL: dict[str, Callable[[Shell, Context], int]] = {
    ":": Shell.colon, "cd": Shell.cd, "exec": Shell.exec, "exit": Shell.exit, "export": Shell.export,
    "trap": Shell.trap, "wait": Shell.wait,
}  # fmt: skip
_IN_SHELL = frozenset({"[", "echo", "false", "kill", "printf", "pwd", "test", "true"})


def _replace(context: Context, name: str, stream: Stream) -> None:
    getattr(context, name).close()
    setattr(context, name, stream)


def _status(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode


def sh(context: Context) -> int:
    """sh -c SCRIPT [NAME [ARGUMENT…]], sh FILE [ARGUMENT…], or the script on standard input."""
    words = list(context.argv[1:])
    if words and words[0] == "-c":
        script, arguments = words[1], words[2:] or ["sh"]
    elif words:
        path = context.at(words[0])
        script, arguments = os.fsdecode(context.files.read(path, limit=1 << 24)), words
    else:
        made = bytearray()
        while data := context.read():
            made += data
        script, arguments = os.fsdecode(bytes(made)), ["sh"]
    if script.startswith("#!"):
        script = script.partition("\n")[2]
    try:
        return Shell(context, arguments).run(script)
    except Exit as done:
        return done.status
    except BrokenPipeError:
        return 128 + signals.SIGPIPE
