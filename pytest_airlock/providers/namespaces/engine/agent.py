"""PID 1 of a sandbox: starts commands, reaps everything, and is gone when its owner is.

It is trusted code in hostile company: it takes orders from the control socket only, keeps no state a sandbox can reach (it
is not dumpable, signals from inside do not reach PID 1), and answers with fixed structures. See protocol.py.
"""

from __future__ import annotations

import _socket
import os
import resource
import select
import signal
import stat
import time
from collections.abc import Callable
from typing import Any

from . import files, processes, protocol, syscalls, terminal
from .oom import CommandsFirst
from .protocol import Reply, Request
from .visitors import Visitors

__all__ = ["serve"]

# Python ignores the first two, the fork server the third (Ctrl-C is for pytest); a command must find them as the kernel has them.
_DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT)
# Seconds to kill a command's processes one by one, and then to wait for the death of all.
_ONE_BY_ONE, _ALL = 1.0, 10.0
# Dead collected at most before orders are heard again, and after a time-out: all that a sandbox can have.
_REAPED, _ALL_REAPED = 256, 4096
_LISTED = 64  # processes named at most: what is told must fit the channel


class Agent:
    """The loop and what it answers. `uid` is the ordinary id of commands, 0 or 1000; `held` its permitted capabilities."""

    def __init__(self, control: _socket.socket, uid: int, held: int, *, many_users: bool, score: CommandsFirst) -> None:
        self.control, self.uid, self.many_users, self.score = control, uid, many_users, score
        self.running: dict[int, _socket.socket] = {}  # pid to reply channel, which stays open until the exit is told
        self.workers: set[int] = set()  # those of them that are our own file calls, not commands
        self.own = os.getuid()
        self.held = held
        self.census = processes.Census()
        # Each command under way holds a descriptor here, and a request brings five.
        self.room = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 24

    def receive(self) -> None:
        data, fds = protocol.receive(self.control)
        if data is None:
            os._exit(0)
        # All four words: what is not given is asked of the kernel, one call each.
        channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fds.pop(0))
        try:
            self.handle(Request.unpack(data), channel, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def handle(self, request: Request, channel: _socket.socket, fds: list[int]) -> None:
        """Carry out a request, the owner's or a visitor's, and tell what becomes of it."""
        try:
            self.answer(request, channel, fds)
        except OSError as error:
            if channel.fileno() >= 0:
                _tell(channel, Reply(protocol.FAILED, error.errno or 5))
                channel.close()

    def answer(self, request: Request, channel: _socket.socket, fds: list[int]) -> None:
        if request.op in (protocol.EXEC, protocol.FILES, protocol.CONNECT) and len(self.running) >= self.room:
            raise OSError(11, os.strerror(11))  # EAGAIN, as where there is no room for a process
        if request.op == protocol.EXEC:
            self.execute(request, channel, _redirections(request.stdio, fds))
            return
        if request.op == protocol.TERMINAL:
            terminal.start(self, request, channel, fds)
            return
        if request.op == protocol.FILES:
            self.work(channel, fds, lambda source, sink: files.serve(request.payload, source, sink))
            return
        if request.op == protocol.CONNECT:
            self.work(channel, fds, lambda sock: _connect(sock, request.payload))
            return
        self.order(request, channel)
        channel.close()

    def order(self, request: Request, channel: _socket.socket) -> None:
        """What is answered at once."""
        if request.op == protocol.SIGNAL:
            if abs(request.target) in self.running:
                os.kill(request.target, request.value)
        elif request.op == protocol.KILL_TREE:
            _tell(channel, Reply(self.kill_tree(request.target, request.value)))
            return
        elif request.op == protocol.TERMINATE:
            self.terminate(request.value)
        elif request.op == protocol.LIST:
            strangers = [process for process in self.census.alive() if process.pid not in self.workers]
            for process in strangers[:_LISTED]:
                _tell(channel, Reply(protocol.PROCESS, process.pid, name=process.name))
        _tell(channel, Reply(protocol.DONE))

    def become(self, uid: int, gid: int) -> _Credentials:
        return _Credentials(self, uid, gid)

    def execute(self, request: Request, channel: _socket.socket, actions: list[tuple[Any, ...]]) -> bool:
        """Start a command; False if its working directory is missing. Raises OSError if it cannot be executed."""
        argv = request.argv
        born = processes.now()
        environment = dict(pair.split(b"=", 1) for pair in request.env)
        with self.become(request.uid, request.gid), self.score:
            try:
                os.chdir(request.cwd)
            except OSError as error:
                _tell(channel, Reply(protocol.FAILED, error.errno or 5, user_time=1))
                channel.close()
                return False
            try:
                program = _find(argv[0], environment.get(b"PATH", b"/usr/local/bin:/usr/bin:/bin"))
                pid = os.posix_spawn(
                    program,
                    argv,
                    environment,
                    file_actions=actions,
                    setsid=True,
                    setsigmask=(),
                    setsigdef=_DEFAULT_SIGNALS,
                )
            finally:
                os.chdir("/")
        self.running[pid] = channel
        _tell(channel, Reply(protocol.STARTED, pid, born))
        return True

    def work(self, channel: _socket.socket, fds: list[int], work: Callable[..., None]) -> None:
        """Calls of our own run in a short-lived fork, so that a slow one never holds up PID 1. Of its descriptors it has those
        that came along; an error is its exit status.
        """
        born = processes.now()
        pid = os.fork()
        if pid == 0:
            status = 0
            try:
                for number, fd in enumerate([os.dup(fd) for fd in fds], 3):
                    os.dup2(fd, number)
                os.closerange(3 + len(fds), 1 << 20)
                work(*range(3, 3 + len(fds)))
            except OSError as error:
                status = error.errno or 5
            finally:
                os._exit(status)
        self.workers.add(pid)
        self.running[pid] = channel
        _tell(channel, Reply(protocol.STARTED, pid, born))

    def reap(self, most: int = _REAPED) -> None:
        """Collect who ended; tell the exit of commands. Never without end: some are born and die faster than that."""
        for _ in range(most):
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self.workers.discard(pid)
            self.visitors.reaped(pid)
            channel = self.running.pop(pid, None)
            if channel is None:
                continue
            user, system = int(usage.ru_utime * 1e6), int(usage.ru_stime * 1e6)
            _tell(channel, Reply(protocol.EXITED, status, user, system, usage.ru_maxrss * 1024))
            channel.close()
        signal.raise_signal(signal.SIGCHLD)  # there may be more: come back

    def kill_tree(self, target: int, born: int) -> int:
        """Kill a command, its descendants and every orphan born since `born`; all are dead on return.

        Children that escaped by a double fork cannot be told apart from others' orphans of the same age: those
        die too. Where killing one by one loses the race against forking, everything in the sandbox goes at once.
        """
        try:
            if self.kill_one_by_one(target, born, time.monotonic() + _ONE_BY_ONE):
                return protocol.DONE
            deadline = time.monotonic() + _ALL
            while time.monotonic() < deadline:
                _kill(-1)
                self.wait_a_little()
                if not self.census.alive():
                    return protocol.KILLED_ALL
            raise OSError(16, os.strerror(16))  # EBUSY: somebody sits in an uninterruptible call
        finally:
            self.reap(_ALL_REAPED)  # the next command needs room for a process

    def ours(self) -> set[int]:
        """Children of our own making: whose parent is PID 1 without being an orphan."""
        return self.workers | self.running.keys()

    def kill_one_by_one(self, target: int, born: int, deadline: float) -> bool:
        """False if somebody is left at the deadline. Beside thousands that run, one look at them all can take longer."""
        try:
            while doomed := processes.doomed(self.census.scan(deadline), target, born, self.ours()):
                for pid in doomed:
                    _kill(pid)
                self.wait_a_little()
        except TimeoutError:
            return False
        return True

    def wait_a_little(self) -> None:
        """Let the dying die: until the next SIGCHLD, a millisecond at most."""
        self.poll_children.poll(1)
        _drain(self.children)
        self.reap()

    def terminate(self, grace_ms: int) -> None:
        """Ask everybody to end and wait for it, at most the grace; the fork server kills the rest with PID 1."""
        try:
            os.kill(-1, signal.SIGTERM)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + grace_ms / 1000
        while self.census.alive() and time.monotonic() < deadline:
            self.wait_a_little()

    def loop(self, owner: int, server: int, door: _socket.socket) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        self.children = syscalls.signalfd(1 << (signal.SIGCHLD - 1))
        self.poll_children = select.poll()
        self.poll_children.register(self.children, select.POLLIN)
        poll = select.poll()
        control = self.control.fileno()
        for fd in (control, self.children, owner, server):
            poll.register(fd, select.POLLIN)
        self.visitors = Visitors(self, door, poll)
        self.control.send(protocol.READY)
        while True:
            for fd, _ in poll.poll():
                if fd == control:
                    self.receive()
                elif fd == self.children:
                    _drain(fd)
                    self.reap()
                elif fd in (owner, server):
                    os._exit(0)  # the owner or the fork server is dead: take everything along
                elif fd in self.visitors:
                    self.visitors.ready(fd)


class _Credentials:
    """Become the command's user for one posix_spawn, and root again after it.

    Credentials belong to the thread and are inherited by the child. PR_SET_KEEPCAPS keeps the permitted set over the
    change of ids, so that there is a way back; execve clears both for an ordinary user (capabilities(7)).
    """

    def __init__(self, agent: Agent, uid: int, gid: int) -> None:
        self.agent, self.uid, self.gid = agent, uid, gid

    def __enter__(self) -> None:
        if self.uid != self.agent.own:
            if not self.agent.many_users:
                raise OSError(22, os.strerror(22))
            os.setgroups([self.gid])
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)
            # A host may have set fs.suid_dumpable, which counts at every change of ids (proc_sys_fs(5)).
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)

    def __exit__(self, *_: object) -> None:
        if self.uid != self.agent.own:
            syscalls.capset(self.agent.held, self.agent.held)
            os.setresuid(0, 0, 0)
            os.setresgid(0, 0, 0)
            os.setgroups([])
            syscalls.capset(self.agent.held, self.agent.held)
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 9)
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def serve(
    control: _socket.socket,
    door: _socket.socket,
    owner: int,
    server: int,
    *,
    uid: int,
    held: int,
    many_users: bool,
    score: CommandsFirst,
) -> None:
    """Run PID 1 with the capabilities `held`. `owner` and `server` are pidfds of the processes whose death ends the
    sandbox, visitors come by the `door`.
    """
    Agent(control, uid, held, many_users=many_users, score=score).loop(owner, server, door)


