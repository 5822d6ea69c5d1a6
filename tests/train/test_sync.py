"""Synchronisation strategies: the contract, with real gloo processes on a batch that the ranks cannot share evenly.

Validation, which the ranks share by batches, gives exactly what one process gives.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
import numpy as np, torch
from git_gru.train.corpus.text import Windows
from git_gru.train.engine import validate
from git_gru.train.recipe import ModelRecipe, SyncRecipe
from git_gru.train.architecture import architecture_of
from git_gru.train.sharding import share
from git_gru.train.sync import build_strategy
from git_gru.train.tasks import task_of
from git_gru.train.tasks.language_model import TextSamples
from git_gru.train.world import join

strategy_name, rank, size, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
world = join("cpu", rank=rank, size=size, local_rank=rank, local_size=size)
torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
task = task_of(architecture_of(ModelRecipe(embedding=4, hidden=8, layers=2), {"symbols": 256}))
network = task.build()
text = np.random.default_rng(2).integers(0, 256, 5000, dtype=np.uint8)
validation = validate(task, network, TextSamples(Windows(text, 16)), world)["val_loss"]
strategy = build_strategy(SyncRecipe(strategy=strategy_name), network, world)
network.register_buffer("seen", torch.tensor(1.0))
network.register_buffer("short", torch.ones(3, 2, dtype=torch.int16).T)
optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
random = np.random.default_rng(1)
for step in range(1, 4):
    batch = torch.from_numpy(random.integers(0, 256, (5, 7)))[share(5, size, rank)]
    loss = task.loss(strategy.module, (batch.long(),))
    (loss * strategy.weight(6 * len(batch), 30)).backward()
    optimizer.step()
    optimizer.zero_grad()
    strategy.after_step(step)
    network.seen *= 1 + rank
    network.short += rank
strategy.consolidate()
assert (strategy.bytes_sent() > 0) == (size > 1)
np.savez(out, validation=validation, **{name: tensor.numpy() for name, tensor in network.state_dict().items()})
world.barrier()
"""


def weights_after(strategy: str, size: int, folder: Path) -> list[dict[str, np.ndarray]]:
    """The weights of every rank after three steps on the same global batches of five samples."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    files = [folder / f"{size}-{rank}.npz" for rank in range(size)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, strategy, str(rank), str(size), str(file)],
            env={
                **os.environ,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "RANK": str(rank),
                "WORLD_SIZE": str(size),
                "GLOO_SOCKET_IFNAME": "lo" if sys.platform.startswith("linux") else "lo0",
                "OMP_NUM_THREADS": "1",
            },
        )
        for rank, file in enumerate(files)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0] * size
    return [dict(np.load(file)) for file in files]


@pytest.mark.parametrize("strategy", ["allreduce"])
def test_ranks_agree_and_give_what_one_process_gives(strategy: str, tmp_path: Path) -> None:
    (alone,) = weights_after(strategy, 1, tmp_path)
    first, second = weights_after(strategy, 2, tmp_path)
    assert alone.pop("validation") == first.pop("validation") == second.pop("validation")
    for name, expected in alone.items():
        assert np.array_equal(first[name], second[name])
        np.testing.assert_allclose(first[name], expected, rtol=1e-10, atol=1e-12)
