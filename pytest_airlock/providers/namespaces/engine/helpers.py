"""Children of the fork server that do one thing beside it and die with it at the latest."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable

from . import syscalls
from .frames import FrameError

__all__ = ["begin", "join"]

#: Seconds after which one that hangs is ended by the kernel.
_PATIENCE = 600


def begin(work: Callable[[], None], *, nice: int = 0) -> int:
    """Fork a child that does `work`; its exit status is 0, or the errno of what went wrong. Returns its pid."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = errno.EIO
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 9)
        if os.getppid() == parent:  # else it died before it could be told
            signal.alarm(_PATIENCE)
            os.nice(nice)
            work()
            status = 0
    except OSError as error:
        status = error.errno or errno.EIO
    except (FrameError, EOFError):
        status = errno.EBADMSG
    except Exception:  # noqa: BLE001 - nobody is above us: it goes to the log of the fork server
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def join(pid: int) -> None:
    """Wait for such a child. Raises OSError with its errno; EIO if it was killed."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        code = status if status > 0 else errno.EIO
        raise OSError(code, os.strerror(code))
