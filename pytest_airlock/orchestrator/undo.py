"""Steps that are undone in reverse when a later one fails, without losing the first error nor any other."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Undo", "add_note"]


def add_note(error: BaseException, note: str) -> None:
    """PEP 678; Python 3.10 has no BaseException.add_note, but pytest shows __notes__ there too."""
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:
        error.__dict__.setdefault("__notes__", []).append(note)


class Undo:
    """What to do, in reverse, when it went wrong. `what` says what a failing step leaves behind."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], object]]] = []

    def add(self, what: str, step: Callable[[], object]) -> None:
        self._steps.append((what, step))

    def run(self, error: BaseException) -> list[str]:
        """Undo everything; clean-up errors become notes of `error`. Returns what remains."""
        remains = []
        while self._steps:
            what, step = self._steps.pop()
            try:
                step()
            except Exception as failed:  # noqa: BLE001 - attached to the error under way, which is the one to raise
                remains.append(what)
                add_note(error, f"while cleaning up, {what} could not be dealt with: {type(failed).__name__}: {failed}")
        return remains
