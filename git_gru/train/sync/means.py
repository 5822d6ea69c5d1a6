"""The mean of the ranks' vectors, at several prices: in full, in half precision, in eight bits with error feedback.

Each rank r has a vector x_r and a share s_r (Σ s_r = 1); every rank gets Σ s_r · x_r, the same bits. Bytes that a rank sends for
each number, of W ranks: 2 · (W − 1) / W times 4 (`ExactMean`), 2 (`HalfMean`), 1 and a little (`Int8Mean`).
"""

from collections.abc import Mapping
from typing import Protocol

import torch

from git_gru.train.sync.wire import Wire

BLOCK = 512
"""Numbers that share a scale: four bytes for so many numbers are 0.8 %."""
_MOST = 127


class Mean(Protocol):
    """See the module. `own` is what it keeps from one vector to the next, different on every rank."""

    @property
    def own(self) -> Mapping[str, torch.Tensor]:
        """The tensors themselves: writing to them restores an earlier state."""

    def mean(self, vector: torch.Tensor, share: float) -> torch.Tensor:
        """Σ s_r · x_r; `vector` may be overwritten."""


class ExactMean:
    """An all-reduce in the vector's own precision."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.own: Mapping[str, torch.Tensor] = {}

    def mean(self, vector: torch.Tensor, share: float) -> torch.Tensor:
        """See `Mean`."""
        vector *= share
        self._wire.add_up(vector)
        return vector


class HalfMean:
    """An all-reduce in float16 (arXiv 2407.07852 finds outer gradients none the worse for it)."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.own: Mapping[str, torch.Tensor] = {}

    def mean(self, vector: torch.Tensor, share: float) -> torch.Tensor:
        """See `Mean`."""
        half = (vector * share).half()
        self._wire.add_up(half)
        return half.to(vector.dtype)


class Int8Mean:
    """A reduce-scatter and an all-gather of eight-bit numbers, so that no rank sends more the more ranks there are.

    The vector is cut into one shard a rank. Everyone sends its shards quantised to their ranks, each of which adds up what came,
    and sends the mean, quantised again, to everyone. What a quantisation loses is added to the next vector (error feedback,
    arXiv 1809.07599): `error` of the vector, and `shard_error` of the mean of this rank's shard.
    """

    def __init__(self, wire: Wire, like: torch.Tensor) -> None:
        """For vectors of the length, dtype and device of `like`."""
        self._wire, self._length = wire, len(like)
        self._blocks = -(-self._length // (wire.size * BLOCK))
        self._error = like.new_zeros(wire.size, self._blocks, BLOCK)
        self._shard_error = like.new_zeros(self._blocks, BLOCK)
        self.own: Mapping[str, torch.Tensor] = {"error": self._error, "shard_error": self._shard_error}

    def mean(self, vector: torch.Tensor, share: float) -> torch.Tensor:
        """See `Mean`."""
        self._error.view(-1)[: self._length] += vector
        numbers, scales = quantised(self._error)
        self._error -= restored(numbers, scales, vector.dtype)
        came = self._wire.scatter(_packed(numbers, scales * share))
        self._shard_error += restored(*_unpacked(came), vector.dtype).sum(0)
        numbers, scales = quantised(self._shard_error)
        self._shard_error -= restored(numbers, scales, vector.dtype)
        parts = self._wire.gather(_packed(numbers[None], scales[None])[0])
        return restored(*_unpacked(parts), vector.dtype).view(-1)[: self._length]


def quantised(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`values` [..., BLOCK] as whole numbers from −127 to 127 (int8) times a scale for each block (float32 [..., 1]).

    A block in which something is NaN or infinite comes back as NaN: nothing hides a divergence from the guard.
    """
    least, most = torch.aminmax(values, dim=-1, keepdim=True)
    scales = torch.maximum(-least, most).float() / _MOST
    numbers = (values / scales.masked_fill(scales == 0, 1)).round_().clamp_(-_MOST, _MOST)
    return numbers.to(torch.int8), scales.masked_fill(~scales.isfinite(), torch.nan)


def restored(numbers: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The values that `quantised` stands for."""
    return numbers.to(dtype).mul_(scales.to(dtype))


def _packed(numbers: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Shards [n, blocks, BLOCK] with their scales, as bytes [n, …], to be sent at once."""
    flat = [numbers.flatten(1).view(torch.uint8), scales.flatten(1).contiguous().view(torch.uint8)]
    return torch.cat(flat, dim=1)


def _unpacked(data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    blocks = data.shape[1] // (BLOCK + 4)
    numbers, scales = data[:, : blocks * BLOCK], data[:, blocks * BLOCK :]
    return (
        numbers.contiguous().view(torch.int8).view(-1, blocks, BLOCK),
        scales.contiguous().view(torch.float32).view(-1, blocks, 1),
    )
