"""The start of the network process."""

from __future__ import annotations

import os
import sys

from .. import protocol
from . import process
from .registry import Registry

__all__ = ["start"]


def start(control: int, owner: int) -> Registry:
    """Fork the network process, before anything of the fork server's own world is made. It ends with the fork server, or with
    the client, whose channel `control` and whose pidfd `owner` is.
    """
    near, far = protocol.channel()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            # Of the fork server's sockets none may stay open here beyond its death.
            protocol.close_others({0, 1, 2, control, far.fileno(), owner})
            process.run(control, far, owner, parent)
        except Exception:  # noqa: BLE001 - nobody is above us: it goes to the log of the fork server
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(0)
    far.close()
    os.close(control)
    return Registry(near, pid)
