"""All-reduce with gradients in eight bits, or the largest alone: after the backward pass, as one vector.

Not by hooks of DistributedDataParallel as `allreduce`'s others: these take two exchanges, of which the second could not begin
in order where there are several buckets; and a vector in the parameters' order has errors that a resume finds again.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from git_gru.train.recipe import SyncRecipe, TrainRecipe
from git_gru.train.sync.flat import Flat
from git_gru.train.sync.means import Int8Mean
from git_gru.train.sync.strategy import SyncState
from git_gru.train.sync.topk import Largest
from git_gru.train.sync.wire import Wire
from git_gru.train.world import World


class CompressedAllReduce:
    """Every rank back-propagates as in `AllReduce`, and the mean of the gradients comes through a compressor."""

    optimizers_differ = False

    def __init__(self, recipe: SyncRecipe, train: TrainRecipe, network: nn.Module, world: World) -> None:
        self.module = network
        self._wire, self._flat, self._step = Wire(world), Flat(network), 0
        # as DistributedDataParallel does: someone's own code may not be seeded
        self._wire.share(network.parameters())
        self._largest: Largest | None = None
        like = torch.zeros_like(self._flat.weights())
        if recipe.compress == "topk":
            self._largest = Largest(self._wire, like, self._flat.sizes, recipe, train)
            self._own = self._largest.own
        else:
            self._eight_bits = Int8Mean(self._wire, like)
            self._own = self._eight_bits.own

    def optimization(self, train: TrainRecipe) -> TrainRecipe:
        """Deep gradient compression clips and keeps the momentum on each rank, before it compresses."""
        return train if self._largest is None else self._largest.optimization(train)

    def lr_scale(self, step: int) -> float:
        """All steps are steps together."""
        return 1.0

    def weight(self, local: int, whole: int) -> float:
        """W / N, as in `AllReduce`."""
        return self._wire.size / whole

    @torch.no_grad()
    def after_backward(self) -> None:
        """Makes the gradients their mean over the ranks."""
        gradients, share = self._flat.gradients(), 1 / self._wire.size
        if self._largest is not None:
            mean = self._largest.mean(gradients, share, self._step + 1)
        else:
            mean = self._eight_bits.mean(gradients, share)
        self._flat.put_gradients(mean)

    def after_step(self, step: int, local: int, whole: int) -> None:
        """Equal gradients and equal optimizers keep the weights equal."""
        self._step = step

    def meets(self, step: int) -> bool:
        """At every step."""
        return True

    @contextmanager
    def consolidated(self) -> Iterator[None]:
        """The weights are always the same; buffers become rank 0's."""
        self._wire.share(self.module.buffers())
        yield

    def state(self) -> SyncState:
        """What the compressor has not sent yet."""
        return SyncState(own=self._own)

    def restore(self, step: int, state: SyncState) -> None:
        """See `SyncStrategy`."""
        self._step = step
        for name, tensor in self._own.items():
            tensor.copy_(state.own[name])

    def bytes_sent(self) -> int:
        """Of all compressed gradients."""
        return self._wire.sent

    def seconds_waited(self) -> float:
        """In the exchanges; compressing is not waiting."""
        return self._wire.waited
