"""The three-way rules: what becomes of one tensor, told from dtype, shape and chunk ids alone.

As Git does per line: sides that are equal → that; just one side changed it since the base → that side,
bytes copied; several changed it → it depends:

| changed on several sides | decision |
| --- | --- |
| floats of one dtype and shape | `Merge`: the strategy computes it |
| 0-d integers with a base (BatchNorm's counters) | `Count`: O + Σ(Aᵢ − O) |
| deleted here, changed there | `Conflict` |
| dtypes or shapes differ | `Conflict` |
| integers, booleans, opaque dtypes | `Conflict`, unless all the changed sides agree |

Added on one side only is "changed on one side": it is taken. Added on several sides with different bytes is
combined without a base. Where several sides deleted it and the others left it alone it is gone. The rules
know any number of sides; for two they are the usual ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from git_gru.ids import Buffer
from git_gru.tensors.arrays import layout_of


class Described(Protocol):
    """What the rules need to know of a tensor."""

    @property
    def dtype(self) -> str:
        """As safetensors names it."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Row-major."""
        ...

    @property
    def chunks(self) -> tuple[str, ...]:
        """The ids of its chunks, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Take:
    """The tensor as side `side` has it; `unchanged` when no side changed it (or all did, and agree)."""

    side: int
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """The tensor is gone."""


@dataclass(frozen=True, slots=True)
class Merge:
    """The strategy combines these sides; `base` says whether there is a base of the same dtype and shape."""

    sides: tuple[int, ...]
    base: bool


@dataclass(frozen=True, slots=True)
class Count:
    """A counter: what each of these sides counted since the base is added up."""

    sides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Nothing sensible can be computed; `reason` completes "tensor NAME: …"."""

    reason: str


Decision = Take | Delete | Merge | Count | Conflict


def same(left: Described | None, right: Described | None) -> bool:
    """Whether two sides have the tensor with equal bytes, dtype and shape, or both have none."""
    if left is None or right is None:
        return left is right
    return left.chunks == right.chunks and left.dtype == right.dtype and left.shape == right.shape


def decide(base: Described | None, sides: Sequence[Described | None], labels: Sequence[str]) -> Decision:
    """What becomes of one tensor (None: that version has none of the name). `labels` name the sides in
    conflicts.
    """
    if all(same(side, sides[0]) for side in sides):
        return Delete() if sides[0] is None else Take(0, unchanged=True)
    changed = [index for index, side in enumerate(sides) if not same(side, base)]
    first = sides[changed[0]]
    present = [(index, side) for index, side in enumerate(sides) if side is not None]
    gone = [index for index in changed if sides[index] is None]
    if gone:
        others = [index for index in changed if sides[index] is not None]
        if not others:
            return Delete()
        return Conflict(f"deleted by {_names(gone, labels)} and changed by {_names(others, labels)}")
    if len(changed) == 1:
        return Take(changed[0])
    agreed = all(same(sides[index], first) for index in changed)
    decision = _combine(base, present, labels)
    return Take(changed[0]) if agreed and isinstance(decision, Conflict) else decision


def _combine(base: Described | None, present: list[tuple[int, Described]], labels: Sequence[str]) -> Decision:
    indices = tuple(index for index, _ in present)
    _, first = present[0]
    for index, side in present[1:]:
        if side.dtype != first.dtype:
            who = _names([indices[0], index], labels)
            return Conflict(f"{who} have different dtypes, {first.dtype} and {side.dtype}")
        if side.shape != first.shape:
            who = _names([indices[0], index], labels)
            return Conflict(f"{who} have different shapes, {_shape(first)} and {_shape(side)}")
    if base is not None and (base.dtype, base.shape) != (first.dtype, first.shape):
        turned = f"{base.dtype} {_shape(base)} into {first.dtype} {_shape(first)}"
        return Conflict(f"all sides turned {turned}, with different values")
    kind = layout_of(first.dtype).kind
    if kind == "float":
        return Merge(indices, base is not None)
    if kind == "int" and first.shape == ():
        if base is not None:
            return Count(indices)
        return Conflict("a counter that the sides added with different values, without a common start")
    what = {"int": "integers", "bool": "booleans"}.get(kind, "values that cannot be computed with")
    return Conflict(f"{_names(list(indices), labels)} have different {what} ({first.dtype})")


class CounterOverflowError(ValueError):
    """The sum of a counter's steps does not fit its dtype."""


def count(dtype: str, base: Buffer, sides: Sequence[Buffer]) -> bytes:
    """O + Σ(Aᵢ − O) of one integer, exact. Raises `CounterOverflowError` when the dtype cannot hold it."""
    numpy = layout_of(dtype).numpy
    start, *values = (int(np.frombuffer(data, dtype=numpy)[0]) for data in (base, *sides))
    total = start + sum(value - start for value in values)
    limits = np.iinfo(numpy)
    if not limits.min <= total <= limits.max:
        raise CounterOverflowError(f"the counts add up to {total}, which {dtype} cannot hold")
    return np.array([total], dtype=numpy).tobytes()


def merge_keys(
    base: dict[str, str], sides: Sequence[dict[str, str]]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The three-way merge of `__metadata__`, key by key: the merged map and the keys on which the sides
    disagree.

    A disputed key keeps the value of the first side that has one.
    """
    merged: dict[str, str] = {}
    disputed = []
    for key in dict.fromkeys(key for side in sides for key in side):
        values = [side.get(key) for side in sides]
        changed = {value for value in values if value != base.get(key)}
        if len(changed) > 1:
            disputed.append(key)
            merged[key] = next(value for value in values if value is not None)
        elif (chosen := changed.pop() if changed else base.get(key)) is not None:
            merged[key] = chosen
    return merged, tuple(disputed)


def _shape(tensor: Described) -> str:
    return f"[{', '.join(map(str, tensor.shape))}]"


def _names(indices: Sequence[int], labels: Sequence[str]) -> str:
    return " and ".join(labels[index] for index in indices)
