"""One tensor in a few numbers: mean, standard deviation, largest magnitude, NaN and Inf counts. For
textconv and `show`.
"""

import math
from dataclasses import dataclass

import numpy as np

from git_gru.ids import Buffer
from git_gru.tensors.arrays import Float64, bits_of, blocks, layout_of, to_float64


@dataclass(frozen=True, slots=True)
class Summary:
    """Over the finite elements, in float64; `std` is the population's. All zero for an opaque or empty
    tensor.
    """

    numeric: bool
    elements: int
    mean: float
    std: float
    max_abs: float
    nan: int
    inf: int
    min: float
    max: float


class TensorSummary:
    """Summarises one tensor as its pieces come in.

    Means and squared deviations of blocks are joined as in Chan, Golub and LeVeque, "Updating formulae and
    a pairwise algorithm for computing sample variances" (1979): no cancellation where the mean is large.
    """

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self._numeric = layout_of(dtype).kind != "opaque"
        self._elements = self._finite = self._nan = self._inf = 0
        self._mean = self._squares = self._max_abs = 0.0
        self._min, self._max = math.inf, -math.inf

    def add(self, piece: Buffer) -> None:
        """The next piece: raw bytes, whole elements."""
        bits = bits_of(piece, self._dtype)
        self._elements += len(bits)
        if self._numeric:
            for part in blocks(len(bits)):
                self._add_values(to_float64(bits[part], self._dtype))

    def _add_values(self, values: Float64) -> None:
        finite = np.isfinite(values)
        if not finite.all():
            nan = int(np.count_nonzero(np.isnan(values)))
            self._nan += nan
            self._inf += len(values) - int(np.count_nonzero(finite)) - nan
            values = values[finite]
        count = len(values)
        if not count:
            return
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(np.mean(values))
            deviations = values - mean
            squares = float(deviations @ deviations)
        apart = mean - self._mean
        total = self._finite + count
        self._squares += squares + apart * apart * self._finite * count / total
        self._mean += apart * count / total
        self._finite = total
        self._min, self._max = min(self._min, float(values.min())), max(self._max, float(values.max()))
        self._max_abs = max(abs(self._min), abs(self._max))

    def result(self) -> Summary:
        """The numbers of all pieces so far."""
        std = math.sqrt(self._squares / self._finite) if self._finite else 0.0
        low, high = (self._min, self._max) if self._finite else (0.0, 0.0)
        return Summary(
            self._numeric, self._elements, self._mean, std, self._max_abs, self._nan, self._inf, low, high
        )
