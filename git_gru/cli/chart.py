"""Curves as text: a canvas of braille characters, each two points wide and four high."""

import itertools
import math
from collections.abc import Sequence

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each point in a braille character, by row and column (Unicode, block U+2800)."""
_BLANK = 0x2800

_Point = tuple[int, int]


def chart(values: Sequence[float], *, width: int, height: int, present: int | None = None) -> list[str]:
    """One curve through `values` at equal steps, as `height` lines of at most `width` columns, with its range at the left.

    A dotted line stands before the value number `present`. Values that are no finite numbers leave a gap.
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    labels = [f"{high:.5g}", *[""] * (height - 2), f"{low:.5g}"]
    margin = max(map(len, labels)) + 1
    columns = max(2, width - margin - 1)
    cells = [[_BLANK] * columns for _ in range(height)]
    points = _points(values, 2 * columns, 4 * height, low, high)
    for point, following in itertools.pairwise([*points, None]):
        if point is not None:
            _draw(cells, point, following or point)
    rows = ["".join(chr(cell) if cell != _BLANK else " " for cell in row) for row in cells]
    if present is not None and 0 < present < len(values):
        place = min(columns - 1, round((present - 0.5) / (len(values) - 1) * (columns - 1)))
        rows = [row[:place] + ("┊" if row[place] == " " else row[place]) + row[place + 1 :] for row in rows]
    return [f"{label:>{margin}}│{row}".rstrip() for label, row in zip(labels, rows, strict=True)]


def _points(values: Sequence[float], across: int, down: int, low: float, high: float) -> list[_Point | None]:
    """Where the values stand, in points from the upper left corner; None for a gap."""
    wide, span = max(1, len(values) - 1), high - low
    return [
        (
            round(place / wide * (across - 1)),
            round((high - value) / span * (down - 1)) if span else down // 2,
        )
        if math.isfinite(value)
        else None
        for place, value in enumerate(values)
    ]


def _draw(cells: list[list[int]], start: _Point, end: _Point) -> None:
    """A straight line of points from `start` to `end`."""
    across, down = end[0] - start[0], end[1] - start[1]
    steps = max(abs(across), abs(down), 1)
    for step in range(steps + 1):
        x, y = start[0] + round(across * step / steps), start[1] + round(down * step / steps)
        cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
