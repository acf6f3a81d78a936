"""Which errors pytest shows at the line of the test, without the frames of this package in between."""

from __future__ import annotations

from typing import Any

from pytest_airlock.errors import AirlockError, ProviderError

__all__ = ["told"]


def told(excinfo: Any) -> bool:
    """The value of `__tracebackhide__` in functions that tests call: what became of a command is told by the error alone.

    A fault of the provider, or of ours, is shown with all frames.
    """
    error = getattr(excinfo, "value", None)
    return isinstance(error, (AirlockError, OSError)) and not isinstance(error, ProviderError)
