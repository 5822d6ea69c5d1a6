"""Ranks that hold the synchronisation strategies to their contract: `python sync_ranks.py CASES.json FOLDER SIZE…`.

For each SIZE that many processes, forked when torch is there already, do every case and write what came out of it,
`FOLDER/<size>-<rank>.npz`: arrays `<case>/<what>`. A case is a name, keys of `[sync]` and of `[train]`.
"""

import json
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch._dynamo  # DistributedDataParallel imports it, which takes seconds: once, before the forks

from git_gru.train.architecture import architecture_of
from git_gru.train.corpus.text import Windows
from git_gru.train.engine import build_optimizer
from git_gru.train.recipe import ModelRecipe, SyncRecipe, TrainRecipe
from git_gru.train.sharding import share
from git_gru.train.state import State
from git_gru.train.sync import build_strategy
from git_gru.train.tasks import task_of
from git_gru.train.tasks.language_model import TextSamples
from git_gru.train.validation import validate
from git_gru.train.world import World, join

STEPS, MIDDLE = 11, 7
BATCH, SYMBOLS = 5, 7


class Training:
    """One rank's training on batches of five samples, which no two or three ranks can share evenly."""

    def __init__(self, case: dict[str, Any], world: World) -> None:
        sync, train = SyncRecipe(**case["sync"]), TrainRecipe(**{"lr": 0.1, **case["train"]})
        self.world, self.lr = world, train.lr
        torch.manual_seed(0)
        self.task = task_of(architecture_of(ModelRecipe(embedding=4, hidden=8, layers=2), {"symbols": 256}))
        self.network = self.task.build()
        self.network.register_buffer(
            "short", torch.ones(3, 2, dtype=torch.int16).T
        )  # no dtype or layout that gloo knows
        self.strategy = build_strategy(sync, train, self.network, world)
        self.optimizer = build_optimizer(self.network, self.strategy.optimization(train), world.device)

    def backward(self, step: int) -> int:
        whole = np.random.default_rng(step).integers(0, 256, (BATCH, SYMBOLS))
        batch = torch.from_numpy(whole[share(BATCH, self.world.size, self.world.rank)]).long()
        loss = self.task.loss(self.strategy.module, (batch,))
        terms = (SYMBOLS - 1) * len(batch)
        (loss * self.strategy.weight(terms, (SYMBOLS - 1) * BATCH)).backward()
        return terms

    def train(self, first: int, last: int, *, look: bool = False) -> None:
        for step in range(first, last + 1):
            terms = self.backward(step)
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * self.strategy.lr_scale(step)
            self.strategy.after_backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.strategy.after_step(step, terms, (SYMBOLS - 1) * BATCH)
            if look:
                with self.strategy.consolidated():
                    pass

    def weights(self) -> np.ndarray:
        return np.concatenate([p.detach().numpy().ravel() for p in self.network.parameters()]).copy()


@contextmanager
def exact_messages() -> Iterator[None]:
    """Has `topk` send numbers as they are, not in eight bits."""

    def packed(values: torch.Tensor, places: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat([values.view(torch.uint8), places.view(torch.uint8)]), values

    def unpacked(
        message: torch.Tensor, length: int, count: int, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        numbers, places = message[: -8 * count].clone(), message[-8 * count :].clone()
        return numbers.view(dtype), places.view(torch.int64)

    with patch.multiple("git_gru.train.sync.topk", packed=packed, unpacked=unpacked):
        yield


def outcome(case: dict[str, Any], world: World) -> dict[str, Any]:
    """What the test looks at.

    `own`, `after`, `same`: weights at the end, after `consolidated`, within it; `looked`, `rewound`, `resumed`: own weights of a
    training that was consolidated at every step, of one that went back to its middle, of one that another went on with there.
    """
    training = Training(case, world)
    start = training.weights()
    training.train(1, MIDDLE)
    middle = State.capture(MIDDLE, training.network, training.optimizer, training.strategy)
    at_middle = training.strategy.bytes_sent()
    training.train(MIDDLE + 1, STEPS)
    found: dict[str, Any] = {"own": training.weights(), "sent": training.strategy.bytes_sent() - at_middle}
    found |= {"start": start, "numbers": len(start)}
    training.network.get_buffer("short").add_(world.rank)
    with training.strategy.consolidated():
        found["same"] = training.weights()
        found["short"] = training.network.get_buffer("short").numpy().copy()
    found["after"] = training.weights()
    middle.restore(training.network, training.optimizer, training.strategy)
    training.train(MIDDLE + 1, STEPS)
    found["rewound"] = training.weights()
    training.strategy.state()  # waits for what is under way, before another one sends

    other = Training(case, world)
    other.backward(1)  # as the engine has DistributedDataParallel arrange its buckets
    other.optimizer.zero_grad()
    middle.restore(other.network, other.optimizer, other.strategy)
    other.train(MIDDLE + 1, STEPS)
    found["resumed"] = other.weights()
    other.strategy.state()

    looked = Training(case, world)
    looked.train(1, STEPS, look=True)
    found["looked"] = looked.weights()
    looked.strategy.state()
    found["waited"] = training.strategy.seconds_waited()
    return found


def plain_loop(keys: dict[str, Any]) -> np.ndarray:
    """The weights after `STEPS` steps of training as PyTorch's tutorials have it, nothing of a strategy's in it."""
    train = TrainRecipe(**{"lr": 0.1, **keys})
    torch.manual_seed(0)
    task = task_of(architecture_of(ModelRecipe(embedding=4, hidden=8, layers=2), {"symbols": 256}))
    network = task.build()
    optimizer = build_optimizer(network, train, torch.device("cpu"))
    for step in range(1, STEPS + 1):
        batch = torch.from_numpy(np.random.default_rng(step).integers(0, 256, (BATCH, SYMBOLS))).long()
        optimizer.zero_grad()
        (task.loss(network, (batch,)) / ((SYMBOLS - 1) * BATCH)).backward()
        optimizer.step()
    return np.concatenate([p.detach().numpy().ravel() for p in network.parameters()])


def validation(world: World) -> float:
    task = task_of(architecture_of(ModelRecipe(embedding=4, hidden=8, layers=2), {"symbols": 256}))
    torch.manual_seed(0)
    text = np.random.default_rng(2).integers(0, 256, 5000, dtype=np.uint8)
    return validate(task, task.build(), TextSamples(Windows(text, 16)), world)["val_loss"]


def work(cases: list[dict[str, Any]], folder: Path, rank: int, size: int, port: int) -> None:
    os.environ.update({"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"})
    os.environ.update(
        {"MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0"}
    )
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    world = join("cpu", rank=rank, size=size, local_rank=rank, local_size=size)
    found: dict[str, Any] = {"validation": validation(world)}
    if size == 1:
        found |= {f"{case['name']}/loop": plain_loop(case["train"]) for case in cases if not case["sync"]}
    for case in cases:
        with exact_messages() if case["name"].startswith("exact") else nullcontext():
            found |= {f"{case['name']}/{what}": value for what, value in outcome(case, world).items()}
    np.savez(folder / f"{size}-{rank}.npz", **found)
    world.barrier()


def main(file: str, folder: str, *sizes: str) -> None:
    cases = json.loads(Path(file).read_text())
    for size in map(int, sizes):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        ranks = []
        for rank in range(size):
            if pid := os.fork():
                ranks.append(pid)
                continue
            status = 1
            try:
                work(cases, Path(folder), rank, size, port)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        ends = [os.waitpid(pid, 0)[1] for pid in ranks]
        if any(ends):
            sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
