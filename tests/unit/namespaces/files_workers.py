"""Workers for FileClient without a sandbox: an honest one in a thread, and one that follows a script."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from typing import IO

from pytest_airlock.errors import ProviderError
from pytest_airlock.providers.namespaces.engine import files


class ThreadWorker:
    """Runs `work(request, source, sink)` (default: the real files.serve) at the other ends of two pipes."""

    def __init__(self, request: bytes, work: Callable[[bytes, int, int], None] = files.serve) -> None:
        self.killed = self.finished = False
        source, stdin = os.pipe()
        stdout, sink = os.pipe()
        self.stdin: IO[bytes] = os.fdopen(stdin, "wb", buffering=0)
        self.stdout: IO[bytes] = os.fdopen(stdout, "rb", buffering=0)
        self._thread = threading.Thread(target=self._run, args=(work, request, source, sink))
        self._thread.start()

    def death(self) -> Exception:
        return ProviderError("fake", "serve", "its worker ended before its work")

    @staticmethod
    def _run(work: Callable[[bytes, int, int], None], request: bytes, source: int, sink: int) -> None:
        try:
            work(request, source, sink)
        finally:
            os.close(source)
            os.close(sink)

    def finish(self) -> None:
        self.finished = True
        self._let_go()

    def kill(self) -> None:
        self.killed = True
        self._let_go()

    def _let_go(self) -> None:
        """Closed pipes end an honest worker and every scripted one."""
        self.stdin.close()
        self.stdout.close()
        self._thread.join()


def scripted(data: bytes) -> Callable[[bytes], ThreadWorker]:
    """Workers that hear nothing and answer with these bytes."""

    def work(_: bytes, __: int, sink: int) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(sink, view) :]
        except BrokenPipeError:
            return  # the client has seen enough

    return lambda request: ThreadWorker(request, work)


def silent(request: bytes) -> ThreadWorker:
    """A worker that is stopped: it neither reads nor answers, until it is killed."""

    def work(_: bytes, source: int, __: int) -> None:
        poll = select.poll()
        poll.register(source, 0)  # POLLHUP only: its input stays unread, its end is the kill
        poll.poll()

    return ThreadWorker(request, work)
