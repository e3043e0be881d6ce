"""Small line plots with Pillow: panels side by side, with axes, ticks and a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito
SCALE = 2  # drawn so much larger, then made smaller: smooth lines
LEFT, RIGHT, TOP, BOTTOM = 64, 18, 34, 48  # margins, pixels
GREY, BLACK = "#dddddd", "#222222"


@dataclass(frozen=True)
class Line:
    """One line: its name in the legend, its points, and a short text at some of them."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    notes: Sequence[str] = ()
    dots: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes; ``marks`` are vertical lines: a place on x and a text.

    What lies beyond a given range is drawn at its edge.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    marks: Sequence[tuple[float, str]] = field(default=())
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Give round numbers between two, about so many.

    >>> ticks(0, 1), ticks(0.03, 0.17, 4)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.05, 0.1, 0.15])
    """
    step = 10.0 ** math.floor(math.log10((high - low) / about))
    for factor in (1, 2, 5, 10):
        if (high - low) / (step * factor) <= about:
            step *= factor
            break
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def draw(panels: Sequence[Panel], size: tuple[int, int] = (520, 380)) -> Image:
    """Draw panels side by side.

    Points that are not finite are left out.

    Args:
        panels: at least one.
        size: width and height of each, pixels.

    Returns:
        An RGB Pillow image.

    >>> draw([Panel("t", "x", "y", [Line("a", [0, 1], [1, 2])])], (200, 150)).size
    (200, 150)
    """
    from PIL import Image

    width, height = size
    whole = Image.new("RGB", (width * len(panels) * SCALE, height * SCALE), "white")
    for i, panel in enumerate(panels):
        _Axes(whole, panel, i * width, size).draw()
    return whole.resize((width * len(panels), height), Image.Resampling.LANCZOS)


def save(panels: Sequence[Panel], path: str | Path, size: tuple[int, int] = (520, 380)) -> None:
    """Draw panels into a PNG file, written beside and renamed."""
    from segflow.volumes.files import replacing

    with replacing(path) as beside:
        draw(panels, size).save(beside, "PNG")


class _Axes:
    """The drawing of one panel, whose left edge is at ``left``."""

    def __init__(self, image: Image, panel: Panel, left: int, size: tuple[int, int]) -> None:
        from PIL import ImageDraw, ImageFont

        self.panel, self.image = panel, image
        self.pen = ImageDraw.Draw(image)
        self.font = ImageFont.load_default(12 * SCALE)
        self.x0, self.x1 = left + LEFT, left + size[0] - RIGHT
        self.y0, self.y1 = size[1] - BOTTOM, TOP
        self.lines = [
            [(x, y, str(note)) for x, y, note in _points(line) if math.isfinite(x) and math.isfinite(y)]
            for line in panel.lines
        ]
        self.x_range = panel.x_range or _span([p[0] for line in self.lines for p in line])
        self.y_range = panel.y_range or _span([p[1] for line in self.lines for p in line])

    def draw(self) -> None:
        """Draw grid, lines, marks and legend."""
        panel = self.panel
        for value in ticks(*self.x_range):
            x = self.x(value)
            self.stroke([(x, self.y0), (x, self.y1)], GREY, 1)
            self.text((x, self.y0 + 5), f"{value:g}", "mt")
        for value in ticks(*self.y_range):
            y = self.y(value)
            self.stroke([(self.x0, y), (self.x1, y)], GREY, 1)
            self.text((self.x0 - 6, y), f"{value:g}", "rm")
        self.stroke([(self.x0, self.y1), (self.x0, self.y0), (self.x1, self.y0)], BLACK, 1)
        for at, text in panel.marks:
            self.stroke([(self.x(at), self.y0), (self.x(at), self.y1)], "#888888", 1.5)
            self.text((self.x(at), self.y1 - 2), text, "mb", "#555555")
        for i, (line, points) in enumerate(zip(panel.lines, self.lines)):
            self.line(line, points, COLOURS[i % len(COLOURS)])
        self.text(((self.x0 + self.x1) / 2, self.y1 - 18), panel.title, "mb")
        self.text(((self.x0 + self.x1) / 2, self.y0 + 24), panel.x_label, "mt")
        self.sideways(panel.y_label)
        self.legend()

    def line(self, line: Line, points: list[tuple[float, float, str]], colour: str) -> None:
        """Draw one line, with its dots and notes."""
        places = [(self.x(x), self.y(y)) for x, y, _ in points]
        noted: list[tuple[float, float]] = []
        if len(places) > 1:
            self.stroke(places, colour, 2)
        for (x, y), (_, _, note) in zip(places, points):
            if line.dots or len(places) == 1:
                self.pen.ellipse([v * SCALE for v in (x - 2.5, y - 2.5, x + 2.5, y + 2.5)], fill=colour)
            if note and all(abs(x - a) > 30 or abs(y - b) > 14 for a, b in noted):
                self.text((x + 5, y - 2), note, "lb")
                noted.append((x, y))

    def legend(self) -> None:
        """Name the lines, at the corner or side where the fewest points lie."""
        names = [(i, line.name) for i, line in enumerate(self.panel.lines) if line.name]
        if not names:
            return
        width = max(self.font.getlength(name) for _, name in names) / SCALE + 34
        height = 17 * len(names) + 6
        across = self.x1 - width - 4, self.x0 + 6
        down = self.y1 + 4, self.y0 - height - 4, (self.y0 + self.y1 - height) / 2
        spots = [(x, y) for y in down for x in across]
        left, top = min(spots, key=lambda s: self.covered(s[0], s[1], width, height))
        box = [v * SCALE for v in (left, top, left + width, top + height)]
        self.pen.rectangle(box, fill="white", outline=GREY, width=SCALE)
        for row, (i, name) in enumerate(names):
            y = top + 11 + 17 * row
            self.stroke([(left + 6, y), (left + 24, y)], COLOURS[i % len(COLOURS)], 2)
            self.text((left + 29, y), name, "lm")

    def covered(self, left: float, top: float, width: float, height: float) -> int:
        """Count steps along the lines that a box would hide."""
        hidden = 0
        for line in self.lines:
            places = [(self.x(x), self.y(y)) for x, y, _ in line]
            for (a, b), (c, d) in zip(places, places[1:]):
                for k in range(9):
                    x, y = a + (c - a) * k / 8, b + (d - b) * k / 8
                    hidden += left <= x <= left + width and top <= y <= top + height
        return hidden

    def x(self, value: float) -> float:
        """Give the pixel of a value on x."""
        low, high = self.x_range
        value = min(max(value, low), high)
        return self.x0 + (value - low) / (high - low) * (self.x1 - self.x0)

    def y(self, value: float) -> float:
        """Give the pixel of a value on y."""
        low, high = self.y_range
        value = min(max(value, low), high)
        return self.y0 + (value - low) / (high - low) * (self.y1 - self.y0)

    def stroke(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        """Draw lines between points."""
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self.pen.line(scaled, fill=colour, width=round(width * SCALE), joint="curve")

    def text(self, at: tuple[float, float], words: str, anchor: str, colour: str = BLACK) -> None:
        """Write words at a point."""
        place = (at[0] * SCALE, at[1] * SCALE)
        self.pen.text(place, words, font=self.font, fill=colour, anchor=anchor)

    def sideways(self, words: str) -> None:
        """Write the name of the y axis, turned."""
        from PIL import Image, ImageDraw

        length = int(self.font.getlength(words)) + 4
        strip = Image.new("RGB", (length, 18 * SCALE), "white")
        ImageDraw.Draw(strip).text((2, 9 * SCALE), words, font=self.font, fill=BLACK, anchor="lm")
        middle = (self.y0 + self.y1) / 2 * SCALE
        place = (round((self.x0 - LEFT + 4) * SCALE), max(0, round(middle - length / 2)))
        self.image.paste(strip.rotate(90, expand=True), place)


def _points(line: Line) -> list[tuple[float, float, str]]:
    notes: list[Any] = [*line.notes, *[""] * (len(line.x) - len(line.notes))]
    return [(float(x), float(y), note) for x, y, note in zip(line.x, line.y, notes)]


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Give the range of an axis: that of the values, from 0 where they come near it."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if low >= 0 and low <= 0.5 * high:
        low = 0.0
    if high - low < 1e-9 * max(abs(high), 1):
        return low - 0.5, high + 0.5
    edge = 0.04 * (high - low)
    return (low if low == 0 else low - edge), high + edge
