"""Accuracy: the validation loss of each strategy with four workers beside that of one worker, at equal samples.

Every variant, the one worker too, has its own learning rate, found on a seed that is not among those compared (in runs as long
as those: DiLoCo's best rate falls with the length). Differences are paired by seed, which fixes first weights and the order of
samples.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

from benchmarks.nodes.text import Model, Training

WORKERS = 4
SWEEP_SEED = 1000
_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)
"""Student's t for a 95 % interval, by degrees of freedom from 1."""


@dataclass(frozen=True)
class Variant:
    """A way to train; `settings` are keys of `[sync]`, `against` the variant whose loss it is compared with."""

    name: str
    workers: int = WORKERS
    settings: Mapping[str, object] = field(default_factory=dict)
    against: str | None = "one worker"
    threshold: float | None = None
    """Per cent by which its loss may be above the other's."""


@dataclass(frozen=True)
class Outcome:
    """A variant's losses by seed, and how they stand to those that it is compared with: per cent, mean and half interval."""

    variant: Variant
    lr: float
    losses: Sequence[float]
    percent: float
    half: float

    @property
    def verdict(self) -> str:
        """Whether the threshold holds, as far as the interval shows it."""
        limit = self.variant.threshold
        if limit is None:
            return ""
        if self.percent + self.half <= limit:
            return f"≤ {limit:g} %: shown"
        return f"≤ {limit:g} %: {'not shown' if self.percent - self.half <= limit else 'missed'}"


def tuned(training: Training, variant: Variant, rates: Sequence[float], steps: int, *, fine: bool) -> float:
    """The learning rate with the lowest loss: among `rates`, beyond their ends where the lowest is at one, and then, if `fine`,
    half a step (√2) to each side of it.
    """
    tried = {lr: _loss(training, variant, lr, steps, SWEEP_SEED) for lr in rates}
    while (best := min(tried, key=lambda lr: tried[lr])) in (max(tried), min(tried)):
        further = best * 2 if best == max(tried) else best / 2
        tried[further] = _loss(training, variant, further, steps, SWEEP_SEED)
    for near in (best / math.sqrt(2), best * math.sqrt(2)) if fine else ():
        tried[near] = _loss(training, variant, near, steps, SWEEP_SEED)
    return min(tried, key=lambda lr: tried[lr])


def outcomes(
    folder: Path,
    model: Model,
    variants: Sequence[Variant],
    *,
    rates: Sequence[float],
    fine: bool,
    steps: int,
    seeds: int,
) -> list[Outcome]:
    """Every variant, tuned and then run with as many seeds."""
    training, found = Training(folder, model), {}
    for variant in variants:
        lr = tuned(training, variant, rates, steps, fine=fine)
        losses = [_loss(training, variant, lr, steps, seed) for seed in range(seeds)]
        base = losses if variant.against is None else found[variant.against].losses
        percent, half = paired([100 * (own / other - 1) for own, other in zip(losses, base, strict=True)])
        found[variant.name] = Outcome(variant, lr, losses, percent, half)
        print(f"{variant.name}: rate {lr:g}, losses {losses}", file=sys.stderr, flush=True)  # it takes long
    return list(found.values())


def paired(differences: Sequence[float]) -> tuple[float, float]:
    """Their mean, and half the width of its 95 % interval."""
    count = len(differences)
    if count < 2:
        return mean(differences), math.inf
    return mean(differences), _T_975[min(count - 2, len(_T_975) - 1)] * stdev(differences) / math.sqrt(count)


def _loss(training: Training, variant: Variant, lr: float, steps: int, seed: int) -> float:
    sync = {f"sync.{key}": value for key, value in variant.settings.items()}
    loss = training.loss({"train.lr": lr, "train.steps": steps, "train.seed": seed} | sync, variant.workers)
    return loss if math.isfinite(loss) else math.inf
