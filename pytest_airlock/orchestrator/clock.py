"""The clock of the machine, behind contracts.Clock, so that tests can bring their own."""

from __future__ import annotations

import time

__all__ = ["SystemClock"]


class SystemClock:
    """contracts.Clock over the standard library."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
