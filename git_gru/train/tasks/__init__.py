"""Tasks: what a network learns to do. One file a task, one Protocol; the engine knows nothing else of them.

A *batch* is what the task's data gives for a few samples; its loss is the SUM over its *terms* (for a language model the
bytes to predict), so that means over any set of ranks and batches come out exactly.
"""

from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from git_gru.errors import InputError
from git_gru.train.architecture import Architecture
from git_gru.train.sharding import Indices
from git_gru.train.tasks.language_model import LanguageModelTask


class Samples(Protocol):
    """The samples of one split."""

    @property
    def terms(self) -> int:
        """Terms in the loss of one sample."""

    def __len__(self) -> int:
        """How many there are."""

    def batch(self, indices: Indices) -> torch.Tensor:
        """The samples `indices` as one tensor, the first axis counting them."""


class Task(Protocol):
    """See the module's docstring."""

    architecture: Architecture

    def build(self, *, dropout: float = 0.0) -> nn.Module:
        """The network with fresh weights (of torch's global random state)."""

    def samples(self, file: Path, window: int) -> Samples:
        """The samples of a prepared data file."""

    def loss(self, network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """The loss summed over all terms of a batch (on the network's device): a scalar, float32 or wider."""

    def metrics(self, mean_loss: float) -> dict[str, float]:
        """What follows from the mean loss per term, for people."""


TASKS: dict[tuple[str, str], type[Task]] = {("gru", "language-model"): LanguageModelTask}


def task_of(architecture: Architecture) -> Task:
    """The task that an architecture names. Raises `InputError` when this git-gru does not know it."""
    key = (architecture["kind"], architecture["task"])
    if key not in TASKS:
        raise InputError(
            f"this git-gru knows no network {key[0]!r} for the task {key[1]!r}", hint="Upgrade git-gru."
        )
    return TASKS[key](architecture)  # type: ignore[call-arg]
