"""Weighted mean: Σ wᵢ·Aᵢ with Σ wᵢ = 1; for two sides A + w(B − A).

Model soups, Wortsman et al. 2022, https://arxiv.org/abs/2203.05482.
"""

import numpy as np

from git_gru.tensors.arrays import Float64
from git_gru.tensors.strategies.seam import Sides


def average(sides: Sides) -> Float64:
    """The weighted mean, computed about one side: K + Σ wᵢ(Aᵢ − K), K being the side with the largest weight.

    That form gives A back exactly where all sides are A (Σ wᵢ·A does not: in 10–30 % of float32 weights),
    and a weight of 1 gives that side exactly. The base is not looked at. For dtypes up to float32,
    differences and products are exact in float64 or off by under 2^-52 relative, so the rounding to the
    dtype is the only one that matters; float64 tensors get each operation rounded in float64. A non-finite
    element on a side that has weight makes the result non-finite.
    """
    weights = sides.weights
    anchor = max(range(len(weights)), key=weights.__getitem__)
    centre = sides.values[anchor]
    mean = centre.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        for index, (weight, values) in enumerate(zip(weights, sides.values, strict=True)):
            if index != anchor and weight:
                mean += weight * (values - centre)
    return mean
