"""Time to a target loss: the steps that a strategy needs, from real training, times what a step costs on a network.

What a strategy's weights are after a step does not depend on how fast the network is (tests/train/test_sync.py), so the loss is
trained once for each number of nodes and strategy, by a small model, and the steps of a large one are timed on every network.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.nodes.network import Link
from benchmarks.nodes.steps import step_cost
from benchmarks.nodes.text import Model, Training


@dataclass(frozen=True)
class Curve:
    """Validation losses by step."""

    steps: Sequence[int]
    losses: Sequence[float]

    def reaches(self, target: float) -> float | None:
        """The step at which the loss is first at `target`, between two measured ones by a line; None if it never is."""
        before = (0, math.inf)
        for step, loss in zip(self.steps, self.losses, strict=True):
            if loss <= target:
                if math.isinf(before[1]):
                    return float(step)
                return before[0] + (step - before[0]) * (before[1] - target) / (before[1] - loss)
            before = (step, loss)
        return None


def curve(training: Training, settings: Mapping[str, object], nodes: int, *, steps: int, every: int) -> Curve:
    """Trains with so many workers, and validates every so many steps."""
    events = training.run({"train.steps": steps, "train.eval_every": every, **settings}, nodes)
    losses = {event.step: event.validation["val_loss"] for event in events if event.validation}
    return Curve(list(losses), list(losses.values()))


@dataclass(frozen=True)
class Pace:
    """Seconds of a step in the synchronous warm-up, and after it."""

    warmup: float
    after: float

    def seconds(self, steps: float, warmup: int) -> float:
        """What so many steps take, from the first on."""
        return min(steps, warmup) * self.warmup + max(0.0, steps - warmup) * self.after


def pace(
    model: Model,
    sync: Mapping[str, object],
    nodes: int,
    link: Link,
    *,
    compute: float,
    allreduce: float,
    steps: int,
) -> Pace:
    """Measures a step after the warm-up, over whole rounds; `allreduce` is what one of the warm-up takes."""
    is_local = sync.get("strategy") in ("diloco", "local-sgd")
    before = int(str(sync.get("overlap", 0))) or 1
    cost = step_cost(model, {**sync, "warmup": 0}, nodes, link, compute=compute, steps=steps, before=before)
    return Pace(allreduce if is_local else cost.seconds, cost.seconds)
