"""A command in a sandbox, as its client sees it: pipes, a reply channel, and the agent's fixed replies."""

from __future__ import annotations

import _socket
import contextlib
import errno
import os
import select
import signal as signals
import weakref
from collections.abc import Callable, Sequence
from typing import IO

from pytest_airlock.errors import ProviderError, SandboxDied
from pytest_airlock.providers.base import Command, Exit
from pytest_airlock.providers.namespaces.engine import protocol
from pytest_airlock.providers.namespaces.engine.protocol import Reply, Request
from pytest_airlock.providers.namespaces.sending import explain_send

__all__ = ["Life", "NamespaceProcess", "spawn"]

#: Seconds until an agent that does not answer counts as stuck (a hung mount, a kernel bug): never in normal use.
PATIENCE = 60.0
#: The same while it ends a command, for which it takes 11 seconds at most: a time-out has passed already.
KILLING = 15.0
_DEATH_MS = 10_000
#: The direct child ended by SIGKILL, or it is a shell whose command did.
_KILLED = (-signals.SIGKILL, 128 + signals.SIGKILL)
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.EBADF)
_lives: weakref.WeakSet[Life] = weakref.WeakSet()


class Life:
    """The client's end of one incarnation of a sandbox: its control socket and the pidfd of its PID 1."""

    #: What an end that was not asked for means.
    lost = "its first process is gone"

    def __init__(self, name: str, control: _socket.socket, pidfd: int, oom_kills: Callable[[], int]) -> None:
        self.name, self.control, self.pidfd, self.oom_kills = name, control, pidfd, oom_kills
        # Orders that a stuck agent does not take fill the socket.
        control.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, protocol.timeval(PATIENCE))
        _lives.add(self)

    def gone(self) -> SandboxDied:
        """The error for a sandbox whose first process has ended."""
        why = self.lost
        with contextlib.suppress(ProviderError):  # the fork server, too
            if kills := self.oom_kills():
                why += f", and the kernel has killed for its memory limit ({kills} processes)"
        return SandboxDied(self.name, why)

    def alive(self) -> bool:
        """The kernel's word: PID 1 has not ended."""
        if self.pidfd < 0:
            return False
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return not poll.poll(0)

    def ask(self, request: Request, fds: Sequence[int] = (), *, patience: float | None = None) -> _socket.socket:
        """Send a request; returns the channel its replies come on, where each is waited for `patience` seconds."""
        near, far = protocol.channel()
        try:
            near.setsockopt(
                _socket.SOL_SOCKET, _socket.SO_RCVTIMEO, protocol.timeval(PATIENCE if patience is None else patience)
            )
            protocol.send(self.control, request.pack(), (far.fileno(), *fds))
        except OSError as error:
            near.close()
            if error.errno in _GONE:
                raise self.gone() from None
            if isinstance(error, BlockingIOError):
                raise self._stuck() from None
            raise explain_send(error, "ask the sandbox") from None
        finally:
            far.close()
        return near

    def call(self, request: Request, *, patience: float | None = None) -> list[Reply]:
        """A request answered by replies up to one that is not PROCESS."""
        replies = []
        channel = self.ask(request, patience=patience)
        try:
            while True:
                reply = self.receive(channel)
                replies.append(reply)
                if reply.kind == protocol.FAILED:
                    raise OSError(reply.value, os.strerror(reply.value))
                if reply.kind != protocol.PROCESS or len(replies) > 1000:
                    return replies
        finally:
            channel.close()

    def receive(self, channel: _socket.socket, flags: int = 0) -> Reply:
        """The next reply. Raises SandboxDied at end of file, ProviderError for anything but a reply."""
        try:
            data = channel.recv(4096, flags)
        except ConnectionResetError:
            data = b""
        except BlockingIOError:
            if flags & _socket.MSG_DONTWAIT:
                raise
            raise self._stuck() from None
        if not data:
            raise self.gone()
        try:
            return Reply.unpack(data)
        except ValueError as error:
            raise ProviderError("namespaces", "read a reply", str(error)) from None

    def _stuck(self) -> SandboxDied:
        self.kill()
        return SandboxDied(self.name, "its first process did not answer in time, so it was ended")

    def kill(self) -> None:
        """End everything inside, by the kernel's hand: nothing runs on behind an error that says it died.

        Waits for it a while; who sits in an uninterruptible call is found by the next reset.
        """
        if self.alive():
            self.begin_to_die()
            poll = select.poll()
            poll.register(self.pidfd, select.POLLIN)
            poll.poll(_DEATH_MS)

    def begin_to_die(self) -> None:
        """SIGKILL to PID 1, with which the kernel ends all others; it is not waited for."""
        try:
            signals.pidfd_send_signal(self.pidfd, signals.SIGKILL)
        except ProcessLookupError:
            return  # it ended by itself

    def close(self) -> None:
        self.control.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class NamespaceProcess:
    """providers.base.Process over the agent."""

    def __init__(self, life: Life, channel: _socket.socket, streams: Sequence[IO[bytes] | None]) -> None:
        self._life, self._channel = life, channel
        self.stdin, self.stdout, self.stderr = streams
        self._exit: Exit | None = None
        self._born = 0
        self._killed = False  # by us
        self._oom_kills = life.oom_kills()
        self.pid = 0

    def started(self, command: Command) -> None:
        """Read the first reply: a pid, or why there is none."""
        reply = self._life.receive(self._channel)
        if reply.kind == protocol.STARTED:
            self.pid, self._born = reply.value, reply.user_time
            return
        if reply.kind == protocol.FAILED:
            path = command.cwd if reply.user_time else command.argv[0]
            raise OSError(reply.value, os.strerror(reply.value), path)
        raise ProviderError("namespaces", "start a command", f"unexpected reply {reply.kind}")

    def fileno(self) -> int:
        return self._channel.fileno()

    def poll(self) -> Exit | None:
        if self._exit is None:
            try:
                self._take(self._life.receive(self._channel, _socket.MSG_DONTWAIT))
            except BlockingIOError:
                return None
        return self._exit

    def wait(self, timeout: float | None = None) -> Exit:
        if self._exit is None:
            poll = select.poll()
            poll.register(self._channel.fileno(), select.POLLIN)
            if not poll.poll(None if timeout is None else max(0, int(timeout * 1000 + 0.999))):
                raise TimeoutError(f"process {self.pid} did not end within {timeout} seconds")
            self._take(self._life.receive(self._channel))
        if self._exit is None:
            raise ProviderError("namespaces", "wait for a command", "no exit was told")
        return self._exit

    def _take(self, reply: Reply) -> None:
        if reply.kind != protocol.EXITED:
            raise ProviderError("namespaces", "wait for a command", f"unexpected reply {reply.kind}")
        status = os.waitstatus_to_exitcode(reply.value & 0xFFFF)
        self._exit = Exit(
            status,
            reply.user_time / 1e6,
            reply.system_time / 1e6,
            reply.max_rss,
            oom_killed=status in _KILLED and not self._killed and self._life.oom_kills() > self._oom_kills,
        )

    def send_signal(self, signal: int) -> None:
        if self.poll() is None:
            self._killed |= signal == signals.SIGKILL
            self._life.call(Request(protocol.SIGNAL, value=int(signals.Signals(signal)), target=self.pid))

    def kill_tree(self) -> None:
        self._killed = True
        self._life.call(Request(protocol.KILL_TREE, value=self._born, target=self.pid), patience=KILLING)

    def close(self) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self._channel.close()


