"""How exactly a change was applied: the result R against what was asked for, ours + (theirs − base).

For a revert of C: ours = H (where the branch stood), base = C, theirs = C's parent. An element that nobody
touched since C is exact: it has its parent's bits. One that a later commit changed keeps that later change,
and carries one rounding of its dtype, which is inherent (H − (C − P) is no value of the dtype).
"""

import math
from dataclasses import dataclass

import numpy as np

from git_gru.ids import Buffer
from git_gru.tensors.arrays import bits_of, blocks, to_float64


@dataclass(frozen=True, slots=True)
class Exactness:
    """`exact`: elements with theirs' bits, ours being untouched since the base. `kept`: elements of ours
    that had changed since. `unchanged`: elements that the change did not concern. `rounded`: elements of
    the result that are not the exact sum; `error_norm`: ‖R − (ours + theirs − base)‖₂ over finite elements.
    """

    elements: int = 0
    exact: int = 0
    kept: int = 0
    unchanged: int = 0
    rounded: int = 0
    error_norm: float = 0.0

    def __add__(self, other: "Exactness") -> "Exactness":
        return Exactness(
            self.elements + other.elements,
            self.exact + other.exact,
            self.kept + other.kept,
            self.unchanged + other.unchanged,
            self.rounded + other.rounded,
            math.hypot(self.error_norm, other.error_norm),
        )


def exactness(dtype: str, *, base: Buffer, ours: Buffer, theirs: Buffer, result: Buffer) -> Exactness:
    """Measures one piece: equally long raw bytes of a float dtype."""
    arrays = [bits_of(data, dtype) for data in (base, ours, theirs, result)]
    total = Exactness()
    for part in blocks(len(arrays[0])):
        bits = [array[part] for array in arrays]
        base_bits, ours_bits, theirs_bits, result_bits = bits
        o, a, b, r = (to_float64(array, dtype) for array in bits)
        concerned = theirs_bits != base_bits
        untouched = ours_bits == base_bits
        with np.errstate(over="ignore", invalid="ignore"):
            # An exact sum has no error left; (a − o) + b is exact in float64 for all but extreme spreads.
            error = np.where(untouched | ~concerned, 0.0, r - ((a - o) + b))
        error = error[np.isfinite(error)]
        total += Exactness(
            len(o),
            int(np.count_nonzero(concerned & untouched & (result_bits == theirs_bits))),
            int(np.count_nonzero(concerned & ~untouched)),
            int(np.count_nonzero(~concerned)),
            int(np.count_nonzero(error)),
            math.sqrt(float(error @ error)),
        )
    return total
