"""What a test holds: a Sandbox, its files, its network, its diff, its commands.

sandbox.py (Sandbox) · command.py, execution.py, pump.py, result.py (run) · popen.py · paths.py, copying.py (files) ·
diff.py · network.py · transcript.py · backend.py (the contract below)
"""

from __future__ import annotations

from pytest_airlock.sandbox.copying import Copied
from pytest_airlock.sandbox.diff import DEFAULT_IGNORE, ChangedPath, Diff
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
    "NetworkAttempts",
    "Popen",
    "Sandbox",
    "SandboxNetwork",
    "SandboxPath",
    "Snapshot",
    "Transcript",
    "TranscriptEntry",
    "escape",
]
