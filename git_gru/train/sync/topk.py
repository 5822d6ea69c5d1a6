"""Deep gradient compression (arXiv 1712.01887): of each parameter's gradients only the largest are sent, the others gather.

On every rank, for its gradient g:   g ← g, clipped to a norm of `train.clip` / √W          (local clipping)
                                     u ← m · u + g,   v ← v + u                              (momentum correction)
                                     send the k largest of |v|; there v ← 0 and u ← 0        (momentum factor masking)

and every rank steps by the mean of what was sent, without momentum of its own. In the first `sync.warmup` steps the density falls
in five stages from 1/4 to `sync.density`. With AdamW, for which the paper has no correction, m is 0: gradients just gather.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from git_gru.train.recipe import SyncRecipe, TrainRecipe
from git_gru.train.sync.wire import Wire

FIRST_DENSITY = 0.25
STAGES = 4
"""Stages of the warm-up before the last, which is the rest of the run."""

SAMPLED = 64
"""How many of those that are sent should be in a sample: it is a `SAMPLED`-th of them long, times what the density leaves out."""

_FEW = 8
"""Times as many as are sent there must be for a sample to be worth its while."""


class Largest:
    """One rank's compressor. `sizes` are those of the parameters, one after the other in the vector; `like` is such a vector."""

    def __init__(
        self, wire: Wire, like: torch.Tensor, sizes: Sequence[int], recipe: SyncRecipe, train: TrainRecipe
    ) -> None:
        self._wire, self._sizes, self._recipe = wire, list(sizes), recipe
        self._momentum = train.momentum if train.optimizer == "sgd" else 0.0
        self._clip = train.clip / wire.size**0.5
        self._velocity = torch.zeros_like(like) if self._momentum else None
        self._gathered = torch.zeros_like(like)
        self.own: Mapping[str, torch.Tensor] = {"gathered": self._gathered}
        if self._velocity is not None:
            self.own = {**self.own, "velocity": self._velocity}

    def optimization(self, train: TrainRecipe) -> TrainRecipe:
        """Without clipping, and without the momentum that is kept here."""
        return replace(train, clip=0.0, momentum=0.0)

    def mean(self, gradients: torch.Tensor, share: float, step: int) -> torch.Tensor:
        """Σ `share` · what each rank sends in `step`, from 1; `gradients` may be overwritten."""
        if self._clip:
            norm = torch.linalg.vector_norm(gradients)
            gradients *= (self._clip / (norm + 1e-6)).clamp(max=1.0)
        if self._velocity is not None:
            self._velocity.mul_(self._momentum).add_(gradients)
        self._gathered += gradients if self._velocity is None else self._velocity
        places = self._places(density(self._recipe, step))
        sent = self._gathered[places]
        for kept in self.own.values():
            kept[places] = 0
        return self._summed(places, sent * share)

    def _places(self, density: float) -> torch.Tensor:
        """Where the largest stand, as many in each parameter as its size asks for: int64 [sent]. Their number follows from
        the density, so all ranks send the same number.
        """
        found, first = [], 0
        for part in torch.split(self._gathered, self._sizes):
            count = max(1, round(len(part) * density))
            found.append(largest(part, count) + first)
            first += len(part)
        return torch.cat(found)

    def _summed(self, places: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks of `values` at `places`, in the order of the ranks: the same bits on each."""
        whole = torch.zeros_like(self._gathered)
        size = values.numel() * values.element_size()
        message = torch.cat([values.view(torch.uint8), places.to(torch.int32).view(torch.uint8)])
        for data in self._wire.gather(message):
            came, there = (
                data[:size].clone(),
                data[size:].clone(),
            )  # copies, for a tensor's memory has to be aligned
            whole[there.view(torch.int32).long()] += came.view(values.dtype)
        return whole


def largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Where the `count` largest of |`values`| stand: int64 [count]. NaN is larger than any number.

    As in the paper, a threshold from a sample leaves few candidates, and of these the largest are taken. They are exactly those
    of all, for no fewer candidates than `count` are taken for enough; a sample that misleads costs time and nothing else.
    """
    stride = count // SAMPLED | 1  # odd: rows of a matrix are mostly an even number long
    if stride > 1 and count * _FEW < len(values):
        sample = values[::stride].abs()
        expected = len(sample) * count / len(values)
        rank = math.ceil(expected + 4 * math.sqrt(expected))
        threshold = torch.topk(sample, rank).values[-1]
        if threshold > 0:
            few = (
                (values < threshold).logical_and_(values > -threshold).logical_not_()
            )  # NaN is neither: it is among them
            candidates = few.nonzero()[:, 0]
            if len(candidates) >= count:
                return candidates[torch.topk(values[candidates].abs(), count, sorted=False).indices]
    return torch.topk(values.abs(), count, sorted=False).indices


def density(recipe: SyncRecipe, step: int) -> float:
    """The share of the gradients that is sent in step `step` (from 1)."""
    if step > recipe.warmup or recipe.density >= FIRST_DENSITY:
        return recipe.density
    stage = STAGES * (step - 1) // recipe.warmup
    return FIRST_DENSITY * math.pow(recipe.density / FIRST_DENSITY, stage / STAGES)
