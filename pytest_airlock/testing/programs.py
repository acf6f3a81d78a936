"""The programs that a fake sandbox has in /usr/bin. They do what the real ones do, for the few words listed here."""

from __future__ import annotations

import errno
import os
import re
import signal as signals

from pytest_airlock.providers.base import FileStat
from pytest_airlock.testing.process import Context, Program, signal_number
from pytest_airlock.testing.shell import sh

__all__ = ["BUILTIN"]

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "0": "\0"}
_USERS = {"root": 0, "airlock": 1000}
_SUFFIX = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def _complain(context: Context, error: OSError, path: str) -> int:
    context.err(f"{context.argv[0]}: {path}: {error.strerror}\n")
    return 1


def _split(context: Context, allowed: str) -> tuple[set[str], list[str]]:
    """Flags (single letters) and operands."""
    flags: set[str] = set()
    words = list(context.argv[1:])
    while words and words[0].startswith("-") and len(words[0]) > 1:
        word = words.pop(0)
        if word == "--":
            break
        flags |= set(word[1:]) & set(allowed)
    return flags, words


def true(_: Context) -> int:
    return 0


def false(_: Context) -> int:
    return 1


def echo(context: Context) -> int:
    words = list(context.argv[1:])
    end = "\n"
    if words and words[0] == "-n":
        words, end = words[1:], ""
    context.out(" ".join(words) + end)
    return 0


def printf(context: Context) -> int:
    r"""FORMAT with %s, %%, and the escapes \n \t \r \\ \0 \ooo \xHH; repeated while arguments are left (POSIX)."""
    if len(context.argv) < 2:
        context.err("printf: missing operand\n")
        return 2
    words = list(context.argv[2:])
    made = bytearray()
    while True:
        before = len(words)
        for match in re.finditer(r"\\x([0-9a-fA-F]{2})|\\([0-7]{3})|\\(.)|%(.)|([^\\%]+)", context.argv[1], re.DOTALL):
            code, octal, escape, directive, plain = match.groups()
            if code or octal:
                made.append(int(code, 16) if code else int(octal, 8))
            elif escape:
                made += os.fsencode(_ESCAPES.get(escape, "\\" + escape))
            elif directive == "s":
                made += os.fsencode(words.pop(0) if words else "")
            else:
                made += os.fsencode("%" if directive == "%" else plain or "")
        if not words or len(words) == before:
            break
    context.out(bytes(made))
    return 0


def cat(context: Context) -> int:
    status = 0
    for path in context.argv[1:] or ("-",):
        if path == "-":
            while data := context.read():
                context.out(data)
            continue
        try:
            where = context.at(path)
            kind = context.files.stat(where).kind
            if kind == "fifo":
                context.sleep(None)  # nobody writes
            if kind != "char":
                context.out(context.files.read(where, limit=1 << 40))
        except OSError as error:
            status = _complain(context, error, path)
    return status


def env(context: Context) -> int:
    for name, value in context.env.items():
        context.out(f"{name}={value}\n")
    return 0


def pwd(context: Context) -> int:
    context.out(context.cwd + "\n")
    return 0


def sleep(context: Context) -> int:
    context.sleep(None if context.argv[1] == "infinity" else float(context.argv[1]))
    return 0


def kill(context: Context) -> int:
    words = list(context.argv[1:])
    number = int(signals.SIGTERM)
    try:
        if words and words[0] == "-s":
            number = signal_number(words[1])
            words = words[2:]
        elif words and words[0].startswith("-"):
            number = signal_number(words.pop(0)[1:])
    except ValueError as error:
        context.err(f"kill: {error}\n")
        return 2
    status = 0
    for word in words:
        target = next((task for task in context.world.living() if str(task.pid) == word), None)
        if target is None:
            context.err(f"kill: {word}: No such process\n")
            status = 1
        else:
            context.world.send(target, number)
    context.task.check()
    return status


def rm(context: Context) -> int:
    flags, paths = _split(context, "rf")
    status = 0
    for path in paths:
        try:
            if "r" not in flags and context.files.stat(context.at(path), follow_symlinks=False).kind == "dir":
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            context.files.remove(context.at(path), tree=True)
        except OSError as error:
            if not ("f" in flags and error.errno == errno.ENOENT):
                status = _complain(context, error, path)
    return status


def rmdir(context: Context) -> int:
    status = 0
    for path in context.argv[1:]:
        try:
            context.files.remove(context.at(path))
        except OSError as error:
            status = _complain(context, error, path)
    return status


