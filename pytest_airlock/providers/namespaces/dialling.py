"""Starts the process that reaches the outside world for a network process (engine/net/dialler.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pytest_airlock.providers.namespaces.caller import Caller
from pytest_airlock.providers.namespaces.engine import protocol

__all__ = ["begin_dialler"]

_BOOT = "import os, sys; sys.path.insert(0, os.getcwd()); from engine.net.dialler import main; main(int(sys.argv[1]))"


def begin_dialler(network: Caller, log: int) -> subprocess.Popen[bytes]:
    """It ends with the network process that `network` speaks to, and writes what fails to `log`."""
    near, far = protocol.channel()
    try:
        dialler = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _BOOT, str(far.fileno())],
            pass_fds=(far.fileno(),),
            env={},
            cwd=Path(__file__).parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
        try:
            network.call("dialler", (near.fileno(),))
        except BaseException:
            dialler.kill()  # nobody asks it
            dialler.wait()
            raise
    finally:
        near.close()
        far.close()
    return dialler
