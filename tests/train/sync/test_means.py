"""Means of vectors over ranks, at several prices."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from git_gru.train.sync.means import BLOCK, ExactMean, HalfMean, Int8Mean, quantised, restored

OnRanks = Callable[..., list[Any]]
NUMBERS = arrays(np.float32, (3, BLOCK), elements=st.floats(-(2.0**100), 2.0**100, width=32))


@given(NUMBERS)
@settings(max_examples=50, deadline=None)
def test_eight_bits_are_off_by_half_a_step_at_most(values: Any) -> None:
    vector = torch.from_numpy(values)
    numbers, scales = quantised(vector)
    assert numbers.dtype is torch.int8
    off = (restored(numbers, scales, torch.float32) - vector).abs()
    assert (off <= scales * 0.5001 + vector.abs() * 1e-6 + 1e-37).all()


def test_whole_numbers_come_back_exactly() -> None:
    values = torch.randint(-127, 128, (4, BLOCK)).float()
    values[:, 0] = 127
    values[3] = 0
    assert torch.equal(restored(*quantised(values), torch.float32), values)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nothing_hides_what_is_no_number(bad: float, on_ranks: OnRanks) -> None:
    def work(wire: Any) -> Any:
        vector = torch.ones(2000)
        if wire.rank == 1:
            vector[1700] = bad
        return Int8Mean(wire, vector).mean(vector.clone(), 0.5)

    for mean in on_ranks(2, work):
        assert mean[1700].isnan()
        assert torch.equal(mean[:1024], torch.ones(1024))


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("kind", [ExactMean, HalfMean, Int8Mean])
def test_all_ranks_get_the_same_mean(kind: Any, size: int, on_ranks: OnRanks) -> None:
    shares = torch.arange(1, size + 1) / torch.arange(1, size + 1).sum()
    vectors = torch.randn(size, 1301, generator=torch.Generator().manual_seed(size))

    def work(wire: Any) -> Any:
        own = vectors[wire.rank].clone()
        mean = kind(wire, own) if kind is Int8Mean else kind(wire)
        return mean.mean(own, float(shares[wire.rank]))

    found = on_ranks(size, work)
    assert all(torch.equal(found[0], other) for other in found)
    tolerance = {ExactMean: 1e-6, HalfMean: 3e-3, Int8Mean: 5e-2}[kind]
    assert torch.allclose(found[0], (shares[:, None] * vectors).sum(0), atol=tolerance)


def test_what_eight_bits_lose_is_sent_later(on_ranks: OnRanks) -> None:
    """The sum of many means is off by what one of them may be off by, and not by so many times that."""
    steps, size = 60, 3
    vectors = torch.randn(size, steps, 700, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    vectors[:, :, 5] *= 300  # a block's scale that leaves little for the others

    def work(wire: Any) -> Any:
        mean = Int8Mean(wire, vectors[0, 0])
        return sum(mean.mean(vector.clone(), 1 / size) for vector in vectors[wire.rank])

    off = (on_ranks(size, work)[0] - vectors.mean(0).sum(0)).abs()
    step = vectors.abs().max() / 127
    assert off.max() < 2 * step
