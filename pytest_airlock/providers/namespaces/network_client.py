"""What the network process remembers of one life of a sandbox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pytest_airlock.errors import ProviderError
from pytest_airlock.providers.base import Attempt, Attempts

__all__ = ["read_attempts"]

_VERDICTS: dict[str, Literal["refused", "allowed"]] = {"refused": "refused", "allowed": "allowed"}


def read_attempts(ask: Callable[..., Any], life: int) -> Attempts:
    """Every try until now, a page at a time. `ask` is Engine.ask_network."""
    made: list[Attempt] = []
    while True:
        page = ask("attempts", life=life, start=len(made))
        made.extend(map(_attempt, page["tried"]))
        if len(made) >= page["total"]:
            return Attempts(made, lost=page["lost"])
        if not page["tried"]:
            raise ProviderError("namespaces", "attempts", "its network process forgot what it had told of")


def _attempt(tried: list[Any]) -> Attempt:
    time, protocol, host, address, port, question, verdict = tried
    return Attempt(
        time,
        protocol,
        host or None,
        address,
        port if port >= 0 else None,
        question or None,
        _VERDICTS[verdict],
    )
