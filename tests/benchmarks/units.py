"""Numbers as a reader takes them in."""

from __future__ import annotations

_TIMES = ((1.0, "s"), (1e-3, "ms"), (0.0, "µs"))
_SIZES = ((1e9, "GB"), (1e6, "MB"), (0.0, "kB"))


def time_text(seconds: float) -> str:
    return _scaled(seconds, _TIMES, {"s": 1.0, "ms": 1e-3, "µs": 1e-6})


def size_text(count: float) -> str:
    return _scaled(count, _SIZES, {"GB": 1e9, "MB": 1e6, "kB": 1e3})


def number_text(value: float) -> str:
    """Three significant digits, or all before the point."""
    magnitude = abs(value)
    return f"{value:,.{0 if magnitude >= 100 else 1 if magnitude >= 10 else 2}f}"


def _scaled(value: float, floors: tuple[tuple[float, str], ...], factors: dict[str, float]) -> str:
    unit = next(unit for floor, unit in floors if abs(value) >= floor)
    return f"{number_text(value / factors[unit])} {unit}"
