"""One curve as text, with its range at the left: what `git gru forecast` shows of a series."""

import itertools
import math
from collections.abc import Sequence

from git_gru.cli.canvas import Canvas


def chart(values: Sequence[float], *, width: int, height: int, present: int | None = None) -> list[str]:
    """A curve through `values` at equal steps, as `height` lines of at most `width` columns.

    A dotted line stands before the value number `present`. Values that are no finite numbers leave a gap.
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    labels = [f"{high:.5g}", *[""] * (height - 2), f"{low:.5g}"]
    margin = max(map(len, labels)) + 1
    columns = max(2, width - margin - 1)
    canvas, last = Canvas(columns, height), max(1, len(values) - 1)
    for is_finite, points in itertools.groupby(enumerate(values), lambda point: math.isfinite(point[1])):
        if is_finite:
            canvas.draw(list(points), x_range=(0, last), y_range=(low, high), style="")
    rows = [row.plain for row in canvas.lines()]
    if present is not None and 0 < present < len(values):
        place = min(columns - 1, round((present - 0.5) / last * (columns - 1)))
        rows = [row[:place] + ("┊" if row[place] == " " else row[place]) + row[place + 1 :] for row in rows]
    return [f"{label:>{margin}}│{row}".rstrip() for label, row in zip(labels, rows, strict=True)]
