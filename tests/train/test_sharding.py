"""Every sample exactly once an epoch, whatever the batch and the number of ranks; the same global batches for any number."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from git_gru.train.sharding import BatchPlan, StreamPlan, share

samples = st.integers(1, 60)
batches = st.integers(1, 40)


@given(samples, batches, st.integers(1, 8), st.integers(0, 2**62), st.integers(1, 3))
def test_every_sample_once_an_epoch_over_all_ranks(
    count: int, batch: int, ranks: int, seed: int, epochs: int
) -> None:
    plan = BatchPlan(samples=count, batch=batch, seed=seed)
    steps = -(-count * epochs // batch)
    line = [
        index
        for step in range(1, steps + 1)
        for rank in range(ranks)
        for index in plan.indices(step)[share(batch, ranks, rank)].tolist()
    ]
    assert len(line) == steps * batch
    for epoch in range(epochs):
        assert sorted(line[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(st.integers(0, 1000), st.integers(1, 50))
def test_shares_are_even_and_cover_all(total: int, ranks: int) -> None:
    parts = [range(total)[share(total, ranks, rank)] for rank in range(ranks)]
    assert [index for part in parts for index in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_steps_can_be_asked_for_in_any_order() -> None:
    plan, again = (BatchPlan(samples=10, batch=7, seed=3) for _ in range(2))
    forward = [plan.indices(step) for step in range(1, 9)]
    backward = [again.indices(step) for step in range(8, 0, -1)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forward, backward, strict=True))


def test_seeds_and_epochs_are_shuffled_differently() -> None:
    orders = {
        tuple(BatchPlan(samples=30, batch=30, seed=seed).indices(step).tolist())
        for seed in (0, 1)
        for step in (1, 2)
    }
    assert len(orders) == 4


@given(samples, batches)
def test_streams_use_every_sample_once_an_epoch_and_rows_go_on(count: int, batch: int) -> None:
    plan = StreamPlan(samples=count, batch=batch)
    rows = np.stack([plan.indices(step) for step in range(1, 2 * -(-count // batch) + 2)])
    line = rows.reshape(-1).tolist()
    for epoch in range(2):
        assert sorted(line[epoch * count : (epoch + 1) * count]) == list(range(count))
    # within an epoch a row breaks off only where a stream begins
    begins = {
        sum(count // batch + (stream < count % batch) for stream in range(first)) for first in range(batch)
    }
    for place in range(batch, count):
        assert line[place] == line[place - batch] + 1 or line[place] in begins
