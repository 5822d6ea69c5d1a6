"""Balance: two nodes of which one is slow, with even shares and with adaptive ones, by the engine itself.

Each node has a core of its own, and the slow one a quota of it; so with even shares both go at the slow one's speed. With one
at 1 / f of the other's speed, no sharing can be faster than (1 + 1 / f) / (2 / f) = (f + 1) / 2 times that.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from benchmarks.nodes.network import Link, network
from benchmarks.nodes.slow import cpu_quota, join
from benchmarks.nodes.text import Training


@dataclass(frozen=True)
class Balanced:
    """A pair of runs: tokens a second in the second half of each, final losses, the shares at the end."""

    even: float
    adaptive: float
    even_loss: float
    adaptive_loss: float
    shares: Sequence[int]

    @property
    def gain(self) -> float:
        return self.adaptive / self.even


def balanced_pairs(
    training: Training, quota: float, sync: Mapping[str, object], *, steps: int, seeds: int
) -> list[Balanced]:
    """One pair a seed. `quota` is the slow node's share of its core."""
    found = []
    for seed in range(seeds):
        modes = ("off", "adaptive") if seed % 2 else ("adaptive", "off")
        runs = {mode: _run(training, mode, quota, sync, steps=steps, seed=seed) for mode in modes}
        (even, even_loss, _), (adaptive, adaptive_loss, shares) = runs["off"], runs["adaptive"]
        found.append(Balanced(even, adaptive, even_loss, adaptive_loss, shares))
    return found


def _run(
    training: Training, mode: str, quota: float, sync: Mapping[str, object], *, steps: int, seed: int
) -> tuple[float, float, Sequence[int]]:
    """Tokens a second, final loss, last shares."""
    settings = {"balance.mode": mode, "balance.every": 5, "train.steps": steps, "train.seed": seed}
    settings |= {"train.log_every": 5, **{f"sync.{key}": value for key, value in sync.items()}}
    with ExitStack() as stack:
        group = stack.enter_context(cpu_quota(quota))
        nodes = stack.enter_context(network(2, Link()))

        def prepare(rank: int) -> None:
            os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
            if rank == 1:
                join(group)

        events = training.run(settings, 2, nodes, prepare)
    rates = [e.tokens_per_s for e in events if e.tokens_per_s is not None and e.step > steps // 2]
    (loss,) = [e.validation["val_loss"] for e in events if e.validation][-1:]
    (shares,) = [e.shares for e in events if e.shares][-1:]
    return median(rates), loss, shares
