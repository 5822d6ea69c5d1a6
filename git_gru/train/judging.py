"""Judging a run's losses and gradient norms: pure functions of numbers, the same on every rank. Free of torch.

A value is *far off* when it stands more than `limit` robust standard deviations above the median of the steps before
(robust z-score: the median absolute deviation times 1.4826 estimates the deviation of normal noise, and one wild value does
not move it; Iglewicz and Hoaglin, 1993). The deviation is taken as at least `FLOOR` of the median: nearly constant losses
would make any rise look enormous.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

MAD_TO_DEVIATION = 1.4826
FLOOR = 0.02
LEAST_HISTORY = 20
"""Steps that must have been seen before anything is far off."""


@dataclass(frozen=True)
class Baseline:
    """The median and the robust standard deviation of a window."""

    median: float
    deviation: float

    def z(self, value: float) -> float:
        """How many deviations `value` stands above the median."""
        return (value - self.median) / self.deviation


class Window:
    """The last `size` values that were not far off."""

    def __init__(self, size: int) -> None:
        self._values: deque[float] = deque(maxlen=size)

    def add(self, values: Iterable[float]) -> None:
        """Takes in the values of some more steps."""
        self._values.extend(values)

    def baseline(self) -> Baseline | None:
        """What is usual; None as long as too little was seen."""
        if len(self._values) < LEAST_HISTORY:
            return None
        values = np.array(self._values)
        median = float(np.median(values))
        deviation = MAD_TO_DEVIATION * float(np.median(np.abs(values - median)))
        return Baseline(median, max(deviation, FLOOR * abs(median), np.finfo(np.float64).tiny))
