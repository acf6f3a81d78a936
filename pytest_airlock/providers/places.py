"""Where a provider may keep the sockets of its live sandboxes: private to the user, and visible in no sandbox (r41)."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

__all__ = ["run_time_dir"]


def run_time_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """XDG_RUNTIME_DIR or /run/user/UID where that is a directory of ours with mode 0700, as the XDG Base Directory
    Specification demands; else `run` below AIRLOCK_STATE_DIR or the user's state directory, which need not be there yet.
    """
    for text in (environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{os.getuid()}"):
        if os.path.isabs(text) and _is_private(text):
            return Path(text)
    chosen = environ.get("AIRLOCK_STATE_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute() / "run"
    import platformdirs

    return Path(platformdirs.user_state_dir("pytest-airlock", appauthor=False)).absolute() / "run"


def _is_private(path: str) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) == 0o700
