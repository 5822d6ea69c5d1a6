"""What the engine knows of a task: the Protocol, and nothing else.

A *batch* is what the task's data gives for a few samples, as a tuple of tensors. Its loss is the SUM over its *terms* (for a
language model the symbols to predict), so that means over any set of ranks and batches come out exactly.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from git_gru.train.architecture import Architecture
from git_gru.train.recipe import DataRecipe
from git_gru.train.sharding import Indices

Batch = tuple[torch.Tensor, ...]


class Samples(Protocol):
    """The samples of one split."""

    @property
    def terms(self) -> int:
        """Terms in the loss of one sample, the same for all."""

    def __len__(self) -> int:
        """How many there are."""

    def batch(self, indices: Indices) -> Batch:
        """The samples `indices`, on the CPU."""


class Task(Protocol):
    """See the module's docstring. `measures` names what `measure` sums up, the loss first.

    `carried` is what training takes along from one batch to the next, by the rows of this rank's batch; most tasks take nothing.
    It belongs to what a resume needs.
    """

    architecture: Architecture
    measures: tuple[str, ...]
    carried: dict[str, torch.Tensor]

    def build(self, *, dropout: float = 0.0) -> nn.Module:
        """The network with fresh weights (of torch's global random state)."""

    def samples(self, folder: Path, split: str, recipe: DataRecipe) -> Samples:
        """The samples of a split of the data that were prepared in `folder`."""

    def loss(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        """The training loss summed over all terms of a batch (on the network's device): a scalar, float32 or wider."""

    def measure(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        """The sums of the `measures` over a validation batch, one number each."""

    def metrics(self, means: Sequence[float]) -> dict[str, float]:
        """The metrics that follow from the means of the `measures` per term: `val_loss` first.

        Those named `val_…` are what a run's log and its commits tell; the others are told by `git gru eval` besides.
        """


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`."""
    return tuple(tensor.to(device, non_blocking=True) for tensor in batch)
