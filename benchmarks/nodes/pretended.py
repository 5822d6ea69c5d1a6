"""A network that pretends to compute: it has a real one's weights, sleeps as long as that takes, and gives gradients of zeros.

So many nodes fit on a machine with few cores, and what they exchange is real: DistributedDataParallel is handed the gradients
layer by layer, from the last to the first, each after its share of the time, and sends while earlier layers still "compute".
"""

import time
from typing import Any

import torch
from torch import nn

FORWARD = 1 / 3
"""Share of a step's time before the backward pass, which costs twice the forward."""


class _Layer(torch.autograd.Function):
    """Passes a number through; on its way back sleeps, and has zeros as the parameters' gradients."""

    @staticmethod
    def forward(ctx: Any, carried: torch.Tensor, seconds: float, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.seconds, ctx.parameters = seconds, parameters
        return carried.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        time.sleep(ctx.seconds)
        return (gradients[0], None, *(torch.zeros_like(parameter) for parameter in ctx.parameters))


class Pretended(nn.Module):
    """`network`'s parameters, by the layers of a GRU; a step takes `seconds`."""

    def __init__(self, network: nn.Module, seconds: float) -> None:
        super().__init__()
        self.network = network
        self._seconds = seconds
        self._start = torch.zeros((), requires_grad=True)
        layers: dict[str, list[nn.Parameter]] = {}
        for name, parameter in network.named_parameters():
            # gru.weight_ih_l0 → gru.l0, embedding.weight → embedding
            module, _, rest = name.rpartition(".")
            layers.setdefault(f"{module}.{rest.rpartition('_')[2]}", []).append(parameter)
        self._layers = list(layers.values())
        self._whole = sum(parameter.numel() for parameter in network.parameters())

    def forward(self) -> torch.Tensor:
        """The pretended loss."""
        time.sleep(self._seconds * FORWARD)
        carried = self._start
        for parameters in self._layers:
            share = sum(parameter.numel() for parameter in parameters) / self._whole
            carried = _Layer.apply(carried, self._seconds * (1 - FORWARD) * share, *parameters)
        return carried
