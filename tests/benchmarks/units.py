"""Numbers as a reader takes them in."""

from __future__ import annotations

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def time_text(seconds: float) -> str:
    factor, unit = _unit(seconds, _TIMES)
    return f"{number_text(seconds / factor)} {unit}"


def size_text(count: float) -> str:
    factor, unit = _unit(count, _SIZES)
    return f"{number_text(count / factor)} {unit}"


def tick_text(seconds: float) -> str:
    """A time of the axis: no digits that say nothing."""
    factor, unit = _unit(seconds * 1.001, _TIMES)  # a power of ten may lie a rounding error below itself
    return f"{seconds / factor:g} {unit}"


def number_text(value: float) -> str:
    """Three significant digits, or all before the point."""
    magnitude = abs(value)
    return f"{value:,.{0 if magnitude >= 100 else 1 if magnitude >= 10 else 2}f}"


def _unit(value: float, units: tuple[tuple[float, str], ...]) -> tuple[float, str]:
    """The largest that is no larger than the value, or the smallest."""
    return next((unit for unit in units if abs(value) >= unit[0]), units[-1])
