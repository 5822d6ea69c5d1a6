"""A few numbers of a long vector as bytes: each takes a byte of value and a byte of place.

    values   int8 [count], in the order of their places: whole numbers times the scale of their group
    offsets  uint8 [count]: where each stands in its span of `SPAN` places
    filled   uint8 [spans]: how many of each span there are (255 fit in a byte, so a span has 255 places)
    scales   float32 [groups], one for `GROUP` values

Beside two bytes a number that is 1 / 255 byte for each number of the vector, and 1 / 32 byte for each that is there. All sizes
follow from the vector's length and the count, so both sides know them.
"""

import torch

from git_gru.train.sync.means import quantised, restored

SPAN = 255
GROUP = 128
"""Values that share a scale."""


def packed(values: torch.Tensor, places: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A message (uint8 [bytes]) that says `values` at `places` (int64, ascending) of a vector of `length`; and what it says
    of the values, in eight bits.
    """
    count = len(values)
    numbers, scales = quantised(_grouped(values))
    said = restored(numbers, scales, values.dtype).view(-1)[:count]
    filled = torch.bincount(places // SPAN, minlength=-(-length // SPAN))
    parts = [
        numbers.view(-1)[:count].view(torch.uint8),
        (places % SPAN).to(torch.uint8),
        filled.to(torch.uint8),
        scales.reshape(-1).view(torch.uint8),
    ]
    return torch.cat(parts), said


def unpacked(
    message: torch.Tensor, length: int, count: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and places (int64) of a message that `packed` made."""
    spans, groups = -(-length // SPAN), -(-count // GROUP)
    values, offsets, filled, scales = torch.split(message, [count, count, spans, 4 * groups])
    numbers = _grouped(values.view(torch.int8))
    said = restored(numbers, scales.clone().view(torch.float32).view(-1, 1), dtype).view(-1)[:count]
    span = torch.repeat_interleave(torch.arange(spans, device=message.device), filled.long())
    return said, span * SPAN + offsets.long()


def _grouped(values: torch.Tensor) -> torch.Tensor:
    """`values` in rows of `GROUP`, the last one filled up with zeros."""
    missing = -len(values) % GROUP
    return torch.nn.functional.pad(values, (0, missing)).view(-1, GROUP)
