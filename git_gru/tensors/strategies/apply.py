"""Apply a change: A + (B − O), what `revert`, `cherry-pick`, `rebase` and `stash pop` mean.

With more sides A + Σ(Bᵢ − O): task arithmetic with λ = 1 (Ilharco et al. 2022,
https://arxiv.org/abs/2212.04089).
"""

import numpy as np

from git_gru.tensors.arrays import Float64
from git_gru.tensors.strategies.seam import Sides


def apply_change(sides: Sides) -> Float64:
    """(A − O) + B, then + (Cᵢ − O) for further sides; weights are not looked at. Needs the base.

    In this order an A equal to O gives B exactly; A − (O − B) would miss B in up to 24 % of float32
    weights. For dtypes up to float32 the difference is exact in float64 unless A and O lie more than 2^29
    apart. Reverting a change that later ones built upon is approximate by nature: one rounding of the
    dtype.
    """
    if sides.base is None:
        raise ValueError(f"{sides.tensor}: a change can only be applied to a base")
    first, second, *others = sides.values
    with np.errstate(over="ignore", invalid="ignore"):
        result = (first - sides.base) + second
        for values in others:
            result += values - sides.base
    return result
