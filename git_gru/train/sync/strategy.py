"""What the engine knows of a synchronisation strategy, and what a strategy keeps over a resume."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from git_gru.train.recipe import TrainRecipe


@dataclass(frozen=True, kw_only=True)
class SyncState:
    """What a strategy must have back to go on as if nothing had happened, by names that are the same on every rank.

    `shared` is the same on every rank, `own` may differ (its shapes and dtypes are the same). The tensors may be those that the
    strategy works with: who keeps them copies them.
    """

    shared: Mapping[str, torch.Tensor] = field(default_factory=dict)
    own: Mapping[str, torch.Tensor] = field(default_factory=dict)


class SyncStrategy(Protocol):
    """See `git_gru.train.sync`."""

    @property
    def module(self) -> nn.Module:
        """What forward runs through in the next step."""

    @property
    def optimizers_differ(self) -> bool:
        """Whether the ranks' optimizers have states of their own by now."""

    def optimization(self, train: TrainRecipe) -> TrainRecipe:
        """What is left of `[train]` for the engine's optimizer: a strategy may clip, or keep the momentum, itself."""

    def lr_scale(self, step: int) -> float:
        """What the learning rate of step `step` (from 1) is multiplied by."""

    def weight(self, local: int, whole: int) -> float:
        """What a rank multiplies the SUM of its losses by, when it has `local` of the global batch's `whole` terms."""

    def after_backward(self) -> None:
        """Called when this rank's gradients are there; afterwards they are those to step by."""

    def after_step(self, step: int, local: int, whole: int) -> None:
        """Called after the optimizer's step `step`, to which this rank gave `local` of `whole` terms."""

    def meets(self, step: int) -> bool:
        """Whether the ranks wait for each other in step `step` anyway: then it costs little to agree on other things."""

    def consolidated(self) -> AbstractContextManager[None]:
        """Within it the weights and buffers of all ranks are the same, bit for bit; then each has its own weights back."""

    def state(self) -> SyncState:
        """The state between two steps."""

    def restore(self, step: int, state: SyncState) -> None:
        """Makes the strategy what it was after `step`, when `state` was taken; the weights are already what they were."""

    def bytes_sent(self) -> int:
        """Bytes that this rank has sent to keep the weights together, so far; what protocols add is not counted."""

    def seconds_waited(self) -> float:
        """Seconds for which this rank's training has stood still to exchange them, so far."""
