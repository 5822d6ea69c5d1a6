"""Scaling: what a step takes with more and more ranks, and a model of it that says what is beyond.

Every rank keeps its own batch (weak scaling), so efficiency is the time of a step of one rank alone over that of all together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.nodes.network import Link
from benchmarks.nodes.steps import step_cost
from benchmarks.nodes.text import Model


@dataclass(frozen=True)
class Scaling:
    """Seconds of a step by number of ranks, and the fitted model of what is not compute: a + b · (n − 1) / n + c · (n − 1).

    b is what goes round a ring (of n parts every rank sends n − 1, twice), c what every rank sends to every other one, and the
    latency of a ring's steps; a is what does not depend on n, less what is hidden behind the compute.
    """

    compute: float
    seconds: Mapping[int, float]
    fitted: Sequence[float]
    held_out: int

    def predicted(self, ranks: int) -> float:
        return self.compute + float(_terms(ranks) @ np.array(self.fitted))

    def efficiency(self, ranks: int) -> float:
        return self.compute / self.seconds[ranks]

    @property
    def error(self) -> float:
        """Of the model at the point that it has not seen: predicted / measured − 1."""
        return self.predicted(self.held_out) / self.seconds[self.held_out] - 1


def scaling(
    model: Model, sync: Mapping[str, object], ranks: Sequence[int], link: Link, *, compute: float, steps: int
) -> Scaling:
    """Measures with each number of `ranks`; the model is fitted on all but the last."""
    seconds = {n: step_cost(model, sync, n, link, compute=compute, steps=steps).seconds for n in ranks}
    *seen, held_out = ranks
    rows = np.array([_terms(n) for n in seen])
    rest = np.array([seconds[n] - compute for n in seen])
    fitted = np.linalg.lstsq(rows, rest, rcond=None)[0]
    return Scaling(compute, seconds, fitted.tolist(), held_out)


def _terms(ranks: int) -> np.ndarray:
    return np.array([1.0, (ranks - 1) / ranks, ranks - 1.0])
