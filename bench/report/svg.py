"""A small vocabulary for charts as inline SVG: scales, a frame with axes, marks. Knows no metrics.

Colours are CSS classes (``s0`` .. ``s5`` for series), so that one page style serves light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

NUM_SERIES = 6
_CHAR_WIDTH = 6.2


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps ``low..high`` to pixels ``start..end``, linearly or logarithmically."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Pixel of a value; values outside are clamped to the ends."""
        value = min(max(value, self.low), self.high)
        if self.high <= self.low:
            return (self.start + self.end) / 2
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside the range: 1, 2, 5 times powers of ten, about five of them."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [m * 10.0**p for p in powers for m in (1, 2, 5) if self.low <= m * 10.0**p <= self.high]
            return found if len(found) >= 2 else [self.low, self.high]
        raw = (self.high - self.low) / 5 or 1.0
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def tick_text(value: float) -> str:
    """A short label: 0.05, 2.5, 120, 1,500, 20k."""
    if abs(value) >= 10_000:
        return f"{value / 1000:,.4g}k"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


@dataclass(slots=True)
class Chart:
    """An SVG drawing with a plot area. Marks are added in pixels through ``x`` and ``y``."""

    title: str
    x_title: str
    y_title: str
    width: int = 520
    height: int = 260
    left: int = 56
    marks: list[str] = field(default_factory=list)
    x: Scale = field(default_factory=lambda: Scale(0, 1, 0, 1))
    y: Scale = field(default_factory=lambda: Scale(0, 1, 0, 1))
    legend: list[tuple[str, str]] = field(default_factory=list)

    def set_x(self, low: float, high: float, *, log: bool = False) -> None:
        """The horizontal range."""
        self.x = Scale(low, high, self.left, self.width - 14, log)

    def set_y(self, low: float, high: float, *, log: bool = False) -> None:
        """The vertical range, upwards."""
        self.y = Scale(low, high, self.height - 42, 34, log)

    def rect(self, xs: tuple[float, float], ys: tuple[float, float], css: str, tip: str = "") -> None:
        """A filled box spanning two x and two y pixels."""
        left, top = min(xs), min(ys)
        size = f'width="{max(max(xs) - left, 0.5):.2f}" height="{max(ys) - top:.2f}"'
        self.marks.append(f'<rect class="{css}" x="{left:.2f}" y="{top:.2f}" {size}>{_tip(tip)}</rect>')

    def line(self, points: Sequence[tuple[float, float]], css: str, tip: str = "") -> None:
        """An open path through points in pixels."""
        path = " ".join(f"{a:.2f},{b:.2f}" for a, b in points)
        self.marks.append(f'<polyline class="line {css}" points="{path}">{_tip(tip)}</polyline>')

    def dot(self, x: float, y: float, css: str, tip: str = "") -> None:
        """A point in pixels."""
        self.marks.append(f'<circle class="dot {css}" cx="{x:.2f}" cy="{y:.2f}" r="4">{_tip(tip)}</circle>')

    def text(self, x: float, y: float, text: str, *, anchor: str = "start", css: str = "label") -> None:
        """A label at a point in pixels."""
        where = f'x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}"'
        self.marks.append(f'<text class="{css}" {where}>{escape(text)}</text>')

    def marker(self, value: float, label: str, row: int = 0) -> None:
        """A vertical reference line at an x value, labelled at the top."""
        at = self.x(value)
        self.line([(at, self.y.start), (at, self.y.end)], "ref")
        near_edge = at > self.width - 14 - len(label) * _CHAR_WIDTH
        self.text(
            at + (-4 if near_edge else 4), self.y.end + 10 + 13 * row, label, anchor="end" if near_edge else "start"
        )

    def svg(self, *, x_ticks: bool = True, y_ticks: bool = True) -> str:
        """The whole drawing, with or without labelled grid lines on each axis."""
        parts = [f'<text class="title" x="{self.left}" y="16">{escape(self.title)}</text>']
        bottom = self.y.start
        for tick in self.x.ticks() if x_ticks else ():
            at = self.x(tick)
            parts.append(f'<line class="grid" x1="{at:.2f}" x2="{at:.2f}" y1="{bottom}" y2="{self.y.end}"/>')
            parts.append(
                f'<text class="tick" x="{at:.2f}" y="{bottom + 14}" text-anchor="middle">{tick_text(tick)}</text>'
            )
        for tick in self.y.ticks() if y_ticks else ():
            at = self.y(tick)
            ends = f'x1="{self.left}" x2="{self.width - 14}"'
            parts.append(f'<line class="grid" {ends} y1="{at:.2f}" y2="{at:.2f}"/>')
            place = f'x="{self.left - 6}" y="{at + 4:.2f}" text-anchor="end"'
            parts.append(f'<text class="tick" {place}>{tick_text(tick)}</text>')
        middle = (self.x.start + self.x.end) / 2
        parts.append(
            f'<text class="axis" x="{middle}" y="{bottom + 32}" text-anchor="middle">{escape(self.x_title)}</text>'
        )
        turn = f'transform="translate(13 {(self.y.start + self.y.end) / 2}) rotate(-90)"'
        parts.append(f'<text class="axis" {turn} text-anchor="middle">{escape(self.y_title)}</text>')
        parts.extend(self.marks)
        box = f'viewBox="0 0 {self.width} {self.height}"'
        label = escape(self.title, quote=True)
        return f'<svg {box} role="img" aria-label="{label}">{"".join(parts)}</svg>{self._legend()}'

    def _legend(self) -> str:
        items = "".join(f'<span><i class="{css}"></i>{escape(name)}</span>' for name, css in self.legend)
        return f'<div class="legend">{items}</div>' if items else ""


def series(number: int) -> str:
    """CSS class of the n-th series."""
    return f"s{number % NUM_SERIES}"


def _tip(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""
