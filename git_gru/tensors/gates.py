"""Which tensors are a PyTorch GRU's parameters, and which of their elements belong to which gate.

PyTorch stacks a GRU's gates along the first axis, in the order reset `r`, update `z`, new `n`
(https://docs.pytorch.org/docs/stable/generated/torch.nn.GRU.html), so that a gate is one contiguous run of
elements. Names alone do not tell a GRU from an LSTM or a plain RNN, which use the same ones: a layer counts
as a GRU's when its `weight_hh` is (3·H, H), and its other parameters have 3·H rows.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

GATES = ("r", "z", "n")
"""The gates in the order in which PyTorch stacks them."""

_PARAMETER = re.compile(
    r"(?P<prefix>|.*\.)(?P<kind>weight_ih|weight_hh|bias_ih|bias_hh)(?P<layer>_l(?P<number>\d+)(?P<reverse>_reverse)?)?\Z",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class GruParameter:
    """One parameter of a GRU: `prefix` is the module's name with its dot, `kind` e.g. "weight_hh", `hidden`
    is H.

    A `GRUCell` is layer 0.
    """

    prefix: str
    kind: str
    layer: int
    reverse: bool
    hidden: int


@dataclass(frozen=True, slots=True)
class ElementRange:
    """Elements `start` to `stop` (in row-major order) of a tensor are those of `gate`."""

    gate: str
    start: int
    stop: int


def gru_parameters(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, GruParameter]:
    """The GRU parameters among a model's tensors, by name, in the order given."""
    matches = {name: match for name in shapes if (match := _PARAMETER.match(name))}
    hidden: dict[tuple[str, str], int] = {}
    for name, match in matches.items():
        shape = shapes[name]
        if match["kind"] == "weight_hh" and len(shape) == 2 and shape[0] == 3 * shape[1] > 0:
            hidden[match["prefix"], match["layer"] or ""] = shape[1]
    found = {}
    for name, match in matches.items():
        size = hidden.get((match["prefix"], match["layer"] or ""))
        shape = shapes[name]
        if (
            size is not None
            and len(shape) == (2 if match["kind"].startswith("weight") else 1)
            and shape[0] == 3 * size
        ):
            found[name] = GruParameter(
                match["prefix"], match["kind"], int(match["number"] or 0), match["reverse"] is not None, size
            )
    return found


def gate_ranges(shape: tuple[int, ...]) -> tuple[ElementRange, ...]:
    """The runs of elements of the three gates, for the shape of a GRU's parameter (its first axis is 3·H)."""
    third = math.prod(shape) // len(GATES)
    return tuple(ElementRange(gate, index * third, (index + 1) * third) for index, gate in enumerate(GATES))
