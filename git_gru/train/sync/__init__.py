"""Synchronisation strategies: how workers come to agree on weights. One file a strategy, one Protocol.

The engine calls, on every rank, in this order:

    forward through `module`  →  backward of the summed loss × `weight(…)`  →  clip and optimizer step
    →  `after_step(step)`  →  …  →  before a validation, checkpoint or the end: `consolidate()`

Contract (tests/train holds every strategy to it): after `consolidate`, all ranks hold the same weights, bit for bit; and the
result does not depend on how a global batch was shared among the ranks, beyond rounding.
"""

from collections.abc import Callable
from typing import Protocol

from torch import nn

from git_gru.train.recipe import SyncRecipe
from git_gru.train.sync.allreduce import AllReduce
from git_gru.train.world import World


class SyncStrategy(Protocol):
    """See the module's docstring."""

    @property
    def module(self) -> nn.Module:
        """What forward runs through."""

    def weight(self, local: int, whole: int) -> float:
        """What a rank multiplies the SUM of its losses by, when it has `local` of the global batch's `whole` terms."""

    def after_step(self, step: int) -> None:
        """Called after the optimizer's step `step`."""

    def consolidate(self) -> None:
        """Makes the weights of all ranks the same."""

    def bytes_sent(self) -> int:
        """Bytes that this rank has sent to keep the weights together, so far."""


STRATEGIES: dict[str, Callable[[nn.Module, World], SyncStrategy]] = {"allreduce": AllReduce}


def build_strategy(recipe: SyncRecipe, module: nn.Module, world: World) -> SyncStrategy:
    """The strategy that the recipe names, around `module` (already on the rank's device)."""
    return STRATEGIES[recipe.strategy](module, world)
