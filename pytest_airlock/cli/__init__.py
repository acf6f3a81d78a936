"""The `airlock` command: what another process may do with sandboxes.

looking.py (list, status) · visiting.py (run, shell) · steering.py (lock, unlock, allow) · ending.py (stop, destroy, gc) ·
doctor.py · common.py

A sandbox of a live run can be looked at and entered, and its network changed; it is never ended: that is its owner's.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status: 0, 1 (it failed, the text says why and what to do), 2 (usage)."""
    from pytest_airlock.cli.common import explain
    from pytest_airlock.errors import AirlockError

    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.verb(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads on, as with `| head`. What is still buffered must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except AirlockError as error:
        sys.stderr.write(explain(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    from pytest_airlock.cli import doctor, ending, looking, steering, visiting

    parser = argparse.ArgumentParser(
        prog="airlock", description="Look at, enter and remove the sandboxes of pytest-airlock."
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="where the records are (default: AIRLOCK_STATE_DIR, or the platform's)",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    looking.add_verbs(verbs)
    visiting.add_verbs(verbs)
    steering.add_verbs(verbs)
    ending.add_verbs(verbs)
    doctor.add_verbs(verbs)
    return parser
