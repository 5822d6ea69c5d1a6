"""What a step of a strategy costs: seconds, and bytes by the count of the nodes' own interfaces.

The workers are forked into the nodes of a network and go through the strategy as the engine does (`git_gru.train.sync`). Their
compute is pretended (`benchmarks.nodes.pretended`): each node of a real cluster has its own cores, which this machine has not.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from benchmarks.nodes.network import Link, network, sent_bytes
from benchmarks.nodes.pretended import Pretended
from benchmarks.nodes.ranks import fork_ranks
from benchmarks.nodes.text import Model
from git_gru.train.architecture import architecture_of
from git_gru.train.engine import build_optimizer
from git_gru.train.recipe import ModelRecipe, SyncRecipe, TrainRecipe
from git_gru.train.sync import build_strategy
from git_gru.train.tasks import Task, task_of
from git_gru.train.world import join

ALONE: Mapping[str, object] = {"strategy": "local-sgd", "warmup": 0, "every": 1 << 30}
"""Workers that never meet: the speed that no synchronisation can better."""


@dataclass(frozen=True)
class Cost:
    """Of one step: seconds, the largest over the ranks; bytes sent by a rank, the mean over them."""

    seconds: float
    sent: float


def task_for(model: Model) -> Task:
    """The language model's task."""
    recipe = ModelRecipe(embedding=model.embedding, hidden=model.hidden, layers=model.layers)
    return task_of(architecture_of(recipe, {"symbols": 256}))


def compute_seconds(model: Model, samples: int, steps: int = 12) -> float:
    """What a step with so many samples takes one worker on one core: forward, backward, clipping, AdamW."""

    def work(rank: int, count: int) -> list[float]:
        torch.manual_seed(0)
        task = task_for(model)
        net, taken = task.build(), []
        optimizer = build_optimizer(net, TrainRecipe(), torch.device("cpu"))
        batch = (torch.randint(0, 256, (samples, model.window + 1)),)
        for _ in range(steps):
            start = time.perf_counter()
            task.loss(net, batch).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            taken.append(time.perf_counter() - start)
        return taken[2:]

    return median(fork_ranks(1, work)[0])


def step_cost(
    model: Model,
    sync: Mapping[str, Any],
    nodes: int,
    link: Link,
    *,
    compute: float,
    steps: int,
    before: int = 1,
) -> Cost:
    """What one of `steps` steps costs on average, after the strategy's warm-up and `before` further ones."""
    sync = {"warmup": 0, **sync}
    first = (sync["warmup"] if sync.get("strategy") in ("local-sgd", "diloco") else 0) + before

    def work(rank: int, count: int) -> tuple[float, int]:
        world = join("cpu", rank=rank, size=count, local_rank=rank, local_size=count)
        pretended = Pretended(task_for(model).build(), compute)
        strategy = build_strategy(SyncRecipe(**sync), TrainRecipe(), pretended, world)

        def train(begin: int, end: int) -> None:
            for step in range(begin, end):
                (strategy.module() * strategy.weight(1, count)).backward()
                with torch.no_grad():
                    strategy.after_backward()
                for parameter in pretended.parameters():
                    parameter.grad = None
                strategy.after_step(step, 1, count)

        train(1, first + 1)
        world.barrier()
        start, counted = time.perf_counter(), sent_bytes()
        train(first + 1, first + steps + 1)
        took, sent = time.perf_counter() - start, sent_bytes() - counted
        strategy.state()  # waits for what is under way
        world.barrier()
        return took, sent

    with network(nodes, link) as places:
        measured = fork_ranks(nodes, work, places)
    return Cost(max(took for took, _ in measured) / steps, sum(sent for _, sent in measured) / nodes / steps)
