"""The Sandbox: what a test holds."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from pytest_airlock.errors import CommandTimeout, SandboxDied, SnapshotNotFound
from pytest_airlock.models import SandboxInfo
from pytest_airlock.providers.base import Command, Process
from pytest_airlock.sandbox import copying
from pytest_airlock.sandbox.backend import Backend
from pytest_airlock.sandbox.command import Argument, Arguments, arguments, build, explain, redirect
from pytest_airlock.sandbox.diff import DEFAULT_IGNORE, Diff, collect
from pytest_airlock.sandbox.execution import Execution, incoming, outgoing
from pytest_airlock.sandbox.fakes.trust import Trust
from pytest_airlock.sandbox.network import SandboxNetwork
from pytest_airlock.sandbox.paths import SandboxPath
from pytest_airlock.sandbox.popen import Popen
from pytest_airlock.sandbox.ports import Forward, Kind, Ports, connect, wait_for_port
from pytest_airlock.sandbox.result import CompletedProcess, Text
from pytest_airlock.sandbox.tracebacks import told
from pytest_airlock.sandbox.transcript import Transcript, TranscriptEntry

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["MAX_OUTPUT", "RunOptions", "Sandbox", "Snapshot"]

#: Most bytes of each stream of a command, unless told otherwise.
MAX_OUTPUT = 256 * 1024 * 1024
#: Seconds that a start may take beyond the command's time-out: on a busy machine it is late, in a stuck sandbox it never comes.
START_GRACE = 5.0


class _Default(Enum):
    """The time-out of the spec, as opposed to None: no time-out."""

    TIMEOUT = "the spec's"


class RunOptions(TypedDict, total=False):
    """The keyword arguments of run()."""

    input: Any
    stdin: Any
    stdout: Any
    stderr: Any
    capture_output: bool
    text: bool | None
    encoding: str | None
    errors: str | None
    check: bool
    timeout: float | None
    cwd: Argument | None
    env: Mapping[Any, Any] | None
    user: str | None
    max_output: int | None


class Snapshot:
    """Files of a sandbox, kept by snapshot(); good for restore() and diff() of the same hand-out."""

    __slots__ = ("_backend", "id")

    def __init__(self, backend: Backend, id: str) -> None:  # noqa: A002
        self._backend = backend
        self.id = id

    def __repr__(self) -> str:
        return f"<snapshot {self.id!r} of sandbox {self._backend.name!r}>"


class Sandbox:
    """A pristine, hardened machine, in the words of the standard library. Thread-safe.

    Every operation raises StaleSandbox once the sandbox was handed back, SandboxDied if it ended by itself, and
    ProviderError if the provider failed; none of them is ever the outcome of a command.

    `environ` is the base environment of a command. It can be changed for the commands that follow; reset() undoes it.
    `transcript` is every command so far, in bounds; it stays readable after the hand-back.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.transcript = Transcript()
        self._trust = Trust(backend, lambda: self.environ)
        self.network = SandboxNetwork(backend, self._trust)

    @property
    def name(self) -> str:
        return self._backend.name

    @property
    def environ(self) -> dict[str, str]:
        self._backend.check()
        return self._environ

    @functools.cached_property
    def _environ(self) -> dict[str, str]:
        return dict(self._backend.environ())

    @property
    def info(self) -> SandboxInfo:
        return self._backend.info()

    @functools.cached_property
    def ports(self) -> Ports:
        """Where on this host the ports of the spec (`ports=`) are: `{8080: ("127.0.0.1", 40123)}`."""
        return Ports(self._backend)

    def connect(
        self, port: int, *, host: str = "127.0.0.1", kind: Kind = "tcp", timeout: float | None = 10.0
    ) -> socket.socket:
        """An ordinary socket, connected to what listens inside at `host` and `port`; the network need not be open.

        Raises ConnectionRefusedError if nobody listens, TimeoutError, UnsupportedFeature if the provider cannot.
        """
        return connect(self._backend, port, host=host, kind=kind, timeout=timeout)

    def connect_unix(
        self,
        path: str | os.PathLike[str],
        *,
        kind: Literal["stream", "datagram", "packet"] = "stream",
        timeout: float | None = 10.0,
    ) -> socket.socket:
        """An ordinary socket, connected to the unix socket at that absolute path inside. Raises as connect() does, and
        FileNotFoundError.
        """
        return self._backend.connect_path(os.fspath(path), kind, timeout)

    def forward(self, port: int, *, host: str = "127.0.0.1") -> Forward:
        """Lead a free port of this host's loopback device to a TCP port inside, until it is closed or the sandbox is reset."""
        return Forward(self._backend, self._backend.forward((host, port)))

    def wait_for_port(self, port: int, timeout: float | None = 10.0) -> None:
        """Until a program inside listens at this TCP port, without connecting to it. Raises TimeoutError."""
        wait_for_port(self._backend, port, timeout)

    def __repr__(self) -> str:
        return f"<Sandbox {self.name!r}>"

    # -- commands --------------------------------------------------------------------------------------------------

    def run(
        self,
        argv: Arguments,
        *,
        input: Any = None,  # noqa: A002 - the word of subprocess.run
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        capture_output: bool = True,
        text: bool | None = True,
        encoding: str | None = None,
        errors: str | None = None,
        check: bool = False,
        timeout: float | _Default | None = _Default.TIMEOUT,
        cwd: Argument | None = None,
        env: Mapping[Any, Any] | None = None,
        user: str | None = None,
        max_output: int | None = MAX_OUTPUT,
    ) -> CompletedProcess:
        """Run a command and wait for it, as subprocess.run; output that is not directed elsewhere is captured.

        Text is utf-8 with backslashreplace whatever the locale; stdin is empty unless given; a host file given as stdin,
        stdout or stderr is read or written by the host. `timeout` in seconds, None = no limit, default the spec's;
        `env` replaces the environment; `user` is "root" or "airlock"; `max_output` in bytes for each stream.

        Returns when the direct child has ended, even if a daemon holds its output open. Raises FileNotFoundError or
        PermissionError (no such program, not executable), CommandFailed (check=True), CommandTimeout and
        OutputLimitExceeded (the command and all it started are dead; `.result`, `.stdout`, `.stderr` have what came).
        """
        __tracebackhide__ = told
        mode = Text(text, encoding, errors)
        feed = incoming(input, stdin, mode)
        targets = (
            outgoing("stdout", stdout, mode, capture=capture_output),
            outgoing("stderr", stderr, mode, capture=capture_output),
        )
        streams = (feed.word, redirect("stdout", stdout), redirect("stderr", stderr))
        command = build(arguments(argv), self._environ if env is None else env, cwd, user, streams)
        limit = self._backend.timeout if isinstance(timeout, _Default) else timeout
        began = time.monotonic()
        process = self._spawn(command, argv, limit)
        execution = Execution(process, argv, command, mode, feed=feed, targets=targets, limit=max_output, began=began)
        try:
            result = execution.finish(limit, self.transcript)
        except SandboxDied:
            self._backend.check()  # handed back meanwhile is another story than died
            raise
        if check:
            result.check_returncode()
        return result

    def shell(self, script: str, **options: Unpack[RunOptions]) -> CompletedProcess:
        """Run `script` with /bin/sh -c; options as run()."""
        __tracebackhide__ = told
        return self.run(["/bin/sh", "-c", script], **options)

    def popen(
        self,
        argv: Arguments,
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        text: bool | None = True,
        encoding: str | None = None,
        errors: str | None = None,
        cwd: Argument | None = None,
        env: Mapping[Any, Any] | None = None,
        user: str | None = None,
        max_output: int | None = MAX_OUTPUT,
    ) -> Popen:
        """Start a command, as subprocess.Popen. Streams are PIPE, DEVNULL or STDOUT; not given: stdin is empty, the
        others are pipes (which somebody has to read, should the command write more than 64 KiB). communicate() reads at
        most `max_output` bytes of each.
        """
        __tracebackhide__ = told
        for name, value in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr)):
            if value not in (None, subprocess.PIPE, subprocess.DEVNULL, subprocess.STDOUT):
                raise ValueError(
                    f"{name} of popen() is PIPE, DEVNULL or STDOUT: read the pipe, or use run() for a file"
                )
        streams = (
            "null" if stdin is None else redirect("stdin", stdin),
            redirect("stdout", stdout),
            redirect("stderr", stderr),
        )
        command = build(arguments(argv), self._environ if env is None else env, cwd, user, streams)
        process = self._spawn(command, argv)
        mode = Text(text, encoding, errors)
        return Popen(process, argv, mode, self._backend.check, self._ended(command), limit=max_output)

    def _spawn(self, command: Command, argv: Arguments, limit: float | None = None) -> Process:
        """Start it; with `limit` in not much more than these seconds."""
        __tracebackhide__ = told
        began = time.monotonic()
        if limit is not None:
            command = replace(command, patience=limit + START_GRACE)
        try:
            return self._backend.spawn(command)
        except OSError as error:
            self._not_started(command, str(error), began)
            raise explain(error, self.name, argv, command) from None
        except SandboxDied as died:
            self._not_started(command, str(died), began)
            if limit is None or time.monotonic() - began < limit:
                raise
            late = CommandTimeout(argv, limit, None, None)
            late.result = CompletedProcess(argv, -signal.SIGKILL, duration=time.monotonic() - began)
            late.add_note(f"it could not be started, and the whole sandbox had to be ended: {died}")
            raise late from None

    def _not_started(self, command: Command, why: str, began: float) -> None:
        took = time.monotonic() - began
        self.transcript.add(TranscriptEntry(command.argv, f"not started: {why}", took, command.cwd, command.user))

    def _ended(self, command: Command) -> Any:
        """What a Popen calls once when its end is known."""

        def note(popen: Popen) -> None:
            outcome = f"exit status {popen.returncode}"
            self.transcript.add(TranscriptEntry(command.argv, outcome, popen.duration, command.cwd, command.user))

        return note

    # -- files -----------------------------------------------------------------------------------------------------

    def path(self, path: str | SandboxPath) -> SandboxPath:
        """An absolute path inside, with the methods of pathlib."""
        return SandboxPath(self._backend, path)

    def copy_in(self, host: str | os.PathLike[str], inside: str | SandboxPath) -> copying.Copied:
        """Copy a host file or tree to `inside`, owned by the sandbox's root; missing parents are made.

        A file goes below `inside` if that is a directory or ends with "/" (as shutil.copy); a tree is merged into it (as
        copytree with dirs_exist_ok). Links in the tree are copied as links, never followed; special files are skipped.
        """
        return copying.copy_in(self._backend, host, inside)

    def copy_out(
        self, inside: str | SandboxPath, host: str | os.PathLike[str], *, limit: int = copying.COPY_LIMIT
    ) -> copying.Copied:
        """Copy a file or tree out of the sandbox, by the same rules; owned by you, modes masked to 0755.

        Special files and links that are absolute or lead out of the tree are not made but listed in `skipped`; a name
        that is no plain name raises OSError(EINVAL), content beyond `limit` bytes OSError(EFBIG); what was
        copied until then stays.
        """
        return copying.copy_out(self._backend, inside, host, limit=limit)

    def diff(self, since: Snapshot | str | None = None, *, ignore: Sequence[str] = DEFAULT_IGNORE) -> Diff:
        """What was added, modified and deleted since a snapshot (None: since the sandbox was handed out clean).

        `ignore` holds paths (with all below) and names; directories of which only times changed are left out too.
        ignore=() shows all that the provider sees; mounts are never part of it.
        """
        if isinstance(ignore, str):
            raise TypeError(f"ignore is a sequence of paths and names: ({ignore!r},)")
        found = collect(self._backend.diff(None if since is None else self._id(since)), ignore)
        return self._trust.without_own(found)

    # -- states ----------------------------------------------------------------------------------------------------

    def snapshot(self, *, stop: bool = False) -> Snapshot:
        """Keep the files. Processes are no part of it: SandboxBusy if any run, unless stop=True has them killed."""
        made = Snapshot(self._backend, self._backend.snapshot(stop=stop))
        if stop:
            self.ports.forget()
        return made

    def restore(self, snapshot: Snapshot | str) -> None:
        """Make the files those of the snapshot; every process ends."""
        self._backend.restore(self._id(snapshot))
        self.ports.forget()
        self.network.renew()

    def reset(self) -> None:
        """Back to pristine: files, network, routes, what is served, forwards, environment; every process is dead."""
        self._backend.reset()
        self.ports.forget()
        self.network.end_all()
        self._trust.forget()
        self._environ.clear()
        self._environ.update(self._backend.environ())

    def _id(self, snapshot: Snapshot | str) -> str:
        if isinstance(snapshot, str):
            return snapshot
        if snapshot._backend is not self._backend:
            snapshot._backend.check()
            raise SnapshotNotFound(self.name, snapshot.id, hint=f"it belongs to sandbox {snapshot._backend.name!r}")
        return snapshot.id
