"""The client of one fork server: starts it, speaks to it, notices its death, and stays out of forked children."""

from __future__ import annotations

import _socket
import contextlib
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

from pytest_airlock.errors import ProviderError
from pytest_airlock.providers.namespaces.engine import protocol
from pytest_airlock.providers.namespaces.loader import interpreter
from pytest_airlock.providers.namespaces.sending import explain_send

__all__ = ["Engine", "StepFailed"]

# Where the engine lies is told by the working directory: the command line can be read inside, as PID 1's.
_BOOT = "import os, sys; sys.path.insert(0, os.getcwd()); from engine.server import main; main(int(sys.argv[1]))"
#: Seconds until a fork server that does not answer counts as stuck.
_PATIENCE = 120.0
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


class StepFailed(OSError):
    """A step of the engine failed: `step` and errno as diagnosis.py explains them."""

    def __init__(self, step: str, number: int, path: str) -> None:
        super().__init__(number, os.strerror(number) if number else "unknown", path or None)
        self.step = step


class Engine:
    """One fork server and the control socket to it; calls are serialised, replies come in order.

    The server is started with an empty environment and dies with this process: it holds our pidfd, and the sockets
    are closed in every child this process forks.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._number = 0  # of the last request
        self._log = os.memfd_create("airlock-log", os.MFD_CLOEXEC)
        near, far = protocol.channel()
        words, held = interpreter(sys.executable)
        try:
            self._process = subprocess.Popen(
                [*words, "-I", "-S", "-c", _BOOT, str(far.fileno())],
                pass_fds=(far.fileno(), *held),
                env={},
                cwd=Path(__file__).parent,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                start_new_session=True,
            )
        finally:
            far.close()
            for fd in held:
                os.close(fd)
        near.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, protocol.timeval(_PATIENCE))
        self._sock: _socket.socket | None = near
        _engines.add(self)
        try:
            owner = os.pidfd_open(self.pid)
        except OSError as error:
            self.close()
            raise StepFailed("pidfd_open", error.errno or 0, "") from None
        try:
            protocol.send_json(near, {}, (owner,))
            self.found: dict[str, Any] = self._receive("start")[0]
        except BaseException:
            self.close()
            raise
        finally:
            os.close(owner)

    @property
    def usable(self) -> bool:
        """It can still be asked: open, of this process, and its server lives."""
        return self._sock is not None and self.pid == os.getpid() and self._process.poll() is None

    def call(self, op: str, fds: tuple[int, ...] = (), **request: object) -> tuple[Any, list[int]]:
        """One request. Raises StepFailed for a failed step, ProviderError if the fork server is gone."""
        with self._lock:
            if self._sock is None or self.pid != os.getpid():
                raise ProviderError(
                    "namespaces",
                    op,
                    "the fork server belongs to another process" if self._sock else "the fork server was closed",
                    hint="after os.fork, use sandboxes in the process that made them",
                )
            # Whoever was interrupted left an answer behind that is nobody's: it has another number.
            self._number += 1
            try:
                protocol.send_json(self._sock, {"op": op, "number": self._number, **request}, fds)
            except (BrokenPipeError, ConnectionResetError):
                raise self._gone(op) from None
            except OSError as error:
                raise explain_send(error, op) from None
            return self._receive(op)

    def _receive(self, op: str) -> tuple[Any, list[int]]:
        answer: Any = {"number": -1}
        fds: list[int] = []
        while answer["number"] not in (self._number, protocol.ANY):
            for fd in fds:
                os.close(fd)
            if self._sock is None:
                raise self._gone(op)
            try:
                answer, fds = protocol.receive_json(self._sock)
            except ConnectionResetError:
                raise self._gone(op) from None
            except BlockingIOError:
                self._sock.close()
                self._sock = None
                raise ProviderError(
                    "namespaces", op, f"its fork server did not answer for {_PATIENCE:g} seconds"
                ) from None
            if answer is None:
                raise self._gone(op)
        if "error" in answer:
            raise StepFailed(*answer["error"])
        return answer["ok"], fds

    def _gone(self, op: str) -> ProviderError:
        status = self._process.poll()
        size = os.fstat(self._log).st_size if self._log >= 0 else 0
        tail = os.pread(self._log, 2000, max(0, size - 2000)).decode("utf-8", "backslashreplace") if size else ""
        return ProviderError("namespaces", op, f"its fork server ended (status {status}) {tail}".strip())

    def close(self) -> None:
        """End the server and all its sandboxes; in a forked child only let go of the descriptors."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        if self.pid == os.getpid():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            if self._process.returncode is None:
                self._process.kill()
                self._process.wait()
        else:
            self._process.returncode = 0  # not our child: its finaliser must not wait for it

    def __del__(self) -> None:
        if getattr(self, "_sock", None) is not None:
            self.close()


def _forget_after_fork() -> None:
    """A forked child would keep the sandboxes' sockets open beyond their owner's death."""
    for engine in list(_engines):
        engine._lock = threading.Lock()
        engine.close()


os.register_at_fork(after_in_child=_forget_after_fork)
