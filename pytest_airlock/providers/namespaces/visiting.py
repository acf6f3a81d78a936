"""Visits: the door of a fork server as its owner opens it, and a live sandbox as another process of the user sees it."""

from __future__ import annotations

import _socket
import contextlib
import errno
import json
import os
import secrets
import stat
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from pytest_airlock.errors import ProviderError, SandboxDied, UnsupportedFeature
from pytest_airlock.providers.attaching import TerminalSize
from pytest_airlock.providers.base import Absence, Command, Handle, NetworkRule, Process
from pytest_airlock.providers.namespaces.box import Box
from pytest_airlock.providers.namespaces.client import Engine
from pytest_airlock.providers.namespaces.engine import protocol
from pytest_airlock.providers.namespaces.engine.protocol import Request
from pytest_airlock.providers.namespaces.network_client import steer
from pytest_airlock.providers.namespaces.process import PATIENCE, Life, NamespaceProcess, spawn
from pytest_airlock.providers.places import run_time_dir

__all__ = ["Door", "GuestTerminal", "NamespaceVisit", "enter", "facts"]

_PREFIX = "pytest-airlock-"
_COUNT = struct.Struct("=Q")
_SIZE = struct.Struct("=HH")
_REFUSALS = {
    "user": "it belongs to another user",
    "namespace": "this process is in a pid name space of its own, as those of a sandbox are",
}


class Door:
    """The owner's side: a socket in the run-time directory, on which the fork server listens from its first sandbox on.

    Where it cannot be opened nobody can visit, and `shut` says why: no reason not to run tests.
    """

    def __init__(self) -> None:
        self.path, self.shut = "", "it was never opened"
        self._pid, self._counter = os.getpid(), -1

    def open(self, engine: Engine) -> None:
        """Once for each fork server."""
        if self._counter >= 0:
            return
        self._pid, self._counter = os.getpid(), os.memfd_create("airlock-visits", os.MFD_CLOEXEC)
        os.ftruncate(self._counter, _COUNT.size)
        try:
            self._open(engine, run_time_dir())
        except OSError as error:
            self.shut = str(error)

    def address(self) -> dict[str, str]:
        """Where visitors find it: part of every handle."""
        return {"door": self.path} if self.path else {"shut": self.shut}

    def visits(self) -> int:
        """How many there were so far; no message to the fork server."""
        return int(_COUNT.unpack(os.pread(self._counter, _COUNT.size, 0))[0]) if self._counter >= 0 else 0

    def close(self) -> None:
        """After the server, which removes the socket, has ended or was killed."""
        if self._counter >= 0:
            os.close(self._counter)
        if self.path and self._pid == os.getpid():
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        self._counter, self.path = -1, ""

    def _open(self, engine: Engine, place: Path) -> None:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        listener = _socket_of_packets()
        try:
            found = os.fstat(directory)
            if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) != 0o700:
                raise PermissionError(errno.EACCES, "others have access to this directory", str(place))
            _sweep(directory)
            name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
            # A path of a socket has 108 bytes; this one is short wherever the directory is.
            short = f"/proc/self/fd/{directory}/{name}"
            listener.bind(short)
            os.chmod(short, 0o600)
            listener.listen(8)
            engine.call("listen", (listener.fileno(), directory, self._counter), name=name)
            self.path = str(place / name)
        finally:
            listener.close()
            os.close(directory)


def _sweep(directory: int) -> None:
    """Remove the sockets of those that were killed together with their fork server."""
    for name in os.listdir(directory):
        owner = name.removeprefix(_PREFIX).partition("-")[0]
        if not name.startswith(_PREFIX) or not owner.isdecimal() or os.path.exists(f"/proc/{owner}"):
            continue
        # Its owner may live in a pid name space that we do not see; then the fork server answers.
        with contextlib.closing(_socket_of_packets()) as probe:
            probe.setblocking(False)
            if probe.connect_ex(f"/proc/self/fd/{directory}/{name}") == errno.ECONNREFUSED:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=directory)


def facts(box: Box) -> dict[str, Any]:
    """What the fork server tells visitors of a sandbox; never on disk, there can be secrets in the environment."""
    spec = box.spec
    one_id = None if box.one_id is None else [box.one_id.why, box.one_id.fix]
    return {"name": spec.name, "user": spec.user, "cwd": box.cwd, "one_id": one_id, "environ": dict(box.environ)}


class _Guest(Life):
    """A life of which somebody else decides."""

    lost = "its run reset or removed it, or it ended by itself"

    def kill(self) -> None:
        """That it does not answer us is no reason to end it."""


class _GuestProcess(NamespaceProcess):
    def send_signal(self, signal: int) -> None:
        """To its whole process group, as a terminal does; it commands what it started, and nothing else."""
        if self.poll() is None:
            self._life.call(Request(protocol.SIGNAL, value=int(signal), target=-self.pid))

    def kill_tree(self) -> None:
        raise ProviderError("namespaces", "kill a tree", "a visitor may end what it started, and nothing else")


