"""Which samples a step uses, and which of them a rank: pure functions, the same on every rank.

The samples of all epochs stand in one endless line: every epoch is a permutation of all samples (seeded by the recipe's
seed and the epoch's number), one epoch after the other. Step k takes the next `batch` of them, so every batch is full and a
batch may reach over the end of an epoch; a rank takes a slice of the batch. So

- the global batch of a step does not depend on how many workers there are,
- every sample is used exactly once an epoch, over all ranks together,
- a position in the data is a step's number: nothing else need be kept to resume.
"""

import hashlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from git_gru.train.recipe import Recipe

Indices = npt.NDArray[np.int64]


class BatchPlan:
    """The line of samples, cut into global batches. `samples` ≥ 1 and `batch` ≥ 1."""

    def __init__(self, *, samples: int, batch: int, seed: int) -> None:
        self.samples = samples
        self.batch = batch
        self.seed = seed
        self._epoch = lru_cache(maxsize=2)(self._permutation)  # a batch reaches over at most a few ends

    def indices(self, step: int) -> Indices:
        """The samples of the global batch of step `step` (from 1), in order: int64 [batch]."""
        position, end = (step - 1) * self.batch, step * self.batch
        parts = []
        while position < end:
            epoch, start = divmod(position, self.samples)
            part = self._epoch(epoch)[start : start + end - position]
            parts.append(part)
            position += len(part)
        return np.concatenate(parts).astype(np.int64)

    def _permutation(self, epoch: int) -> npt.NDArray[np.uint32] | npt.NDArray[np.uint64]:
        random = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        if self.samples <= 1 << 32:  # half the memory
            short = np.arange(self.samples, dtype=np.uint32)
            random.shuffle(short)
            return short
        long = np.arange(self.samples, dtype=np.uint64)
        random.shuffle(long)
        return long


class StreamPlan:
    """As `BatchPlan`, but row i of a batch goes on where row i of the batch before ended: for a state that is carried.

    The samples, in order, are cut into `batch` streams, the first ones a sample longer where it does not come out even. An epoch
    is the first sample of every stream, then the second of every stream, and so on; the next epoch follows directly. So
    within an epoch a sample always stands `batch` places behind the one before it in its stream: in the same row.
    """

    def __init__(self, *, samples: int, batch: int) -> None:
        self.samples = samples
        self.batch = batch

    def indices(self, step: int) -> Indices:
        """The samples of the global batch of step `step` (from 1), in order: int64 [batch]."""
        place = np.arange((step - 1) * self.batch, step * self.batch, dtype=np.int64) % self.samples
        number, stream = np.divmod(place, self.batch)
        length, longer = divmod(self.samples, self.batch)
        first: Indices = stream * length + np.minimum(stream, longer)
        return first + number


def batch_plan(recipe: Recipe, *, samples: int) -> BatchPlan | StreamPlan:
    """The plan that the recipe asks for, over `samples` samples."""
    if recipe.data.stateful:
        return StreamPlan(samples=samples, batch=recipe.train.batch)
    return BatchPlan(samples=samples, batch=recipe.train.batch, seed=order_seed(recipe))


def order_seed(recipe: Recipe) -> int:
    """The seed of the order of samples: that of the recipe, and of a site one of its own, so that sites learn from different
    samples at the same time.
    """
    if not recipe.sync.is_git:
        return recipe.train.seed
    said = f"{recipe.train.seed} {recipe.sync.site}".encode()
    return int.from_bytes(hashlib.sha256(said).digest()[:7])  # with a rank added, still one that torch takes


def share(total: int, ranks: int, rank: int) -> slice:
    """The slice of `total` things that falls to `rank` of `ranks`: in order, sizes differing by at most one."""
    size, rest = divmod(total, ranks)
    start = rank * size + min(rank, rest)
    return slice(start, start + size + (rank < rest))
