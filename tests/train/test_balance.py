"""Load balancing: shares add up, follow the speeds, and stay when nothing is gained; a run's result stays the same."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_gru.train.balance import Balancer, even_shares, proportional_shares
from git_gru.train.recipe import BalanceRecipe
from git_gru.train.sharding import share

speeds = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9)


def balancers(ranks: int, batch: int, **keys: Any) -> list[Balancer]:
    recipe = BalanceRecipe(mode="adaptive", **keys)
    return [Balancer(recipe, batch=batch, ranks=ranks, rank=rank) for rank in range(ranks)]


def exchanged(workers: list[Balancer], seconds: list[float]) -> list[bool]:
    """One look: each worker has computed `seconds[rank]` a sample."""
    for rank, worker in enumerate(workers):
        worker.took(seconds[rank] * worker.shares[rank])
    times = [sum(column) for column in zip(*(worker.measured() for worker in workers), strict=True)]
    return [worker.rebalance(times) for worker in workers]


@given(speeds, st.data())
def test_shares_add_up_within_their_bounds(of: list[float], data: st.DataObject) -> None:
    most = [data.draw(st.integers(1, 50)) for _ in of]
    total = data.draw(st.integers(len(of), sum(most)))
    shares = proportional_shares(of, total=total, most=most)
    assert sum(shares) == total
    assert all(1 <= held <= limit for held, limit in zip(shares, most, strict=True))
    for a, fast in enumerate(of):  # who is faster never has less, but for its bound
        for b, slow in enumerate(of):
            if fast > slow and shares[a] < most[a]:
                assert shares[a] >= shares[b]


@given(speeds, st.integers(0, 1000))
def test_without_bounds_in_the_way_shares_are_proportional(of: list[float], more: int) -> None:
    total = 10_000 + more
    shares = proportional_shares(of, total=total, most=[total] * len(of))
    exact = [total * speed / sum(of) for speed in of]
    if min(exact) >= 1:
        assert all(abs(held - wanted) < 1 for held, wanted in zip(shares, exact, strict=True))


@pytest.mark.parametrize(
    ("of", "total", "expected"),
    [([1, 1], 5, (3, 2)), ([3, 1], 8, (6, 2)), ([1, 1, 1], 8, (3, 3, 2)), ([1e3, 1e-3], 4, (3, 1))],
)
def test_exact_shares(of: list[float], total: int, expected: tuple[int, ...]) -> None:
    assert proportional_shares(of, total=total, most=[total] * len(of)) == expected


@given(st.integers(1, 200), st.integers(1, 20))
def test_shares_cut_a_batch_without_gap_or_overlap(batch: int, ranks: int) -> None:
    assert even_shares(batch, ranks) == tuple(
        len(range(batch)[share(batch, ranks, rank)]) for rank in range(ranks)
    )
    worker = balancers(ranks, batch)[0]
    parts = [list(range(batch))[worker.slice_of(rank)] for rank in range(ranks)]
    assert [index for part in parts for index in part] == list(range(batch))


def test_all_workers_come_to_the_same_shares_step_by_step() -> None:
    workers = balancers(2, 32)
    assert exchanged(workers, [0.01, 0.04]) == [True, True]
    assert [worker.shares for worker in workers] == [(26, 6)] * 2
    workers = balancers(2, 90)
    for expected in ((80, 10), (80, 10)):  # it is 8 times as fast; its share doubles at most
        exchanged(workers, [0.01, 0.08])
        assert workers[0].shares == expected
    workers = balancers(3, 90)
    seen = []
    for _ in range(3):
        exchanged(workers, [0.01, 1.0, 1.0])
        seen.append(workers[1].shares)
    assert seen[0] == (60, 15, 15)
    assert seen[1] == (88, 1, 1)
    assert seen[2] == seen[1]


@given(st.lists(st.floats(0.97, 1.03), min_size=4, max_size=4))
def test_equal_workers_keep_even_shares_whatever_chance_does(noise: list[float]) -> None:
    workers = balancers(4, 64)
    for shift in range(4):
        assert not any(exchanged(workers, [0.01 * factor for factor in noise[shift:] + noise[:shift]]))
    assert workers[0].shares == (16,) * 4


def test_a_worker_that_becomes_slow_is_relieved_within_three_looks() -> None:
    workers = balancers(2, 60)
    for _ in range(5):
        exchanged(workers, [0.01, 0.01])
    for _ in range(3):
        exchanged(workers, [0.01, 0.03])
    assert workers[0].shares == pytest.approx((45, 15), abs=2)
    for _ in range(6):
        exchanged(workers, [0.01, 0.01])
    assert workers[0].shares == pytest.approx((30, 30), abs=3)


def test_when_a_look_is_due() -> None:
    (worker,) = balancers(1, 8)
    assert not worker.due(10), "one alone"
    pair = balancers(2, 8, every=3)
    assert [step for step in range(1, 10) if pair[1].due(step)] == [3, 6, 9]
    off = Balancer(BalanceRecipe(), batch=8, ranks=2, rank=0)
    assert not off.due(10)


TASK = """
import os, time, torch

class Task:
    metrics = ()
    def model(self):
        return torch.nn.Linear(3, 1)
    def data(self, split):
        generator = torch.Generator().manual_seed(int(split == "train"))
        inputs = torch.randn(40, 3, generator=generator)
        return torch.utils.data.TensorDataset(inputs, inputs @ torch.tensor([1.0, -2.0, 0.5]))
    def loss(self, model, batch):
        inputs, targets = batch
        if model.training:
            time.sleep(len(inputs) * (0.016 if os.environ.get("RANK") == "1" else 0.004))
        return ((model(inputs)[:, 0] - targets) ** 2).mean()

def task(folder):
    return Task()
"""

RECIPE = """
[model]
task = "entrypoint"
entrypoint = "tasks.slow:task"
[data]
kind = "files"
files = ["data/*.txt"]
[train]
steps = 20
batch = 10
lr = 0.05
checkpoint_every = 20
log_every = 4
[balance]
every = 4
[launch]
threads = 1
"""


@pytest.mark.slow
def test_a_slow_worker_takes_less_and_the_result_stays_the_same(project: Any) -> None:
    project.work.write("tasks/slow.py", TASK.encode())
    project.work.write("tasks/__init__.py", b"")
    project.work.write("gru.toml", RECIPE.encode())
    project.work.commit("an unequal pair")
    adaptive = project.train("--nproc", "2", "--set", 'balance.mode="adaptive"')
    alone = project.train("--nproc", "1")
    shown = project.gru("runs", "show", adaptive["id"], "--metrics", "json")
    rows = [row for row in json.loads(shown.stdout)["metrics"] if "shares" in row]
    assert all(sum(row["shares"]) == 10 for row in rows)
    assert rows[-1]["shares"][0] >= 7
    assert all(len(row["rates"]) == 2 and min(row["rates"]) > 0 for row in rows)
    losses = [run["checkpoints"][-1]["metrics"]["val_loss"] for run in (adaptive, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_carried_state_and_changing_shares_exclude_each_other(project: Any) -> None:
    said = project.refused("train", "--set", "data.stateful=true", "--set", 'balance.mode="adaptive"')
    assert "balance.mode: with data.stateful" in said
