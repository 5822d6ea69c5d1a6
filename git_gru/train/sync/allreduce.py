"""The default strategy: the mean gradient over the global batch at every step, by PyTorch's DistributedDataParallel."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from git_gru.train.world import World


class AllReduce:
    """Gradients are bucketed and summed while the backward pass still runs. One worker alone needs no wrapper.

    DDP divides the sum of the ranks' gradients by their number W. With rank r back-propagating (W / N) · Σ_{i∈r} ℓ_i, N the
    number of terms in the global batch, that mean is the gradient of (1 / N) · Σ_i ℓ_i, whatever the ranks' shares.
    """

    def __init__(self, module: nn.Module, world: World) -> None:
        self._size = world.size
        self._gradient_bytes = sum(
            p.numel() * p.element_size() for p in module.parameters() if p.requires_grad
        )
        self._steps = 0
        self.module: nn.Module = module
        if world.size > 1:
            self.module = DistributedDataParallel(
                module, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def weight(self, local: int, whole: int) -> float:
        """W / N; see the class."""
        return self._size / whole

    def after_step(self, step: int) -> None:
        """Nothing to do: equal gradients and equal optimizers keep the weights equal."""
        self._steps += 1

    def consolidate(self) -> None:
        """Gives every rank the buffers of rank 0 (running statistics, say), which a commit holds; weights are equal anyway."""
        if self._size > 1:
            for buffer in self.module.buffers():
                values = buffer.contiguous().reshape(-1)
                dist.broadcast(values.view(torch.uint8), src=0)  # as bytes: gloo does not know every dtype
                buffer.copy_(values.reshape(buffer.shape))

    def bytes_sent(self) -> int:
        """A ring all-reduce sends 2 · (W − 1) / W of the gradients' bytes from every rank at every step."""
        return self._steps * 2 * (self._size - 1) * self._gradient_bytes // self._size
