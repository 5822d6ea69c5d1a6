"""A network's parameters, or their gradients, as one vector: in the order of `parameters()`, each in C order."""

from collections.abc import Iterator

import torch
from torch import nn


class Flat:
    """The parameters of `network` that are trained. They must all have one dtype for the vector to be exact."""

    def __init__(self, network: nn.Module) -> None:
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self.sizes = [p.numel() for p in self._parameters]
        self.length = sum(self.sizes)

    def weights(self, start: int = 0, end: int | None = None) -> torch.Tensor:
        """A copy of the weights `start` to `end`."""
        pieces = [p.detach().reshape(-1)[cut] for p, cut, _ in self._cuts(start, self._end(end))]
        return torch.cat(pieces)

    @torch.no_grad()
    def put_weights(self, vector: torch.Tensor, start: int = 0) -> None:
        """Makes the weights from `start` on those of `vector`."""
        for parameter, cut, place in self._cuts(start, start + len(vector)):
            whole = parameter.detach().reshape(-1)
            whole[cut] = vector[place]
            if whole.data_ptr() != parameter.data_ptr():  # in another order in memory: it was a copy
                parameter.copy_(whole.view(parameter.shape))

    def gradients(self) -> torch.Tensor:
        """A copy of the gradients; zeros where a parameter has none."""
        return torch.cat(
            [
                torch.zeros_like(p).reshape(-1) if p.grad is None else p.grad.reshape(-1)
                for p in self._parameters
            ]
        )

    def put_gradients(self, vector: torch.Tensor) -> None:
        """Makes the gradients those of `vector`."""
        for parameter, part in zip(self._parameters, torch.split(vector, self.sizes), strict=True):
            parameter.grad = part.view(parameter.shape)

    def _end(self, end: int | None) -> int:
        return self.length if end is None else end

    def _cuts(self, start: int, end: int) -> Iterator[tuple[nn.Parameter, slice, slice]]:
        """The parameters that reach into the range: each with its part in it, and where that stands in the range."""
        first = 0
        for parameter, size in zip(self._parameters, self.sizes, strict=True):
            low, high = max(first, start), min(first + size, end)
            if low < high:
                yield parameter, slice(low - first, high - first), slice(low - start, high - start)
            first += size