def mkdir(context: Context) -> int:
    flags, paths = _split(context, "p")
    status = 0
    for path in paths:
        whole = context.at(path)
        above = [whole[:end] for end in (m.start() for m in re.finditer("/", whole)) if end] if "p" in flags else []
        for step in (*above, whole):
            try:
                context.files.mkdir(step)
            except OSError as error:
                if not ("p" in flags and error.errno == errno.EEXIST):
                    status = _complain(context, error, path)
    return status


def ln(context: Context) -> int:
    _, words = _split(context, "s")
    try:
        context.files.symlink(context.at(words[1]), words[0])
    except OSError as error:
        return _complain(context, error, words[1])
    return 0


def mv(context: Context) -> int:
    try:
        context.files.rename(context.at(context.argv[1]), context.at(context.argv[2]))
    except OSError as error:
        return _complain(context, error, context.argv[1])
    return 0


def mkfifo(context: Context) -> int:
    try:
        context.files.special(context.at(context.argv[1]), "fifo")
    except OSError as error:
        return _complain(context, error, context.argv[1])
    return 0


def touch(context: Context) -> int:
    status = 0
    for path in context.argv[1:]:
        try:
            context.files.write(context.at(path), b"", append=True)
        except OSError as error:
            status = _complain(context, error, path)
    return status


def chmod(context: Context) -> int:
    """Octal modes only."""
    try:
        context.files.chmod(context.at(context.argv[2]), int(context.argv[1], 8))
    except OSError as error:
        return _complain(context, error, context.argv[2])
    return 0


def truncate(context: Context) -> int:
    """truncate -s SIZE[KMGT] FILE: a sparse file."""
    number, unit = re.fullmatch(r"(\d+)([KMGT]?)", context.argv[2]).groups()  # type: ignore[union-attr]
    context.files.truncate(context.at(context.argv[3]), int(number) * _SUFFIX[unit])
    return 0


def head(context: Context) -> int:
    """head -c N FILE, /dev/zero included."""
    left, path = int(context.argv[2]), context.at(context.argv[3])
    if path != "/dev/zero":
        context.out(context.files.read(path, limit=1 << 40)[:left])
        return 0
    while left > 0:
        context.out(bytes(min(left, 65_536)))
        left -= 65_536
    return 0


def yes(context: Context) -> int:
    block = b"y\n" * 8192
    while True:
        context.out(block)


def user_id(context: Context) -> int:
    """id -u, id -un."""
    flags, _ = _split(context, "un")
    context.out(f"{context.user if 'n' in flags else _USERS[context.user]}\n")
    return 0


def test(context: Context) -> int:
    """-e -f -d -L -x -s PATH, -n -z TEXT, A = B, A != B."""
    words = list(context.argv[1:])
    if context.argv[0].endswith("["):
        words.pop()
    if len(words) == 3:
        return int((words[0] == words[2]) != (words[1] == "="))
    if len(words) != 2:
        return int(not (words and words[0]))
    flag, word = words
    if flag in ("-n", "-z"):
        return int(bool(word) != (flag == "-n"))
    try:
        return int(not _is(flag, context.files.stat(context.at(word), follow_symlinks=flag != "-L")))
    except OSError:
        return 1


def _is(flag: str, found: FileStat) -> bool:
    return {
        "-e": True,
        "-f": found.kind == "file",
        "-d": found.kind == "dir",
        "-L": found.kind == "symlink",
        "-x": bool(found.mode & 0o111),
        "-s": found.size > 0,
    }[flag]


def setsid(context: Context) -> int:
    """A session of its own means nothing here; a program that starts another one does."""
    return context.task.wait(context.world.start_program(context, tuple(context.argv[1:]), parent=context.task))


def getent(context: Context) -> int:
    """getent hosts NAME: an attempt to use the network, 2 if it is refused (getent(1))."""
    if not context.world.hosts("dns", context.argv[2], 53):
        return 2
    context.out(f"192.0.2.1       {context.argv[2]}\n")
    return 0


BUILTIN: dict[str, Program] = {
    "[": test, "cat": cat, "chmod": chmod, "echo": echo, "env": env, "false": false, "getent": getent, "head": head,
    "id": user_id, "kill": kill, "ln": ln, "mkdir": mkdir, "mkfifo": mkfifo, "mv": mv, "printf": printf, "pwd": pwd,
    "rm": rm, "rmdir": rmdir, "setsid": setsid, "sh": sh, "sleep": sleep, "test": test, "touch": touch, "true": true,
    "truncate": truncate, "yes": yes,
}  # fmt: skip
