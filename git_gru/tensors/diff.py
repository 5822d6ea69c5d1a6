"""How far apart two versions of a tensor are: measures gathered piece by piece, in float64, for the tensor
and its gates.

- Norms and cosine are over the pairs of elements that are finite on both sides; NaN and Inf are counted,
  each side for itself, and keep out of the norms that they would turn into NaN.
- "Changed" is about bits: −0.0 and 0.0 differ, two equal NaNs do not.
- Integers and booleans are measured as numbers. An opaque tensor only has the share of its changed bytes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from git_gru.ids import Buffer
from git_gru.tensors.arrays import Bits, Float64, bits_of, blocks, layout_of, to_float64
from git_gru.tensors.gates import ElementRange


@dataclass(frozen=True, slots=True)
class Measures:
    """The difference between an old and a new run of elements. Norms are Euclidean (L2).

    `elements` are bytes where `numeric` is False, and then all that follows `changed` is zero.
    """

    numeric: bool
    elements: int
    changed: int
    delta_norm: float = 0.0
    old_norm: float = 0.0
    new_norm: float = 0.0
    dot: float = 0.0
    max_abs: float = 0.0
    old_nan: int = 0
    old_inf: int = 0
    new_nan: int = 0
    new_inf: int = 0

    @property
    def changed_share(self) -> float:
        """The share of elements whose bits changed, 0 to 1."""
        return self.changed / self.elements if self.elements else 0.0

    @property
    def relative(self) -> float | None:
        """‖Δ‖ / ‖old‖; None where the old norm is zero and the difference is not."""
        if self.delta_norm == 0:
            return 0.0
        return self.delta_norm / self.old_norm if self.old_norm else None

    @property
    def cosine(self) -> float | None:
        """The cosine of the angle between old and new; None where one of them is zero."""
        scale = self.old_norm * self.new_norm
        return max(-1.0, min(1.0, self.dot / scale)) if self.numeric and scale else None


@dataclass(frozen=True, slots=True)
class TensorDiff:
    """The measures of a tensor, and those of its gates where it is a GRU's parameter."""

    total: Measures
    gates: dict[str, Measures]


class _Accumulator:
    """The sums behind one `Measures`."""

    def __init__(self) -> None:
        self.elements = self.changed = 0
        self.delta = self.old = self.new = self.dot = self.max_abs = 0.0
        self.nan = [0, 0]
        self.inf = [0, 0]

    def add_bits(self, old: Bits, new: Bits) -> None:
        self.elements += len(old)
        self.changed += int(np.count_nonzero(old != new))

    def add_values(self, old: Float64, new: Float64) -> None:
        for side, values in enumerate((old, new)):
            if not math.isfinite(float(np.sum(values))):
                self.nan[side] += int(np.count_nonzero(np.isnan(values)))
                self.inf[side] += int(np.count_nonzero(np.isinf(values)))
        if any(self.nan) or any(self.inf):
            finite = np.isfinite(old) & np.isfinite(new)
            old, new = old[finite], new[finite]
        delta = new - old
        self.delta += float(delta @ delta)
        self.old += float(old @ old)
        self.new += float(new @ new)
        self.dot += float(old @ new)
        if len(delta):
            self.max_abs = max(self.max_abs, float(np.max(np.abs(delta))))

    def result(self, numeric: bool) -> Measures:
        return Measures(
            numeric,
            self.elements,
            self.changed,
            math.sqrt(self.delta),
            math.sqrt(self.old),
            math.sqrt(self.new),
            self.dot,
            self.max_abs,
            self.nan[0],
            self.inf[0],
            self.nan[1],
            self.inf[1],
        )


class TensorComparison:
    """Compares one tensor as its pieces come in, in order. Memory: one block of float64 a side."""

    def __init__(self, dtype: str, gates: Sequence[ElementRange] = ()) -> None:
        self._dtype = dtype
        self._numeric = layout_of(dtype).kind != "opaque"
        self._position = 0
        self._total = _Accumulator()
        self._gates = [(gate, _Accumulator()) for gate in gates]

    def add(self, old: Buffer, new: Buffer) -> None:
        """The next piece: equally long raw bytes, whole elements. The same object twice says that nothing
        changed.
        """
        old_bits = bits_of(old, self._dtype)
        new_bits = old_bits if new is old else bits_of(new, self._dtype)
        for part in blocks(len(old_bits)):
            self._add_block(old_bits[part], new_bits[part])

    def _add_block(self, old: Bits, new: Bits) -> None:
        start, stop = self._position, self._position + len(old)
        self._position = stop
        self._add_run(self._total, old, new)
        for gate, accumulator in self._gates:
            low, high = max(gate.start, start) - start, min(gate.stop, stop) - start
            if low < high:
                self._add_run(accumulator, old[low:high], new[low:high])

    def _add_run(self, accumulator: _Accumulator, old: Bits, new: Bits) -> None:
        accumulator.add_bits(old, new)
        if self._numeric:
            with np.errstate(over="ignore", invalid="ignore"):
                accumulator.add_values(to_float64(old, self._dtype), to_float64(new, self._dtype))

    def result(self) -> TensorDiff:
        """The measures of all pieces so far."""
        return TensorDiff(
            self._total.result(self._numeric),
            {gate.gate: accumulator.result(self._numeric) for gate, accumulator in self._gates},
        )
