"""Processes without processes: a program is a Python callable in a thread, its streams are real pipes.

The rules of a kernel that the contract speaks of are modelled: a process tree with orphans, inherited streams,
ignored and handled signals, SIGPIPE, ends that do not wait for the thread. No real process is ever started.
"""

from __future__ import annotations

import errno
import os
import select
import signal as signals
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from pytest_airlock.errors import SandboxDied
from pytest_airlock.providers.base import Exit
from pytest_airlock.testing.files import FakeFiles
from pytest_airlock.testing.streams import Stream

__all__ = ["MAGIC", "Context", "Program", "Task", "World", "signal_number"]

#: Signals that end nobody by default (signal(7)), and the one that only asks.
HARMLESS = frozenset({0, signals.SIGCHLD, signals.SIGURG, signals.SIGWINCH, signals.SIGCONT})
#: A program has to notice its end at its next call into the context within this many seconds.
END_LIMIT = 10.0
#: What the file of a fake program starts with; its name follows.
MAGIC = b"\x7fFAKE"


def signal_number(word: str) -> int:
    """`9`, `KILL` or `SIGKILL`; ValueError for what is none."""
    if word.isdecimal():
        return int(word)
    name = word.upper().removeprefix("SIG")
    if f"SIG{name}" not in signals.Signals.__members__:
        raise ValueError(f"{word}: invalid signal specification")
    return signals.Signals[f"SIG{name}"]


class Ended(BaseException):
    """The process has been killed: leave the program."""


@dataclass
class Context:
    """What a program is given: its arguments, environment, files and streams, and the calls that may wait."""

    task: Task
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    user: str
    stdin: Stream
    stdout: Stream
    stderr: Stream

    @property
    def world(self) -> World:
        return self.task.world

    @property
    def files(self) -> FakeFiles:
        """The sandbox's files; asking for them is a point where a killed program stops."""
        self.task.check()
        return self.world.files

    def at(self, path: str) -> str:
        return path if path.startswith("/") else f"{self.cwd.rstrip('/')}/{path}"

    def read(self, size: int = 65_536) -> bytes:
        return self.stdin.read(self.task, size)

    def out(self, data: str | bytes) -> None:
        self.stdout.write(self.task, os.fsencode(data) if isinstance(data, str) else data)

    def err(self, data: str | bytes) -> None:
        self.stderr.write(self.task, os.fsencode(data) if isinstance(data, str) else data)

    def sleep(self, seconds: float | None) -> None:
        """Real seconds, None for ever; a signal that ends or is handled comes through at once."""
        self.task.until(None, 0, seconds)

    def clone(self, task: Task, argv: tuple[str, ...]) -> Context:
        """The same for another task, with streams of its own."""
        return replace(
            self, task=task, argv=argv, env=dict(self.env),
            stdin=self.stdin.dup(), stdout=self.stdout.dup(), stderr=self.stderr.dup(),
        )  # fmt: skip

    def close(self) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            stream.close()


#: A program returns its exit status (None is 0), or a whole Exit to tell times and memory too.
Program = Callable[[Context], "int | Exit | None"]


class Task:
    """One process inside. Its end is known when `exit` is set, whatever its thread still does."""

    def __init__(self, world: World, pid: int, parent: Task | None, name: str) -> None:
        self.world = world
        self.pid = pid
        self.parent = parent
        self.orphan = False
        self.name = name
        self.exit: Exit | None = None
        self.lost = False
        self.ignored: set[int] = set(parent.ignored) if parent else set()
        self.handlers: dict[int, Callable[[], None]] = {}
        self.pending: list[int] = []
        self.thread: threading.Thread | None = None
        self.on_end: Callable[[], None] | None = None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._awake = True

    @property
    def over(self) -> bool:
        """It has ended, and its thread has let go of everything."""
        return self.exit is not None and self.thread is not None and not self.thread.is_alive()

    def check(self) -> None:
        """Leave if killed, run handlers of signals that came."""
        if self.exit is not None:
            raise Ended
        while self.pending:
            self.handlers.get(self.pending.pop(0), lambda: None)()

    def until(self, fd: int | None, events: int, seconds: float | None = None, *, signals: bool = True) -> None:
        """Wait for `fd`, for `seconds`, or for a signal."""
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        if fd is not None:
            poller.register(fd, events)
        if signals:
            self.check()
        ready = poller.poll(None if seconds is None else max(0.0, seconds) * 1000)
        if any(number == self._wake_read for number, _ in ready):
            os.read(self._wake_read, 4096)
        if signals or self.exit is not None:
            self.check()

    def wait(self, child: Task, *, signals: bool = False) -> int:
        """The child's return code; handlers wait for it too unless `signals`, as they do in a shell."""
        while child.exit is None:
            self.until(None, 0, None, signals=signals)
        return child.exit.returncode

    def wake(self) -> None:
        with self.world.lock:
            if self._awake:
                try:
                    os.write(self._wake_write, b"!")
                except BlockingIOError:
                    return  # full: it is awake

    def run(self, program: Program, context: Context) -> None:
        """The body of the thread. Streams close before the end is known, as in a kernel."""
        result: int | Exit | None = 1
        try:
            result = program(context)
        except Ended:
            result = self.exit
        finally:
            context.close()
            self.world.end(self, result if isinstance(result, Exit) else Exit(result or 0))
            with self.world.lock:
                self._awake = False
                os.close(self._wake_read)
                os.close(self._wake_write)


