"""Load balancing: how many samples of the global batch each worker takes (`[balance]` in the recipe). Free of torch.

Workers wait for the slowest at every step, so all should take the same time for a step. A worker's *speed* is its samples per
second while it computes (what it waits for others is left out), smoothed over the looks at it; new shares are proportional to the
speeds. All workers are told the same times, so all compute the same shares.

- Shares add up to the batch, and each is at least 1: no sample is dropped or repeated, whatever they are, since a step's samples
  are cut by the shares (`sharding`).
- They change only where the slowest worker is expected to take `threshold` less time: equal workers' times differ by chance, and
  following that costs more than it gains.
- A share at most doubles at once: a time that was measured on a few samples says little of many.
- They change only after a step in which the workers meet. With a local strategy, which weighs each worker by its samples, that is
  the end of a round: a round's mean then counts every sample alike (docs/training.md says why workers take steps of unequal
  size and not unequal numbers of steps).
"""

from collections.abc import Mapping, Sequence

from git_gru.train.recipe import BalanceRecipe
from git_gru.train.sharding import share

_SMOOTHING = 0.5
"""Weight of the newest time in a worker's smoothed time."""

_GROWTH = 2
"""Times by which a share may grow at once."""


class Balancer:
    """The shares of `ranks` workers, of which this is `rank`, in batches of `batch` samples; even ones at first."""

    def __init__(self, recipe: BalanceRecipe, *, batch: int, ranks: int, rank: int) -> None:
        self._recipe = recipe
        self._rank = rank
        self._seconds = 0.0
        self._samples = 0
        self._smoothed: list[float] = []
        self._looked = 0
        self.shares = even_shares(batch, ranks)
        """Samples of a step by rank."""

    def slice_of(self, rank: int) -> slice:
        """The part of a global batch that falls to a rank."""
        start = sum(self.shares[:rank])
        return slice(start, start + self.shares[rank])

    def took(self, seconds: float) -> None:
        """Notes how long this worker computed in a step."""
        self._seconds += seconds
        self._samples += self.shares[self._rank]

    def due(self, step: int) -> bool:
        """Whether times are to be exchanged after a step in which the workers meet."""
        # not so after a rollback to before the last look
        waiting = 0 <= step - self._looked < self._recipe.every
        return self._is_active and not waiting

    def measured(self, step: int) -> list[float]:
        """The look after `step`: this worker's seconds a sample since the one before, at its place in a list of zeros, to be
        summed over the ranks.
        """
        self._looked = step
        times = [0.0] * len(self.shares)
        times[self._rank] = self._seconds / max(1, self._samples)
        self._seconds, self._samples = 0.0, 0
        return times

    def rebalance(self, times: Sequence[float]) -> bool:
        """Takes every worker's seconds a sample, and changes the shares if that is worth while; whether it did."""
        old = self._smoothed or times
        self._smoothed = [
            _SMOOTHING * now + (1 - _SMOOTHING) * before for now, before in zip(times, old, strict=True)
        ]
        speeds = [1 / max(seconds, 1e-12) for seconds in self._smoothed]
        most = [_GROWTH * held for held in self.shares]
        shares = proportional_shares(speeds, total=sum(self.shares), most=most)
        if self._slowest(shares) > (1 - self._recipe.threshold) * self._slowest(self.shares):
            return False
        self.shares = shares
        return True

    def state(self) -> Mapping[str, Sequence[float]]:
        """What a resumed run is to have back, the same on every rank: empty where shares do not change.

        What this worker has measured since the last look is not in it: it says nothing of the machine that goes on.
        """
        if not self._is_active:
            return {}
        return {"shares": self.shares, "seconds": self._smoothed, "looked": [self._looked]}

    def restore(self, state: Mapping[str, Sequence[float]]) -> None:
        """Takes back what `state` gave; nothing of a state of another number of workers."""
        if self._is_active and len(state.get("shares", ())) == len(self.shares):
            self.shares = tuple(int(held) for held in state["shares"])
            self._smoothed = list(state["seconds"])
            self._looked = int(state["looked"][0])

    @property
    def _is_active(self) -> bool:
        return self._recipe.mode == "adaptive" and len(self.shares) > 1

    def _slowest(self, shares: Sequence[int]) -> float:
        """The seconds of a step with these shares: those of the worker that takes longest."""
        return max(held * seconds for held, seconds in zip(shares, self._smoothed, strict=True))


def even_shares(total: int, ranks: int) -> tuple[int, ...]:
    """As even as can be: what `sharding.share` cuts."""
    slices = (share(total, ranks, rank) for rank in range(ranks))
    return tuple(part.stop - part.start for part in slices)


def proportional_shares(speeds: Sequence[float], *, total: int, most: Sequence[int]) -> tuple[int, ...]:
    """Whole shares of `total`, proportional to `speeds` (> 0), each from 1 to `most`.

    `total` lies between the number of shares and the sum of `most`. What the bounds keep from one share goes to the others, in
    proportion; fractions go to the largest remainders (of equal ones to the first).
    """
    exact = _bounded(speeds, total, most)
    shares = [int(part) for part in exact]
    by_remainder = sorted(range(len(exact)), key=lambda rank: (shares[rank] - exact[rank], rank))
    left = total - sum(shares)
    while left > 0:
        for rank in by_remainder:
            if left and shares[rank] < most[rank]:
                shares[rank] += 1
                left -= 1
    return tuple(shares)


def _bounded(speeds: Sequence[float], total: int, most: Sequence[int]) -> list[float]:
    """The exact shares within the bounds: those that a bound holds are set to it, and the rest is shared out again."""
    fixed: dict[int, float] = {}
    while True:
        free = [rank for rank in range(len(speeds)) if rank not in fixed]
        rest = total - sum(fixed.values())
        whole = sum(speeds[rank] for rank in free)
        wanted = {rank: rest * speeds[rank] / whole for rank in free}
        above = {rank: float(most[rank]) for rank in free if wanted[rank] > most[rank]}
        below = {rank: 1.0 for rank in free if wanted[rank] < 1}
        # the bounds on one side at a time: holding those may bring the others back within theirs
        surplus = sum(wanted[rank] - held for rank, held in above.items())
        deficit = sum(held - wanted[rank] for rank, held in below.items())
        held = above if surplus >= deficit and above else below
        if not held:
            return [fixed.get(rank, wanted.get(rank, 0.0)) for rank in range(len(speeds))]
        fixed |= held
