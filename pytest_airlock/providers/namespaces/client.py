"""The client of one fork server: starts it, speaks to it, notices its death, and stays out of forked children."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

from pytest_airlock.errors import ProviderError
from pytest_airlock.providers.namespaces.caller import Caller, StepFailed
from pytest_airlock.providers.namespaces.dialling import begin_dialler
from pytest_airlock.providers.namespaces.engine import protocol
from pytest_airlock.providers.namespaces.loader import interpreter

__all__ = ["Engine", "StepFailed"]

# Where the engine lies is told by the working directory: the command line can be read inside, as PID 1's.
_BOOT = "import os, sys; sys.path.insert(0, os.getcwd()); from engine.server import main; main(int(sys.argv[1]))"
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


class Engine:
    """One fork server and the network process beside it, and the sockets to them.

    The server is started with an empty environment and dies with this process: it holds our pidfd, and the sockets
    are closed in every child this process forks.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
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
        self._server = Caller(near, "fork server", self._how_it_ended)
        self._network: Caller | None = None
        self._hopping = False
        self._dialler: subprocess.Popen[bytes] | None = None
        _engines.add(self)
        try:
            self.found: dict[str, Any] = self._introduce()
        except BaseException:
            self.close()
            raise

    def _introduce(self) -> Any:
        """Give the server our pidfd, by which it knows that we live, and the network process its channel."""
        try:
            owner = os.pidfd_open(self.pid)
        except OSError as error:
            raise StepFailed("pidfd_open", error.errno or 0, "") from None
        near, far = protocol.channel()
        self._network = Caller(near, "network process", lambda: self._log_tail)
        try:
            return self._server.introduce((owner, far.fileno()))
        finally:
            far.close()
            os.close(owner)

    @property
    def usable(self) -> bool:
        """It can still be asked: open, of this process, and its server lives."""
        return self._server.usable and self._process.poll() is None

    def call(self, op: str, fds: tuple[int, ...] = (), **request: object) -> tuple[Any, list[int]]:
        """One request to the fork server. Raises StepFailed for a failed step, ProviderError if it is gone."""
        return self._server.call(op, fds, **request)

    def begin_hopper(self) -> None:
        """Have the network process be able to make sockets in sandboxes' networks; once."""
        if not self._hopping:
            self.call("hopper")
            self._hopping = True

    def forget_hopper(self) -> None:
        """It did not answer: the next who needs it begins another."""
        self._hopping = False

    def begin_dialler(self) -> None:
        """Have the network process be able to reach the outside world; one that is there already is left alone."""
        if self._network is None or (self._dialler is not None and self._dialler.poll() is None):
            return
        self._dialler = begin_dialler(self._network, self._log)

    def ask_network(self, op: str, **request: object) -> tuple[Any, list[int]]:
        """One request to the network process, in the same way."""
        if self._network is None:
            raise ProviderError("namespaces", op, "its network process was never started")
        return self._network.call(op, (), **request)

    def _how_it_ended(self) -> str:
        return f"(status {self._process.poll()}) {self._log_tail}"

    @property
    def _log_tail(self) -> str:
        size = os.fstat(self._log).st_size if self._log >= 0 else 0
        return os.pread(self._log, 2000, max(0, size - 2000)).decode("utf-8", "backslashreplace") if size else ""

    def close(self) -> None:
        """End the server and all its sandboxes; in a forked child only let go of the descriptors."""
        self._server.close()
        if self._network is not None:
            self._network.close()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        for process in (self._process, self._dialler):
            if process is None:
                continue
            if self.pid == os.getpid():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                if process.returncode is None:
                    process.kill()
                    process.wait()
            else:
                process.returncode = 0  # not our child: its finaliser must not wait for it

    def forget(self) -> None:
        """In a forked child."""
        self._server.forget()
        if self._network is not None:
            self._network.forget()
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_log", -1) >= 0:
            self.close()


def _forget_after_fork() -> None:
    """A forked child would keep the sandboxes' sockets open beyond their owner's death."""
    for engine in list(_engines):
        engine.forget()


os.register_at_fork(after_in_child=_forget_after_fork)
