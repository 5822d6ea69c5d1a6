"""Load balancing: shares add up, follow the speeds, and stay when nothing is gained; a run's result stays the same."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from git_gru.train.balance import Balancer, even_shares, proportional_shares
from git_gru.train.recipe import BalanceRecipe
from git_gru.train.sharding import share

speeds = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9)


def balancers(ranks: int, batch: int, **keys: Any) -> list[Balancer]:
    recipe = BalanceRecipe(mode="adaptive", **keys)
    return [Balancer(recipe, batch=batch, ranks=ranks, rank=rank) for rank in range(ranks)]


def exchanged(workers: list[Balancer], seconds: list[float], step: int = 1) -> list[bool]:
    """One look after `step`: each worker has computed `seconds[rank]` a sample."""
    for rank, worker in enumerate(workers):
        worker.took(seconds[rank] * worker.shares[rank])
    times = [sum(column) for column in zip(*(worker.measured(step) for worker in workers), strict=True)]
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
    looks = []
    for step in range(1, 11):
        if pair[1].due(step):
            looks.append(step)
            pair[1].measured(step)
    assert looks == [3, 6, 9]
    assert pair[1].due(5), "gone back to before the last look"
    off = Balancer(BalanceRecipe(), batch=8, ranks=2, rank=0)
    assert not off.due(10)


@settings(max_examples=15, deadline=None)
@given(st.data(), st.integers(2, 6), st.integers(3, 20))
def test_rounds_end_together_soon_after_speeds_have_changed(
    data: st.DataObject, ranks: int, each: int
) -> None:
    """Whatever the speeds become: after a few rounds no worker has two samples a step more than its time allows."""
    workers, total = balancers(ranks, ranks * each, threshold=0.0), ranks * each
    for _ in range(2):
        seconds = data.draw(st.lists(st.floats(0.5, 4.0), min_size=ranks, max_size=ranks))
        for _ in range(10):
            exchanged(workers, seconds)
            assert len({worker.shares for worker in workers}) == 1
            assert sum(workers[0].shares) == total
        shares, fair = workers[0].shares, total / sum(1 / each for each in seconds)
        assert all(
            held == 1 or (held - 2) * own <= fair for held, own in zip(shares, seconds, strict=True)
        ), (shares, seconds)


@settings(max_examples=15, deadline=None)
@given(st.data(), st.integers(2, 5))
def test_a_resumed_balancer_goes_on_as_the_one_before(data: st.DataObject, ranks: int) -> None:
    times = st.lists(st.floats(0.01, 1.0), min_size=ranks, max_size=ranks)
    workers = balancers(ranks, 40, every=3)
    for step in range(3, data.draw(st.integers(3, 12)), 3):
        exchanged(workers, data.draw(times), step)
    others = balancers(ranks, 40, every=3)
    for other in others:
        other.restore({key: list(values) for key, values in workers[0].state().items()})
    assert [other.due(step) for step in range(20) for other in others] == [
        worker.due(step) for step in range(20) for worker in workers
    ]
    seconds = data.draw(times)
    assert exchanged(others, seconds) == exchanged(workers, seconds)
    assert others[-1].shares == workers[0].shares
    fewer = balancers(ranks - 1, 40)[0] if ranks > 2 else Balancer(BalanceRecipe(), batch=40, ranks=2, rank=0)
    even = fewer.shares
    fewer.restore(workers[0].state())
    assert fewer.shares == even, "of another number of workers, or switched off"


TASK = """
import os, time, torch

class Task:
    metrics = ()
    steps = 0
    slow_from = int(open(os.path.join(os.path.dirname(__file__), "slow_from")).read())
    def model(self):
        return torch.nn.Linear(3, 1)
    def data(self, split):
        generator = torch.Generator().manual_seed(int(split == "train"))
        inputs = torch.randn(40, 3, generator=generator)
        return torch.utils.data.TensorDataset(inputs, inputs @ torch.tensor([1.0, -2.0, 0.5]))
    def loss(self, model, batch):
        inputs, targets = batch
        if model.training:
            self.steps += 1
            slow = os.environ.get("RANK") == "1" and self.steps > self.slow_from
            time.sleep(len(inputs) * (0.016 if slow else 0.004))
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


def commit_pair(project: Any, *, slow_from: int) -> None:
    """A recipe whose worker 1 becomes slow after so many steps."""
    project.work.write("tasks/slow.py", TASK.encode())
    project.work.write("tasks/slow_from", b"%d" % slow_from)
    project.work.write("tasks/__init__.py", b"")
    project.work.write("gru.toml", RECIPE.encode())
    project.work.commit("an unequal pair")


def rows_with_shares(project: Any, run: str) -> list[dict[str, Any]]:
    shown = project.gru("runs", "show", run, "--metrics", "json")
    return [row for row in json.loads(shown.stdout)["metrics"] if "shares" in row]


@pytest.mark.slow
def test_a_slow_worker_takes_less_and_the_result_stays_the_same(project: Any) -> None:
    commit_pair(project, slow_from=0)
    adaptive = project.train("--nproc", "2", "--set", 'balance.mode="adaptive"')
    alone = project.train("--nproc", "1")
    rows = rows_with_shares(project, adaptive["id"])
    assert all(sum(row["shares"]) == 10 for row in rows)
    assert rows[-1]["shares"][0] >= 7
    assert all(len(row["rates"]) == 2 and min(row["rates"]) > 0 for row in rows)
    losses = [run["checkpoints"][-1]["metrics"]["val_loss"] for run in (adaptive, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_a_worker_that_becomes_slow_is_relieved_at_the_end_of_a_round(project: Any) -> None:
    """Rounds of four steps, in two fragments, each under way for a step."""
    commit_pair(project, slow_from=20)
    sync = {"strategy": '"diloco"', "warmup": 4, "every": 4, "fragments": 2, "overlap": 1, "outer_lr": 0.5}
    keys = [f"sync.{key}={value}" for key, value in sync.items()]
    keys += ['balance.mode="adaptive"', "train.steps=40", "train.checkpoint_every=10"]
    run = project.train("--nproc", "2", *(word for key in keys for word in ("--set", key)))
    rows = rows_with_shares(project, run["id"])
    assert [row["step"] for row in rows] == list(range(4, 41, 4)), "where the workers meet"
    assert all(sum(row["shares"]) == 10 for row in rows)
    assert rows[-1]["shares"][0] >= 7
    assert run["checkpoints"][-1]["metrics"]["val_loss"] < run["initial"]["val_loss"]


def test_carried_state_and_changing_shares_exclude_each_other(project: Any) -> None:
    said = project.refused("train", "--set", "data.stateful=true", "--set", 'balance.mode="adaptive"')
    assert "balance.mode: with data.stateful" in said
