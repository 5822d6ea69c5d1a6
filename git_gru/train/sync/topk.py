"""Deep gradient compression (arXiv 1712.01887): of each parameter's gradients only the largest are sent, the others gather.

On every rank, for its gradient g, with SGD:   g ← g, clipped to a norm of `train.clip` / √W          (local clipping)
                                               u ← m · u + g,   v ← v + u                              (momentum correction)
                                               send the k largest of |v|; there v ← 0 and u ← 0        (momentum factor masking)

and every rank steps by the mean of what was sent, without momentum of its own. For AdamW, for which the paper has no rule, what
gathers are the steps that Adam would take by the rank's own gradients, which it knows in full:

                                               u ← β₁ · u + (1 − β₁) · g,   s ← β₂ · s + (1 − β₂) · g²
                                               v ← v + ∛W · û / √ŝ        (û, ŝ: without their bias towards zero)
                                               r ← r + g
                                               send v for the k largest of |v · r|; there v ← 0 and r ← 0

(v · r is what a step by v takes off the loss, to first order. Adam's steps alone are of one size, whether noise or not.)

(An optimizer behind the exchange would see zeros with a large number now and then, and take its squares from that. Steps by a
W-th of the batch go a ∛W-th as far as those by the whole, see `local`: hence ∛W, and the learning rate is AdamW's.)
What is sent is in eight bits (`sparse`); what they lose gathers with the rest. In the first `sync.warmup` steps the density falls
in five stages from 1/4 to `sync.density`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from git_gru.train.recipe import SyncRecipe, TrainRecipe
from git_gru.train.sync.local import adam_reach
from git_gru.train.sync.sparse import packed, unpacked
from git_gru.train.sync.wire import Wire

FIRST_DENSITY = 0.25
STAGES = 4
"""Stages of the warm-up before the last, which is the rest of the run."""

SAMPLED = 64
"""How many of those that are sent should be in a sample: it is a `SAMPLED`-th of them long, times what the density leaves out."""

_FEW = 8
"""Times as many as are sent there must be for a sample to be worth its while."""


_TINY = 1e-8
"""Adam's ε."""


class Largest:
    """One rank's compressor. `sizes` are those of the parameters, one after the other in the vector; `like` is such a vector."""

    def __init__(
        self, wire: Wire, like: torch.Tensor, sizes: Sequence[int], recipe: SyncRecipe, train: TrainRecipe
    ) -> None:
        self._wire, self._sizes, self._recipe, self._train = wire, list(sizes), recipe, train
        self._is_adam = train.optimizer == "adamw"
        self._gathered = torch.zeros_like(like)
        own = {"gathered": self._gathered}
        if self._is_adam or train.momentum:
            own["velocity"] = torch.zeros_like(like)
        if self._is_adam:
            own["squares"] = torch.zeros_like(like)
            own["raw"] = torch.zeros_like(like)
            # not the run's: what goes on with another number of workers begins anew
            own["steps"] = torch.zeros((), dtype=torch.int64)
        self.own: Mapping[str, torch.Tensor] = own

    def optimization(self, train: TrainRecipe) -> TrainRecipe:
        """Plain steps by what is sent: clipping, momentum and AdamW's division are done here. Weights decay as ever."""
        return replace(train, optimizer="sgd", clip=0.0, momentum=0.0)

    def mean(self, gradients: torch.Tensor, share: float, step: int) -> torch.Tensor:
        """Σ `share` · what each rank sends in `step`, from 1; `gradients` may be overwritten."""
        self._gathered += self._adam_step(gradients) if self._is_adam else self._velocity(gradients)
        places = self._places(self._worth(), density(self._recipe, step))
        message, said = packed(self._gathered[places], places, len(self._gathered))
        self._gathered[places] -= said
        for name in ("raw",) if self._is_adam else self.own.keys() & {"velocity"}:
            self.own[name][places] = 0
        return self._summed(message, len(places), share)

    def _velocity(self, gradients: torch.Tensor) -> torch.Tensor:
        """The clipped gradients, with their momentum."""
        if self._train.clip:
            norm = torch.linalg.vector_norm(gradients)
            gradients *= (self._train.clip / self._wire.size**0.5 / (norm + 1e-6)).clamp(max=1.0)
        if "velocity" not in self.own:
            return gradients
        return self.own["velocity"].mul_(self._train.momentum).add_(gradients)

    def _adam_step(self, gradients: torch.Tensor) -> torch.Tensor:
        """What Adam would step by, of this rank's gradients."""
        beta1, beta2 = self._train.beta1, self._train.beta2
        step = int(self.own["steps"].add_(1))
        self.own["raw"].add_(gradients)
        mean = self.own["velocity"].mul_(beta1).add_(gradients, alpha=1 - beta1)
        squares = self.own["squares"].mul_(beta2).addcmul_(gradients, gradients, value=1 - beta2)
        sizes = (squares / (1 - beta2**step)).sqrt_().div_(adam_reach(self._wire.size)).add_(_TINY)
        return mean / sizes.mul_(1 - beta1**step)

    def _worth(self) -> torch.Tensor:
        """By the size of what it is chosen what is sent."""
        return self._gathered * self.own["raw"] if self._is_adam else self._gathered

    def _places(self, worth: torch.Tensor, density: float) -> torch.Tensor:
        """Where the largest of `worth` stand, as many in each parameter as its size asks for: int64 [sent], ascending. Their
        number follows from the density, so all ranks send the same number.
        """
        found, first = [], 0
        for part in torch.split(worth, self._sizes):
            count = max(1, round(len(part) * density))
            found.append(largest(part, count).sort().values + first)
            first += len(part)
        return torch.cat(found)

    def _summed(self, message: torch.Tensor, count: int, share: float) -> torch.Tensor:
        """The sum over all ranks of what they say, in the order of the ranks: the same bits on each."""
        whole = torch.zeros_like(self._gathered)
        for came in self._wire.gather(message):
            said, places = unpacked(came, len(whole), count, whole.dtype)
            whole[places] += said * share
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
            # NaN is neither: it is among them
            few = (values < threshold).logical_and_(values > -threshold).logical_not_()
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
