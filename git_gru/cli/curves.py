"""Curves in a terminal: plain characters on a grid, one mark a curve, so that they need neither colours nor a special font."""

import itertools
import math
from collections.abc import Mapping, Sequence

from git_gru.cli.render import human_number

MARKS = "*o+x#@%&"
_WIDTH, _HEIGHT = 72, 14


def draw(
    curves: Mapping[str, Sequence[tuple[float, float]]], *, width: int = _WIDTH, height: int = _HEIGHT
) -> list[str]:
    """The lines of a picture of `curves` (name → points by rising x), with axes and a legend; none without finite points.

    Each curve is drawn in every column that it crosses, straight between its points; where two meet, the later one is seen.
    """
    finite = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        for name, points in curves.items()
    }
    everything = [point for points in finite.values() for point in points]
    if not everything:
        return []
    left, right = min(x for x, _ in everything), max(x for x, _ in everything)
    low, high = min(y for _, y in everything), max(y for _, y in everything)
    grid = [[" "] * width for _ in range(height)]
    for number, points in enumerate(finite.values()):
        for column in range(width):
            value = _at(points, left + (right - left) * column / (width - 1), (right - left) / (width - 1))
            if value is not None:
                share = (value - low) / (high - low) if high > low else 0.5
                row = height - 1 - round(share * (height - 1))
                grid[row][column] = MARKS[number % len(MARKS)]
    labels = {0: human_number(high), height - 1: human_number(low)}
    margin = max(map(len, labels.values()))
    lines = [f"{labels.get(row, ''):>{margin}} |{''.join(cells).rstrip()}" for row, cells in enumerate(grid)]
    begin, end = f"{left:g}", f"{right:g}"
    lines.append(f"{'':>{margin}} +{'-' * width}")
    lines.append(f"{'':>{margin}}  {begin}{end:>{width - len(begin)}}")
    lines += [f"{'':>{margin}}  {MARKS[n % len(MARKS)]} {name}" for n, name in enumerate(curves)]
    return lines


def _at(points: Sequence[tuple[float, float]], x: float, column: float) -> float | None:
    """The curve's height at `x`, between its points; None outside them, but for half a `column` at its ends."""
    if not points or x < points[0][0] - column / 2 or x > points[-1][0] + column / 2:
        return None
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= x <= x1:
            return y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return points[0][1] if x < points[0][0] else points[-1][1]
