"""A script of what goes wrong, and of what is held, in the operations of a fake."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["FaultScript", "Hold"]

#: A held operation that nobody releases is a fault of the test: it fails after so many seconds instead of hanging.
HOLD_LIMIT = 30.0


class Hold(NamedTuple):
    """`entered` is set once the operation is in it; the operation goes on when `release` is set."""

    entered: threading.Event
    release: threading.Event


@dataclass
class _Fault:
    operation: str
    name: str | None
    times: int
    when: Literal["before", "after"] = "before"
    error: BaseException | type[BaseException] | None = None
    hold: Hold | None = None

    def concerns(self, operation: str, name: str, when: str) -> bool:
        return self.times > 0 and self.when == when and self.operation == operation and self.name in (None, name)


class FaultScript:
    """Faults by operation (`"start"`, `"is_running"` …) and, if given, by sandbox name. Thread-safe.

    Faults of one operation happen in the order in which they were given, each `times` times.
    """

    def __init__(self) -> None:
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()

    def fail(
        self,
        operation: str,
        error: BaseException | type[BaseException],
        *,
        times: int = 1,
        name: str | None = None,
        when: Literal["before", "after"] = "before",
    ) -> None:
        """Raise `error` in the next `times` calls; with when="after" the operation is carried out first."""
        with self._lock:
            self._faults.append(_Fault(operation, name, times, when, error=error))

    def block(self, operation: str, *, name: str | None = None) -> Hold:
        """Hold the next call of `operation` until the test releases it."""
        hold = Hold(threading.Event(), threading.Event())
        with self._lock:
            self._faults.append(_Fault(operation, name, 1, hold=hold))
        return hold

    @contextmanager
    def around(self, operation: str, name: str = "") -> Iterator[None]:
        """What a fake wraps each of its operations in."""
        self._happen(operation, name, "before")
        yield
        self._happen(operation, name, "after")

    def _happen(self, operation: str, name: str, when: str) -> None:
        while fault := self._take(operation, name, when):
            if fault.hold:
                fault.hold.entered.set()
                if not fault.hold.release.wait(HOLD_LIMIT):
                    raise TimeoutError(f"{operation} of {name!r} was held and not released in {HOLD_LIMIT:g} s")
            if fault.error is not None:
                raise fault.error

    def _take(self, operation: str, name: str, when: str) -> _Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.concerns(operation, name, when):
                    fault.times -= 1
                    return fault
        return None
