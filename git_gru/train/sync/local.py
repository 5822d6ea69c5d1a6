"""What strategies share whose workers take steps by themselves and meet now and then.

    steps 1 to sync.warmup          all together: exact mean gradients, by `AllReduce` (a cold start costs more than it saves)
    then rounds of sync.every steps each rank by the mean gradient over its own part of the batch; what happens where they meet
                                    is the strategy's

`train.lr` is for steps together. Alone a rank steps by the gradient of a W-th of the batch. In the mean SGD goes as far by it as
by the whole batch's. Adam divides gradients by their size: it goes as far where they are the same on all ranks, and a √W-th
as far where they are noise above all (the square root scaling rule, arXiv 2205.10287); between the two, a ∛W-th was found
(docs/distributed.md). The outer optimizer, with rate η and momentum μ, goes η / (1 − μ) times as far as the ranks did. So that a
round goes as far as its steps together would have, the rate of local steps is (`sync.local_lr` apart, and never more than
`train.lr`)

    train.lr · ∛W · (1 − μ) / η   with Adam,      train.lr · (1 − μ) / η   with SGD.

A rank's *share* of a mean is its share of the terms of the steps since: known without asking, for a batch is dealt out whole.
Steps of a round are counted from the end of the warm-up, so a round's end follows from the step's number.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from git_gru.train.recipe import SyncRecipe, TrainRecipe
from git_gru.train.sync.allreduce import AllReduce
from git_gru.train.sync.flat import Flat
from git_gru.train.sync.strategy import SyncState
from git_gru.train.sync.wire import Wire
from git_gru.train.world import World


@dataclass
class Tally:
    """Terms since the ranks last agreed: this rank's own, and all."""

    local: int = 0
    whole: int = 0

    def add(self, local: int, whole: int) -> None:
        """Counts a step."""
        self.local += local
        self.whole += whole

    def clear(self) -> None:
        """They agree."""
        self.local = self.whole = 0

    @property
    def share(self) -> float:
        """This rank's share."""
        return self.local / self.whole

    def tensor(self) -> torch.Tensor:
        """Both numbers, to be kept."""
        return torch.tensor([self.local, self.whole])

    def put(self, kept: torch.Tensor) -> None:
        """The numbers of `tensor` again."""
        self.local, self.whole = (int(number) for number in kept)


def adam_reach(workers: int) -> float:
    """How many times as far Adam goes by the gradient of a whole batch as by that of one of `workers` parts of it."""
    return math.cbrt(workers)


def local_lr(recipe: SyncRecipe, train: TrainRecipe, workers: int) -> float:
    """What the learning rate of local steps is, as a share of that of steps together."""
    if recipe.local_lr or recipe.strategy != "diloco":
        return recipe.local_lr or 1.0
    reach = adam_reach(workers) if train.optimizer == "adamw" else 1.0
    return min(1.0, reach * (1 - recipe.outer_momentum) / recipe.outer_lr)


class LocalSteps(ABC):
    """The common part. A strategy adds `_local_step`, maybe `_begin` and `_settle`, and to the state what it keeps beside."""

    def __init__(self, recipe: SyncRecipe, train: TrainRecipe, network: nn.Module, world: World) -> None:
        self._recipe, self._network = recipe, network
        self._local_lr = local_lr(recipe, train, world.size)
        self._together = AllReduce(SyncRecipe(), network, world)
        self._wire, self._flat = Wire(world), Flat(network)
        self._step = 0
        self._apart = Tally()

    @property
    def module(self) -> nn.Module:
        """The network itself, after the warm-up."""
        return self._together.module if self._step < self._recipe.warmup else self._network

    @property
    def optimizers_differ(self) -> bool:
        """After the warm-up."""
        return self._wire.size > 1 and self._step > self._recipe.warmup

    def optimization(self, train: TrainRecipe) -> TrainRecipe:
        """All of it, by every rank for itself."""
        return train

    def lr_scale(self, step: int) -> float:
        """`local_lr` after the warm-up."""
        return 1.0 if step <= self._recipe.warmup else self._local_lr

    def weight(self, local: int, whole: int) -> float:
        """A rank by itself goes by the mean over its own terms."""
        return self._together.weight(local, whole) if self._step < self._recipe.warmup else 1 / local

    def after_backward(self) -> None:
        """Nothing is exchanged in a local step."""
        if self._step < self._recipe.warmup:
            self._together.after_backward()

    @torch.no_grad()
    def after_step(self, step: int, local: int, whole: int) -> None:
        """Meets, where a round ends."""
        self._step = step
        if step > self._recipe.warmup:
            self._apart.add(local, whole)
            self._local_step(step - self._recipe.warmup, local, whole)
            return
        self._together.after_step(step, local, whole)
        if step == self._recipe.warmup:
            self._begin()

    def meets(self, step: int) -> bool:
        """In the warm-up, and at the end of each round."""
        return step <= self._recipe.warmup or (step - self._recipe.warmup) % self._recipe.every == 0

    def ends_round(self, step: int) -> bool:
        """Whether all ranks know the same weights after `step`, the last of the warm-up or of a round."""
        since = step - self._recipe.warmup
        return since >= 0 and since % self._recipe.every == 0

    @contextmanager
    def agreed(self) -> Iterator[Mapping[str, torch.Tensor]]:
        """At the end of a round: within it the network has the weights that all ranks know, without asking anyone; then its own
        again. Gives what of `SyncState.shared` belongs to them.
        """
        yield {}

    @contextmanager
    def consolidated(self) -> Iterator[None]:
        """The mean of the ranks' weights, exactly summed."""
        self._settle()
        self._wire.share(self._network.buffers())
        if not self._apart.whole:
            yield
            return
        own = self._flat.weights()
        mean = own * self._apart.share
        self._wire.add_up(mean)
        self._flat.put_weights(mean)
        try:
            yield
        finally:
            self._flat.put_weights(own)

    def state(self) -> SyncState:
        """`weights` of each rank, where they are apart, and the terms that they have gone since."""
        own = {"apart": self._apart.tensor()}
        if self._apart.whole:
            own["weights"] = self._flat.weights()
        return SyncState(own=own)

    def restore(self, step: int, state: SyncState) -> None:
        """See `SyncStrategy`."""
        self._step = step
        self._apart.put(state.own["apart"])
        if "weights" in state.own:
            self._flat.put_weights(state.own["weights"])

    def bytes_sent(self) -> int:
        """Of the warm-up and of the meetings."""
        return self._together.bytes_sent() + self._wire.sent

    def seconds_waited(self) -> float:
        """In the warm-up and in the meetings."""
        return self._together.seconds_waited() + self._wire.waited

    def _begin(self) -> None:  # noqa: B027 (for those who need it)
        """The warm-up is over: all ranks have the same weights."""

    @abstractmethod
    def _local_step(self, number: int, local: int, whole: int) -> None:
        """The local step `number`, from 1, is done."""

    def _settle(self) -> None:  # noqa: B027 (for those who need it)
        """Waits for what is under way."""
