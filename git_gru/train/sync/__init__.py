"""Synchronisation strategies: how workers come to agree on weights. One file a strategy, one Protocol (`strategy.SyncStrategy`).

(`git` is not among them: it brings together runs, not workers; those of a site go by `allreduce`. See `git_gru.train.sites`.)

The engine calls, on every rank, in this order:

    forward through `module`  →  backward of the summed loss × `weight(…)`  →  `after_backward()`
    →  clip and optimizer step, by what `optimization(…)` and `lr_scale(step)` left of them  →  `after_step(step, …)`  →  …
    and for a validation or a checkpoint: `state()`, then all within `consolidated()`

Contract (tests/train/test_sync.py holds every strategy to it):

- within `consolidated`, all ranks hold the same weights, bit for bit; afterwards training goes on as if it had not been called,
- `state` and `restore` bring a run back, bit for bit, together with weights, optimizers and random states,
- with exact arithmetic each is what it is made of: one worker trains as if alone, int8 and topk of everything are allreduce,
  local-sgd in rounds of one step is allreduce (SGD), diloco with the outer optimizer's step 1 and no momentum is local-sgd,
- the result of exact gradients does not depend on how a global batch was shared among the ranks, beyond rounding,
- `bytes_sent` is what crosses the network for this, and no more.
"""

from torch import nn

from git_gru.train.recipe import SyncRecipe, TrainRecipe
from git_gru.train.sync.allreduce import AllReduce
from git_gru.train.sync.compressed import CompressedAllReduce
from git_gru.train.sync.diloco import DiLoCo
from git_gru.train.sync.local_sgd import LocalSgd
from git_gru.train.sync.strategy import SyncState, SyncStrategy
from git_gru.train.world import World

__all__ = ["SyncState", "SyncStrategy", "build_strategy"]


def build_strategy(recipe: SyncRecipe, train: TrainRecipe, network: nn.Module, world: World) -> SyncStrategy:
    """The strategy that the recipe names, around `network` (already on the rank's device)."""
    if recipe.strategy == "local-sgd":
        return LocalSgd(recipe, train, network, world)
    if recipe.strategy == "diloco":
        return DiLoCo(recipe, train, network, world)
    if recipe.compress in ("int8", "topk") and world.size > 1:
        return CompressedAllReduce(recipe, train, network, world)
    return AllReduce(recipe, network, world)
