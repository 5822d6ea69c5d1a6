"""One piece of a tensor combined: from the sides' raw bytes to the result's raw bytes.

Invariants, the same for every strategy:

- Bits that need not change are copied, never computed. With a strategy that *applies a change*, that is
  each element which at most one side changed since the base: it has that side's exact bits (NaN payloads
  and signed zeros included). With any other, each element that is equal on all sides.
- An average is an average of the whole tensor: once two sides have changed a tensor, an element that only
  one of them changed is averaged like the rest. (Three-way rules hold per tensor; taking single elements
  from one side would mix two meanings in one matrix.)
- So whether a chunk is copied because ids are equal, or its elements are compared one by one, the result is
  the same, and it does not depend on how tensors are cut into chunks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from git_gru.ids import Buffer
from git_gru.tensors.arrays import Bits, bits_of, blocks, from_float64, layout_of, to_float64
from git_gru.tensors.strategies import Sides, Strategy


@dataclass(frozen=True, slots=True)
class Tally:
    """What happened to elements: `computed` ones were rounded, `overflowed` ones are not finite though
    every input is.
    """

    elements: int = 0
    computed: int = 0
    overflowed: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.elements + other.elements,
            self.computed + other.computed,
            self.overflowed + other.overflowed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What stays the same for all pieces of a tensor. `weights` are one a side and sum to 1."""

    tensor: str
    dtype: str
    strategy: Strategy
    weights: tuple[float, ...]


class WeightsError(ValueError):
    """Weights that give no mean: negative, not finite, all zero."""


def normalised(weights: Sequence[float]) -> tuple[float, ...]:
    """The weights divided by their sum. Raises `WeightsError`."""
    total = sum(weights)
    if not weights or not all(np.isfinite(weight) and weight >= 0 for weight in weights) or total <= 0:
        raise WeightsError("weights must be numbers from 0 upwards, at least one of them above 0")
    return tuple(weight / total for weight in weights)


def same_chunk(strategy: Strategy, base: str | None, sides: Sequence[str]) -> int | None:
    """The side whose chunk is the result's, told from chunk ids alone; None where elements must be looked
    at.
    """
    if strategy.applies_change and base is not None:
        changed = [index for index, side in enumerate(sides) if side != base]
        return changed[0] if len(changed) == 1 else None if changed else 0
    return 0 if all(side == sides[0] for side in sides) else None


def combine(job: Job, base: Buffer | None, sides: Sequence[Buffer], *, start: int = 0) -> tuple[bytes, Tally]:
    """The combined bytes of one piece, and what happened to its elements.

    `base` and `sides` are equally long raw bytes of a float dtype; `start` is the number of elements before
    the piece. A strategy for whole tensors must be given the tensor in one piece.
    """
    side_bits = [bits_of(side, job.dtype) for side in sides]
    base_bits = None if base is None else bits_of(base, job.dtype)
    count = len(side_bits[0])
    result = np.empty(count, dtype=layout_of(job.dtype).bits)
    tally = Tally()
    for part in [slice(0, count)] if job.strategy.whole_tensor else blocks(count):
        values, seen = _combine_block(
            job,
            None if base_bits is None else base_bits[part],
            [bits[part] for bits in side_bits],
            start + part.start,
        )
        result[part] = values
        tally += seen
    return result.tobytes(), tally


def _combine_block(job: Job, base: Bits | None, sides: list[Bits], start: int) -> tuple[Bits, Tally]:
    values = tuple(to_float64(bits, job.dtype) for bits in sides)
    base_values = None if base is None else to_float64(base, job.dtype)
    merged = job.strategy.combine(Sides(job.tensor, start, base_values, values, job.weights))
    result = from_float64(merged, job.dtype)
    copied = _copy_unchanged(job.strategy, base, sides, result)
    finite = np.isfinite(to_float64(result, job.dtype))
    overflowed = 0
    if not finite.all():
        inputs = values if base_values is None else (*values, base_values)
        overflowed = int(np.count_nonzero(~finite & np.logical_and.reduce([np.isfinite(v) for v in inputs])))
    return result, Tally(len(result), len(result) - copied, overflowed)


def _copy_unchanged(strategy: Strategy, base: Bits | None, sides: list[Bits], result: Bits) -> int:
    """Puts the exact bits where an element need not be computed; returns how many such elements there are."""
    first = sides[0]
    if not (strategy.applies_change and base is not None):
        equal: npt.NDArray[np.bool_] = np.logical_and.reduce([side == first for side in sides[1:]])
        np.copyto(result, first, where=equal)
        return int(np.count_nonzero(equal))
    changed = [side != base for side in sides]
    times = np.sum(changed, axis=0, dtype=np.uint8 if len(sides) < 256 else np.intp)
    np.copyto(result, base, where=times == 0)
    for side, mask in zip(sides, changed, strict=True):
        np.copyto(result, side, where=mask & (times == 1))
    return int(np.count_nonzero(times <= 1))
