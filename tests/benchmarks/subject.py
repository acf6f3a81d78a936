"""The thing under test: sandboxes as a test gets them, from one session with a store of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_airlock import Sandbox, SandboxSpec
from pytest_airlock.orchestrator import AirlockSession, Setup


@contextmanager
def subject(state_dir: Path) -> Iterator[tuple[Callable[[], Sandbox], Callable[[Sandbox], None]]]:
    """Functions that create and destroy one sandbox, both through the SandboxManager with store and lease."""
    session = AirlockSession(Setup(state_dir=state_dir))
    spec = SandboxSpec(profile="cautious")
    try:
        # What is never pooled is destroyed when it is released.
        yield lambda: session.create_named(spec, "benchmark"), session.release
    finally:
        session.close()
