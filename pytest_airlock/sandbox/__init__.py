"""What a test holds: a Sandbox, its files, its network, its diff, its commands.

sandbox.py (Sandbox) · command.py, execution.py, pump.py, result.py (run) · popen.py · paths.py, copying.py (files) ·
diff.py · network.py, fakes/ (servers behind real names) · transcript.py · backend.py (the contract below)
"""

from __future__ import annotations

from pytest_airlock.sandbox.copying import Copied
from pytest_airlock.sandbox.diff import DEFAULT_IGNORE, ChangedPath, Diff
from pytest_airlock.sandbox.fakes import Headers, OpenRoute, Request, Served
from pytest_airlock.sandbox.network import NetworkAttempts, SandboxNetwork
from pytest_airlock.sandbox.paths import SandboxPath
from pytest_airlock.sandbox.popen import Popen
from pytest_airlock.sandbox.ports import Forward
from pytest_airlock.sandbox.result import CompletedProcess
from pytest_airlock.sandbox.sandbox import Sandbox, Snapshot
from pytest_airlock.sandbox.transcript import Transcript, TranscriptEntry, escape

__all__ = [
    "DEFAULT_IGNORE",
    "ChangedPath",
    "CompletedProcess",
    "Copied",
    "Diff",
    "Forward",
    "Headers",
    "NetworkAttempts",
    "OpenRoute",
    "Popen",
    "Request",
    "Sandbox",
    "SandboxNetwork",
    "SandboxPath",
    "Served",
    "Snapshot",
    "Transcript",
    "TranscriptEntry",
    "escape",
]
