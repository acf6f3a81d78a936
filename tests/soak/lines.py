"""A line plot as SVG, without a library; readable on a light and on a dark page."""

from __future__ import annotations

from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 130, 40, 44
COLOURS = ("#2a78d6", "#d96c2a", "#3a9d5d", "#8a5cc7")
INK = "#808080"


class Line(NamedTuple):
    name: str
    xs: list[int]
    ys: list[float]


def plot(title: str, across: str, up: str, lines: list[Line]) -> str:
    """From 0 upwards, so that flat looks flat and growth looks like growth."""
    right = max(max(line.xs) for line in lines) or 1
    step = _step(max(max(line.ys) for line in lines))
    top = step * (int(max(max(line.ys) for line in lines) / step) + 1)

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + x / right * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<text x="{LEFT}" y="20" font-size="14" font-weight="bold" fill="{INK}">{escape(title)}</text>',
    ]
    for number in range(round(top / step) + 1):
        x, y = at(0, number * step)
        parts.append(f'<path d="M{x:.0f} {y:.1f}H{WIDTH - RIGHT}" stroke="{INK}" stroke-opacity="0.25"/>')
        parts.append(f'<text x="{x - 6:.0f}" y="{y + 4:.1f}" text-anchor="end" fill="{INK}">{number * step:g}</text>')
    for part in range(5):
        x, y = at(right * part / 4, 0)
        text = f"{right * part / 4:,.0f}"
        parts.append(f'<text x="{x:.0f}" y="{y + 18:.0f}" text-anchor="middle" fill="{INK}">{text}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle" fill="{INK}">{escape(across)}</text>')
    parts.append(f'<text x="{LEFT - 6}" y="{TOP - 6}" text-anchor="end" fill="{INK}">{escape(up)}</text>')
    for line, colour in zip(lines, COLOURS, strict=False):
        points = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in zip(line.xs, line.ys, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        x, y = at(line.xs[-1], line.ys[-1])
        parts.append(f'<text x="{x + 8:.0f}" y="{y + 4:.1f}" fill="{colour}">{escape(line.name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _step(most: float) -> float:
    """Of 1, 2 or 5 times a power of ten: some five of them reach `most`."""
    step = 1e-6
    while True:
        for factor in (1, 2, 5):
            if most <= 5 * factor * step:
                return factor * step
        step *= 10
