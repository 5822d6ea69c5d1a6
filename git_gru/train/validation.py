"""Validation: the metrics of a network over a set of samples, the same floats whoever takes them."""

import math

import numpy as np
import torch
from torch import nn

from git_gru.train.tasks import Samples, Task, moved
from git_gru.train.world import World

VALIDATION_BATCH = 64
"""Samples of a validation batch. Fixed: sums over these batches come out the same on any number of ranks."""


@torch.no_grad()
def validate(task: Task, network: nn.Module, samples: Samples, world: World) -> dict[str, float]:
    """The task's metrics over all `samples`, the same floats on every rank, in float32 arithmetic.

    Batch i falls to rank i mod size. Each batch's sums stand in their own row of one matrix, the ranks' matrices are added
    (to zeros: exact), and the rows are summed in order; so how many ranks there are makes no difference.
    """
    network.eval()
    batches = math.ceil(len(samples) / VALIDATION_BATCH)
    sums = torch.zeros(batches, len(task.measures), dtype=torch.float64)
    for number in range(world.rank, batches, world.size):
        first = number * VALIDATION_BATCH
        indices = np.arange(first, min(first + VALIDATION_BATCH, len(samples)), dtype=np.int64)
        sums[number] = task.measure(network, moved(samples.batch(indices), world.device)).double().cpu()
    world.add_up(sums)
    network.train()
    terms = len(samples) * samples.terms
    return task.metrics([math.fsum(column) / terms for column in sums.T.tolist()])