class GuestTerminal(_GuestProcess):
    """providers.attaching.Terminal."""

    stdin: IO[bytes]
    stdout: IO[bytes]

    def __init__(
        self, life: Life, channel: _socket.socket, streams: Sequence[IO[bytes] | None], sizes: IO[bytes]
    ) -> None:
        super().__init__(life, channel, streams)
        self._sizes = sizes

    def resize(self, size: TerminalSize) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            self._sizes.write(_SIZE.pack(*size))

    def close(self) -> None:
        self._sizes.close()
        super().close()


class NamespaceVisit:
    """providers.attaching.Visit: a channel of its own to PID 1."""

    def __init__(self, handle: Handle, life: Life, told: Mapping[str, Any]) -> None:
        self._handle, self._life, self._told = handle, life, told
        self.environ: Mapping[str, str] = told["environ"]

    def spawn(self, command: Command) -> Process:
        return spawn(self._life, command, self._request(command), _GuestProcess)

    def terminal(self, command: Command, size: TerminalSize) -> GuestTerminal:
        request = self._request(command)._replace(op=protocol.TERMINAL, payload=_SIZE.pack(*size))
        ends = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        (source, stdin), (stdout, sink), (changes, sizes) = ends
        os.set_blocking(sizes, False)
        mine = [os.fdopen(fd, mode, buffering=0) for fd, mode in ((stdin, "wb"), (stdout, "rb"), (sizes, "wb"))]
        try:
            channel = self._life.ask(request, (source, sink, changes))
            process = GuestTerminal(self._life, channel, (mine[0], mine[1], None), mine[2])
            try:
                process.started(command)
            except BaseException:
                channel.close()
                raise
        except BaseException:
            for stream in mine:
                stream.close()
            raise
        finally:
            for fd in (source, sink, changes):
                os.close(fd)
        return process

    def set_network(self, rule: NetworkRule) -> None:
        """Contract 41."""
        told, (channel,) = _knock(self._handle, _door(self._handle), "steer")
        sock = _socket.socket(fileno=channel)
        if rule.mode == "open" and not told["divert"]:
            sock.close()
            raise UnsupportedFeature("network_open", "namespaces", "its run has no nf_tables with tproxy to use")
        if not self._life.alive() or told["name"] != self._handle.name:
            sock.close()
            raise SandboxDied(self._handle.name, _Guest.lost)
        steer(sock, self._handle.name, rule, divert=told["divert"])

    def close(self) -> None:
        self._life.close()

    def _request(self, command: Command) -> Request:
        one_id = self._told["one_id"]
        return Box.asked(command, self._told["user"], self._told["cwd"], Absence(*one_id) if one_id else None)


def enter(handle: Handle) -> NamespaceVisit:
    """Contract 33. Raises SandboxDied, PermissionError, ProviderError."""
    path = _door(handle)
    told, (control, pidfd) = _knock(handle, path, "visit")
    life = _Guest(handle.name, _socket.socket(fileno=control), pidfd, lambda: 0)
    try:
        if told["name"] != handle.name:
            raise SandboxDied(handle.name, _Guest.lost)
        _welcomed(life)
    except BaseException:
        life.close()
        raise
    return NamespaceVisit(handle, life, told)


def _door(handle: Handle) -> str:
    path: str = handle.data.get("door") or ""
    if not path:
        why = handle.data.get("shut") or "it was made by a version without attach"
        raise ProviderError("namespaces", "attach", f"its run could not open a door for visitors: {why}")
    return path


def _knock(handle: Handle, path: str, kind: str) -> tuple[Any, list[int]]:
    directory, name = os.path.split(path)
    with contextlib.closing(_socket_of_packets()) as sock:
        for option in (_socket.SO_RCVTIMEO, _socket.SO_SNDTIMEO):  # connect(2) waits for a free place, too
            sock.setsockopt(_socket.SOL_SOCKET, option, protocol.timeval(PATIENCE))
        try:
            fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                sock.connect(f"/proc/self/fd/{fd}/{name}")
            finally:
                os.close(fd)
            sock.send(json.dumps({kind: handle.data["number"]}).encode())
            answer, fds = protocol.receive_json(sock)
        except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError, BrokenPipeError):
            raise SandboxDied(handle.name, "its run has ended, and its processes with it") from None
        except BlockingIOError:
            raise ProviderError("namespaces", "attach", f"no answer came for {PATIENCE:g} seconds") from None
    if answer is None:
        raise ProviderError("namespaces", "attach", "too many asked at once", hint="try again")
    if "ok" in answer:
        return answer["ok"], fds
    if answer["refused"] in _REFUSALS:
        raise PermissionError(errno.EACCES, _REFUSALS[answer["refused"]], handle.name)
    if answer.get("errno") == errno.EOPNOTSUPP:
        why = "it shares this host's network, which was decided when it was made"
        raise UnsupportedFeature("network_locked", "namespaces", why)
    raise SandboxDied(handle.name, "it is not running")


def _welcomed(life: Life) -> None:
    life.control.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, protocol.timeval(PATIENCE))
    try:
        word = life.control.recv(16)
    except (BlockingIOError, ConnectionResetError):
        word = b""
    if word == protocol.BROKEN:
        raise ProviderError("namespaces", "attach", "it has too many visitors", hint="try again when one has left")
    if word != protocol.READY:
        raise life.gone()


def _socket_of_packets() -> _socket.socket:
    return _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
