"""The thing under test: sandboxes as a test gets them, from sessions with a store of their own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

from pytest_airlock import SandboxSpec
from pytest_airlock.orchestrator import AirlockSession, Setup
from pytest_airlock.providers.namespaces import client

SPEC = SandboxSpec(profile="cautious")


@contextmanager
def session(*, spares: bool = True) -> Iterator[AirlockSession]:
    """A session with an engine and a store of its own. Its engine runs when it is handed out."""
    with tempfile.TemporaryDirectory(prefix="airlock-bench-") as state:
        made = AirlockSession(Setup(state_dir=Path(state)))
        try:
            with nullcontext() if spares else _no_spares():
                made.release(made.create_named(SPEC, "benchmark"))
            yield made
        finally:
            made.close()


def _no_spares() -> AbstractContextManager[object]:
    """The one place where spares are forbidden: a fork server that is started meanwhile builds none."""
    start = "from engine.server import"
    assert start in client._BOOT
    # `*= 0` and not `= 0`: it fails where there is no such limit any more.
    boot = client._BOOT.replace(start, f"import engine.seats; engine.seats.MOST *= 0; {start}")
    return patch.object(client, "_BOOT", boot)
