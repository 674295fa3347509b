"""A small vocabulary for charts as inline SVG: scales, a frame with axes, marks. Knows no metrics.

Colours are CSS classes (``s0`` .. ``s5`` for series), so that one page style serves light, dark and print. A drawing
says enough of itself in ``data-`` attributes (scales, titles, which entry of the legend a mark belongs to) for the
page's script to tell its values, zoom it and hide series. Without it a drawing is whole, and ``<title>`` tells marks.
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
    """An SVG drawing with a plot area. Marks are added in pixels through ``x`` and ``y``.

    A mark's ``group`` is the number of its entry in ``legend``, -1 for what cannot be hidden. ``axis`` names the x axis
    that charts of this name share; ``fixed`` charts have none that could be zoomed.
    """

    title: str
    x_title: str
    y_title: str
    width: int = 520
    height: int = 260
    left: int = 56
    axis: str = ""
    fixed: bool = False
    bottom: int = 42
    marks: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    x: Scale = field(default_factory=lambda: Scale(0, 1, 0, 1))
    y: Scale = field(default_factory=lambda: Scale(0, 1, 0, 1))
    legend: list[tuple[str, str]] = field(default_factory=list)
    _taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def set_x(self, low: float, high: float, *, log: bool = False) -> None:
        """The horizontal range."""
        self.x = Scale(low, high, self.left, self.width - 14, log)

    def set_y(self, low: float, high: float, *, log: bool = False) -> None:
        """The vertical range, upwards."""
        self.y = Scale(low, high, self.height - self.bottom, 34, log)

    def rect(
        self, xs: tuple[float, float], ys: tuple[float, float], css: str, tip: str = "", *, group: int = -1
    ) -> None:
        """A filled box spanning two x and two y pixels."""
        left, top = min(xs), min(ys)
        size = f'width="{max(max(xs) - left, 0.5):.2f}" height="{max(ys) - top:.2f}"'
        head = f'<rect class="{css}"{_group(group)}'
        self.marks.append(f'{head} x="{left:.2f}" y="{top:.2f}" {size}>{_tip(tip)}</rect>')

    def line(
        self,
        points: Sequence[tuple[float, float]],
        css: str,
        tip: str = "",
        *,
        group: int = -1,
        has_values: bool = False,
    ) -> None:
        """An open path through points in pixels; ``has_values`` where a reader may ask for the value of each point."""
        asked = ' data-values=""' if has_values else ""
        path = " ".join(f"{a:.2f},{b:.2f}" for a, b in points)
        self.marks.append(f'<polyline class="line {css}"{_group(group)}{asked} points="{path}">{_tip(tip)}</polyline>')

    def dot(self, x: float, y: float, css: str, tip: str = "", *, group: int = -1) -> None:
        """A point in pixels."""
        self.marks.append(
            f'<circle class="dot {css}"{_group(group)} cx="{x:.2f}" cy="{y:.2f}" r="4">{_tip(tip)}</circle>'
        )

    def text(self, x: float, y: float, text: str, *, anchor: str = "start", group: int = -1) -> None:
        """A label at a point in pixels, which goes where its point goes and stands above all marks."""
        where = f'x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}"'
        self.labels.append(f'<text class="label"{_group(group)} {where}>{escape(text)}</text>')

    def name(self, x: float, y: float, text: str, *, group: int = -1) -> None:
        """A label beside a point, on a side where no other of these stands; where there is none, its tip must do."""
        wide = text_width(text)
        for over, left in ((-6, x + 7), (-6, x - 7 - wide), (14, x + 7), (14, x - 7 - wide)):
            box = (left, y + over - 10, left + wide, y + over + 2)
            is_free = all(
                box[2] < other[0] or other[2] < box[0] or box[3] < other[1] or other[3] < box[1]
                for other in self._taken
            )
            if is_free and self.left <= box[0] and box[2] <= self.width:
                self._taken.append(box)
                self.text(left, y + over, text, group=group)
                return

    def caption(self, x: float, y: float, text: str, *, anchor: str = "end", css: str = "label", turn: int = 0) -> None:
        """A text of the frame, which stays where it is; turned by so many degrees."""
        where = f'x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}"'
        turned = f' transform="rotate({turn} {x:.2f} {y:.2f})"' if turn else ""
        self.captions.append(f'<text class="{css}" {where}{turned}>{escape(text)}</text>')

    def marker(self, value: float, label: str, row: int = 0) -> None:
        """A vertical reference line at an x value, labelled at the top."""
        at = self.x(value)
        self.line([(at, self.y.start), (at, self.y.end)], "ref")
        near_edge = at > self.width - 14 - text_width(label)
        self.text(
            at + (-4 if near_edge else 4), self.y.end + 10 + 13 * row, label, anchor="end" if near_edge else "start"
        )

    def svg(self, *, x_ticks: bool = True, y_ticks: bool = True) -> str:
        """The whole drawing, with or without labelled grid lines on each axis, and its legend, as a figure."""
        top, bottom = self.y.end, self.y.start
        middle = (self.x.start + self.x.end) / 2
        turn = f'transform="translate(13 {(top + bottom) / 2}) rotate(-90)"'
        parts = [
            f'<text class="title" x="{self.left}" y="16">{escape(self.title)}</text>',
            f'<g class="x-ticks">{"".join(map(self._x_tick, self.x.ticks() if x_ticks else ()))}</g>',
            f'<g class="y-ticks">{"".join(map(self._y_tick, self.y.ticks() if y_ticks else ()))}</g>',
            f'<text class="axis" x="{middle}" y="{bottom + 32}" text-anchor="middle">{escape(self.x_title)}</text>',
            f'<text class="axis" {turn} text-anchor="middle">{escape(self.y_title)}</text>',
            f'<g class="marks">{"".join([*self.marks, *self.labels])}</g>',
            *self.captions,
        ]
        scales = f'data-x="{_scale(self.x)}" data-y="{_scale(self.y)}"'
        named = f'data-x-title="{escape(self.x_title)}" data-y-title="{escape(self.y_title)}"'
        shared = (f' data-axis="{escape(self.axis)}"' if self.axis else "") + (' data-fixed=""' if self.fixed else "")
        box = f'viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(self.title)}"'
        drawing = f"<svg {box} {scales} {named}>{''.join(parts)}</svg>"
        return f'<figure class="chart"{shared}>{drawing}{self._legend()}</figure>'

    def _x_tick(self, value: float) -> str:
        at, bottom = self.x(value), self.y.start
        line = f'<line class="grid" x1="{at:.2f}" x2="{at:.2f}" y1="{bottom}" y2="{self.y.end}"/>'
        return f'{line}<text class="tick" x="{at:.2f}" y="{bottom + 14}" text-anchor="middle">{tick_text(value)}</text>'

    def _y_tick(self, value: float) -> str:
        at = self.y(value)
        line = f'<line class="grid" x1="{self.left}" x2="{self.width - 14}" y1="{at:.2f}" y2="{at:.2f}"/>'
        place = f'x="{self.left - 6}" y="{at + 4:.2f}" text-anchor="end"'
        return f'{line}<text class="tick" {place}>{tick_text(value)}</text>'

    def _legend(self) -> str:
        items = "".join(
            f'<span data-group="{group}"><i class="{css}"></i>{escape(name)}</span>'
            for group, (name, css) in enumerate(self.legend)
        )
        return f'<figcaption class="legend">{items}</figcaption>' if items else ""


def text_width(text: str) -> float:
    """About how many pixels a label takes."""
    return len(text) * _CHAR_WIDTH


def series(number: int) -> str:
    """CSS classes of the n-th series; when the colours begin again, their lines are broken."""
    return f"s{number % NUM_SERIES}" + (" again" if number >= NUM_SERIES else "")


def _tip(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""


def _group(group: int) -> str:
    return f' data-group="{group}"' if group >= 0 else ""


def _scale(scale: Scale) -> str:
    """``low high start end kind``, as report.js reads it."""
    kind = "log" if scale.log else "linear"
    return f"{scale.low:.9g} {scale.high:.9g} {scale.start:g} {scale.end:g} {kind}"
