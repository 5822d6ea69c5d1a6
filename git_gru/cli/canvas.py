"""Curves in a terminal: a canvas of braille characters, each of which holds 2 × 4 dots (Unicode, block U+2800)."""

import itertools
import math
from collections.abc import Sequence

from rich.text import Text

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of a dot, by its row and column in a character."""

Curve = Sequence[tuple[float, float]]


class Canvas:
    """`width` × `height` characters; curves are drawn over each other, each in its own style."""

    def __init__(self, width: int, height: int) -> None:
        self._width, self._height = width, height
        self._bits = [[0] * width for _ in range(height)]
        self._styles = [[""] * width for _ in range(height)]

    def draw(
        self, curve: Curve, *, x_range: tuple[float, float], y_range: tuple[float, float], style: str
    ) -> None:
        """Draws a curve, its points joined by straight lines; the ranges are those that the canvas shows."""
        dots = [(self._column(x, x_range), self._row(y, y_range)) for x, y in curve]
        if len(dots) == 1:
            self._set(*dots[0], style)
        for (x0, y0), (x1, y1) in itertools.pairwise(dots):
            length = max(abs(x1 - x0), abs(y1 - y0), 1)
            for i in range(length + 1):
                self._set(x0 + round((x1 - x0) * i / length), y0 + round((y1 - y0) * i / length), style)

    def lines(self) -> list[Text]:
        """The rows, top to bottom."""
        return [
            Text.assemble(
                *(
                    (chr(0x2800 + bits) if bits else " ", style)
                    for bits, style in zip(row, styles, strict=True)
                )
            )
            for row, styles in zip(self._bits, self._styles, strict=True)
        ]

    def _column(self, x: float, x_range: tuple[float, float]) -> int:
        return round(_share(x, x_range) * (2 * self._width - 1))

    def _row(self, y: float, y_range: tuple[float, float]) -> int:
        return round((1 - _share(y, y_range)) * (4 * self._height - 1))

    def _set(self, x: int, y: int, style: str) -> None:
        self._bits[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
        self._styles[y // 4][x // 2] = style


def _share(value: float, of: tuple[float, float]) -> float:
    """Where `value` stands between the two ends, from 0 to 1; the middle where there is no between."""
    low, high = of
    return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.5


def chart(curves: Sequence[tuple[Curve, str]], width: int, height: int) -> list[Text]:
    """A canvas with its scale at the left (largest and least value) and the first and last x below: `height` lines.

    Values that are no finite numbers are left out.
    """
    curves = [([(x, y) for x, y in curve if math.isfinite(y)], style) for curve, style in curves]
    points = [point for curve, _ in curves for point in curve]
    if not points or height < 2:
        return [Text()] * height
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_range, y_range = (min(xs), max(xs)), (min(ys), max(ys))
    top, bottom = _label(y_range[1]), _label(y_range[0])
    margin = max(len(top), len(bottom), 6)
    canvas = Canvas(max(4, width - margin - 2), height - 1)
    for curve, style in curves:
        canvas.draw(curve, x_range=x_range, y_range=y_range, style=style)
    rows = canvas.lines()
    labels = [""] * len(rows)
    labels[0] = top
    if len(rows) > 1 and bottom != top:
        labels[-1] = bottom
    shown = [
        Text.assemble((f"{label:>{margin}} ", "dim"), ("│", "dim"), row)
        for label, row in zip(labels, rows, strict=True)
    ]
    first, last = f"{x_range[0]:g}", f"{x_range[1]:g}"
    gap = max(1, width - margin - 2 - len(first) - len(last))
    return [*shown, Text(f"{'':>{margin}}  {first}{'':{gap}}{last}", "dim")]


def _label(value: float) -> str:
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
