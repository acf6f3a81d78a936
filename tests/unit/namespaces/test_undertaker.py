"""Who lets go of what the dead have left: nothing waits for it, nothing is forgotten, and it dies with its server."""

from __future__ import annotations

import os
import select
import signal

import pytest

from pytest_airlock.providers.namespaces.engine.undertaker import Undertaker


def ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 60)[0])


def test_what_it_is_given_is_closed_here_and_there() -> None:
    undertaker = Undertaker()
    for _ in range(100):
        read, write = os.pipe()
        undertaker.take([write])
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(write)
        # End of file: nobody has the other end any more.
        assert os.read(read, 1) == b""
        os.close(read)
    undertaker.close()


def test_all_is_closed_when_it_is_told_to_end() -> None:
    undertaker = Undertaker()
    pipes = [os.pipe() for _ in range(300)]
    for _, write in pipes:
        undertaker.take([write])
    undertaker.close()
    for read, _ in pipes:
        os.set_blocking(read, False)
        assert os.read(read, 1) == b""
        os.close(read)


def test_where_it_has_died_its_work_is_done_here() -> None:
    undertaker = Undertaker()
    pidfd = os.pidfd_open(undertaker._pid)
    os.kill(undertaker._pid, 9)
    assert ended(pidfd)
    os.close(pidfd)
    read, write = os.pipe()
    undertaker.take([write])
    assert os.read(read, 1) == b""
    os.close(read)
    undertaker.close()


def test_it_keeps_nothing_of_what_was_open_before_it() -> None:
    read, write = os.pipe()
    undertaker = Undertaker()
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)
    undertaker.close()


def test_it_dies_with_its_server() -> None:
    read, write = os.pipe()
    server = os.fork()
    if server == 0:
        os.write(write, str(Undertaker()._pid).encode())
        os.kill(os.getpid(), 9)
    pid = int(os.read(read, 20))
    os.waitpid(server, 0)
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert ended(pidfd)
    os.close(pidfd)


def test_one_that_was_stopped_keeps_a_handful_and_no_more() -> None:
    undertaker = Undertaker()
    os.kill(undertaker._pid, signal.SIGSTOP)
    pipes = [os.pipe() for _ in range(100)]
    kept = 0
    for read, write in pipes:
        undertaker.take([write])
        kept += not select.select([read], [], [], 0)[0]
        os.close(read)
    assert kept < 20
    undertaker.close()