@dataclass
class World:
    """The processes of one start of a sandbox."""

    name: str
    files: FakeFiles
    programs: Mapping[str, Program]
    hosts: Callable[[str, str, int | None], bool] = lambda _protocol, _host, _port: False
    lock: threading.RLock = field(default_factory=threading.RLock)
    tasks: list[Task] = field(default_factory=list)
    alive: bool = True
    why: str = ""
    _last_pid: int = 1

    def start(self, program: Program, make: Callable[[Task], Context], parent: Task | None = None) -> Task:
        """Run `program` with the context that `make` builds for the new task."""
        with self.lock:
            if parent is not None:
                parent.check()
            if not self.alive:
                raise SandboxDied(self.name, self.why)
            self._last_pid += 1
            task = Task(self, self._last_pid, parent, "")
            context = make(task)
            task.name = context.argv[0].rsplit("/", 1)[-1][:15]
            self.tasks = [old for old in self.tasks if not old.over] + [task]
            task.thread = threading.Thread(
                target=task.run, args=(program, context), name=f"{self.name}:{task.pid}", daemon=True
            )
            task.thread.start()
            return task

    def find(self, argv: tuple[str, ...], env: Mapping[str, str], cwd: str) -> tuple[Program, tuple[str, ...]]:
        """What execvp(3) would run: the program and its arguments, those of a `#!` line included."""
        path = self._look_up(argv[0], env.get("PATH", ""), cwd)
        content = self.files.read(path, limit=1 << 30)
        if content.startswith(MAGIC):
            return self.programs[content[len(MAGIC) :].decode()], argv
        if content.startswith(b"#!"):
            line = os.fsdecode(content[2:].split(b"\n", 1)[0]).strip()
            interpreter, _, argument = line.partition(" ")
            more = (argument.strip(),) if argument.strip() else ()
            return self.find((interpreter, *more, path, *argv[1:]), env, cwd)
        raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC), argv[0])

    def _look_up(self, name: str, path: str, cwd: str) -> str:
        places = [name] if "/" in name else [f"{place or '.'}/{name}" for place in path.split(":")]
        code = errno.ENOENT
        for place in places:
            whole = place if place.startswith("/") else f"{cwd.rstrip('/')}/{place}"
            try:
                found = self.files.stat(whole)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR) or place == name:
                    code = error.errno or code
                continue
            if found.kind == "file" and found.mode & 0o111:
                return whole
            code = errno.EACCES
        raise OSError(code, os.strerror(code), name)

    def start_program(self, context: Context, argv: tuple[str, ...], parent: Task) -> Task:
        """A child of `parent` that inherits the streams, environment and directory of `context`."""
        program, words = self.find(argv, context.env, context.cwd)
        return self.start(program, lambda task: context.clone(task, words), parent)

    def living(self) -> list[Task]:
        with self.lock:
            return [task for task in self.tasks if task.exit is None]

    def send(self, task: Task, number: int) -> None:
        """kill(2): ends the task at once unless the signal is ignored or handled."""
        with self.lock:
            if task.exit is not None or number in HARMLESS:
                return
            if number != signals.SIGKILL and number in task.ignored:
                return
            if number != signals.SIGKILL and number in task.handlers:
                task.pending.append(number)
                task.wake()
                return
            self.end(task, Exit(-number))

    def end(self, task: Task, result: Exit) -> None:
        with self.lock:
            if task.exit is not None:
                return
            task.exit = result
            for child in self.tasks:
                if child.parent is task:
                    child.orphan = True
            task.wake()
            if task.parent is not None:
                task.parent.wake()
            if task.on_end is not None:
                task.on_end()

    def kill_tree(self, root: Task) -> None:
        """Contract 11: `root`, what descends from it, and every orphan born since."""
        self._kill(lambda task: self._belongs(task, root))
        self.join([root])

    def kill_all(self) -> None:
        self._kill(lambda _: True)

    def _kill(self, chosen: Callable[[Task], bool]) -> None:
        """None is left that a chosen one started meanwhile: nothing is started while the lock is held."""
        with self.lock:
            doomed = [task for task in self.living() if chosen(task)]
            for task in doomed:
                self.send(task, signals.SIGKILL)
        self.join(doomed)

    def _belongs(self, task: Task, root: Task) -> bool:
        if task.pid > root.pid and task.orphan:
            return True
        above: Task | None = task
        while above is not None:
            if above is root:
                return True
            above = above.parent
        return False

    def settle(self, seconds: float) -> None:
        """Give handlers of SIGTERM real time to run; what ignores it needs none."""
        for task in self.living():
            if signals.SIGTERM in task.handlers and task.thread is not None:
                task.thread.join(seconds)

    def die(self, why: str) -> None:
        """Everything ends now; exits that were not known are lost."""
        with self.lock:
            self.alive = False
            self.why = why
            for task in self.living():
                task.lost = True
                self.send(task, signals.SIGKILL)
        self.join(self.tasks)

    def join(self, tasks: list[Task]) -> None:
        """Wait until the threads of dead tasks have let go of their streams."""
        for task in tasks:
            if task.thread is not None and task.thread is not threading.current_thread():
                task.thread.join(END_LIMIT)
                if task.thread.is_alive():
                    raise RuntimeError(f"fake program {task.name!r} goes on {END_LIMIT:g} s after it was killed")
