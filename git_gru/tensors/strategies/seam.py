"""What a strategy is: a pure function from one tensor's sides to the merged values.

A strategy sees float64 values only. Reading bytes, copying what did not change, rounding, chunking and
conflicts are the caller's (`tensors.combine`, `tensors.threeway`), once for all strategies. One that needs
more than element by element (a norm, a threshold, a mask) sets `whole_tensor` and is then handed the tensor
in one piece.
"""

from dataclasses import dataclass
from typing import Protocol

from git_gru.tensors.arrays import Float64


@dataclass(frozen=True, slots=True)
class Sides:
    """One piece of one tensor on every side. All arrays are 1-d and equally long.

    `start` counts elements before this piece, so that what is drawn at random can depend on (tensor,
    position) alone. `base` is None where nobody had the tensor before. `weights` sum to 1.
    """

    tensor: str
    start: int
    base: Float64 | None
    values: tuple[Float64, ...]
    weights: tuple[float, ...]


class Combine(Protocol):
    """The function itself: it returns new values and changes none of its inputs."""

    def __call__(self, sides: Sides, /) -> Float64:
        """The merged values of the piece."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """A named way to combine a tensor that several sides changed.

    `applies_change` says that it means "add the others' change to ours": an element (and so a chunk) that
    at most one side changed since the base then has that side's exact bits. Without it only what is equal
    on all sides is copied. `needs_base`: a tensor without base is averaged instead. `verb`: its past
    participle in reports ("averaged").
    """

    name: str
    summary: str
    verb: str
    combine: Combine
    applies_change: bool = False
    needs_base: bool = False
    whole_tensor: bool = False