def _connect(fd: int, path: bytes) -> None:
    """Connect a socket of whoever asked: to a path it leads in here, whoever made it."""
    _socket.socket(fileno=fd).connect(path)


def _redirections(stdio: int, fds: list[int]) -> list[tuple[Any, ...]]:
    """File actions for posix_spawn; our own 0, 1, 2 are the sandbox's null device."""
    actions: list[tuple[Any, ...]] = []
    rest = iter(fds)
    for number in range(3):
        how = stdio >> 2 * number & 3
        if how == protocol.PIPE:
            actions.append((os.POSIX_SPAWN_DUP2, next(rest), number))
        elif how == protocol.MERGE:
            actions.append((os.POSIX_SPAWN_DUP2, 1, number))
    return actions


def _find(name: bytes, path: bytes) -> bytes:
    """Look a program up as execvp(3) does: the first that can be executed, else the best reason."""
    if not name:
        raise FileNotFoundError(2, os.strerror(2))
    if b"/" in name:
        return name
    reason = 2  # ENOENT
    for directory in path.split(b":"):
        candidate = (directory or b".") + b"/" + name
        try:
            info = os.stat(candidate)
        except OSError:
            continue
        if stat.S_ISREG(info.st_mode) and os.access(candidate, os.X_OK, effective_ids=True):
            return candidate
        reason = 13  # EACCES
    raise OSError(reason, os.strerror(reason))


def _tell(channel: _socket.socket, reply: Reply) -> None:
    """Answer; a client that hung up, or does not read, is no reason to stop."""
    try:
        channel.send(reply.pack(), _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL)
    except OSError as error:
        if error.errno not in (32, 104, 11):  # EPIPE, ECONNRESET, EAGAIN
            raise


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _drain(fd: int) -> None:
    try:
        os.read(fd, 128 * 16)
    except BlockingIOError:
        return