_HOW = {"null": protocol.NULL, "pipe": protocol.PIPE, "stdout": protocol.MERGE}


def spawn(
    life: Life, command: Command, request: Request, kind: type[NamespaceProcess] = NamespaceProcess
) -> NamespaceProcess:
    """Start a command on fresh pipes; no descriptor of the host crosses: "null" is the sandbox's own device."""
    ours: list[IO[bytes] | None] = []
    theirs: list[int] = []
    stdio = 0
    try:
        for number, how in enumerate((command.stdin, command.stdout, command.stderr)):
            stdio |= _HOW[how] << 2 * number
            if how != "pipe":
                ours.append(None)
                continue
            read, write = os.pipe2(os.O_CLOEXEC)
            # By an id that the sandbox does not have it could not be opened there as /dev/stdin or /dev/stderr.
            os.fchmod(read, 0o666)
            mine, other = (write, read) if number == 0 else (read, write)
            theirs.append(other)
            ours.append(os.fdopen(mine, "wb" if number == 0 else "rb", buffering=0))
        channel = life.ask(request._replace(stdio=stdio), theirs, patience=command.patience)
        process = kind(life, channel, ours)
        try:
            process.started(command)
        except BaseException:
            channel.close()
            raise
    except BaseException:
        for stream in ours:
            if stream is not None:
                stream.close()
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    return process


def _forget_after_fork() -> None:
    """A forked child would keep the sandboxes' control sockets open, and could use them, beyond their owner's death."""
    for life in list(_lives):
        life.close()


os.register_at_fork(after_in_child=_forget_after_fork)
