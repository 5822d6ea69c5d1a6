"""Deep gradient compression against its equations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from git_gru.train.recipe import SyncRecipe, TrainRecipe
from git_gru.train.sync.topk import FIRST_DENSITY, Largest, density, largest

OnRanks = Callable[..., list[Any]]
SIZES = [40, 7]


def test_against_the_paper(on_ranks: OnRanks) -> None:
    ranks, steps, clip, momentum = 3, 8, 2.0, 0.9
    recipe = SyncRecipe(compress="topk", density=0.1, warmup=0)
    train = TrainRecipe(optimizer="sgd", momentum=momentum, clip=clip)
    gradients = torch.randn(ranks, steps, sum(SIZES), generator=torch.Generator().manual_seed(3))

    def work(wire: Any) -> Any:
        compressor = Largest(wire, torch.zeros(sum(SIZES)), SIZES, recipe, train)
        own = gradients[wire.rank]
        return torch.stack([compressor.mean(own[step].clone(), 1 / ranks, step + 1) for step in range(steps)])

    found = on_ranks(ranks, work)
    assert all(torch.equal(found[0], other) for other in found)

    expected = torch.zeros(steps, sum(SIZES))
    for rank in range(ranks):
        velocity = gathered = torch.zeros(sum(SIZES))
        for step in range(steps):
            gradient = gradients[rank, step]
            gradient = gradient * min(1.0, clip / ranks**0.5 / float(gradient.norm()))
            velocity = momentum * velocity + gradient
            gathered = gathered + velocity
            sent = torch.zeros(sum(SIZES), dtype=torch.bool)
            sent[gathered[:40].abs().topk(4).indices] = True
            sent[40 + gathered[40:].abs().topk(1).indices] = True
            expected[step] += torch.where(sent, gathered, 0) / ranks
            velocity, gathered = torch.where(sent, 0, velocity), torch.where(sent, 0, gathered)
    assert torch.allclose(found[0], expected, atol=1e-6)


def test_the_engine_neither_clips_nor_keeps_a_momentum(on_ranks: OnRanks) -> None:
    train = TrainRecipe(optimizer="sgd", momentum=0.5)
    (left,) = on_ranks(
        1,
        lambda wire: Largest(wire, torch.zeros(2), [2], SyncRecipe(compress="topk"), train).optimization(
            train
        ),
    )
    assert (left.clip, left.momentum, left.lr) == (0.0, 0.0, train.lr)


def test_with_adamw_gradients_just_gather(on_ranks: OnRanks) -> None:
    recipe = SyncRecipe(compress="topk", density=0.5, warmup=0)

    def work(wire: Any) -> Any:
        compressor = Largest(wire, torch.zeros(2), [2], recipe, TrainRecipe(clip=0.0))
        assert set(compressor.own) == {"gathered"}
        return [compressor.mean(torch.tensor([3.0, 2.0]), 1.0, step).tolist() for step in (1, 2, 3)]

    assert on_ranks(1, work) == [[[3.0, 0.0], [0.0, 4.0], [6.0, 0.0]]]


def test_what_is_no_number_is_sent_at_once(on_ranks: OnRanks) -> None:
    recipe = SyncRecipe(compress="topk", density=0.01, warmup=0)

    def work(wire: Any) -> Any:
        gradient = torch.arange(100.0)
        gradient[3] = float("nan")
        return Largest(wire, gradient, [100], recipe, TrainRecipe(clip=0.0)).mean(gradient, 1.0, 1)

    assert on_ranks(1, work)[0][3].isnan()


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([150, 1000, 6000]),
    st.sampled_from(["normal", "sparse", "rows", "equal"]),
)
@settings(max_examples=40, deadline=None)
def test_a_sample_finds_exactly_the_largest(seed: int, count: int, kind: str) -> None:
    values = torch.randn(64_000, generator=torch.Generator().manual_seed(seed))
    if kind == "sparse":
        values[seed % 60_000 : seed % 60_000 + 60_000] = 0
    elif kind == "rows":  # as long as the sample's stride, so that it sees one column alone
        values.view(-1, 5)[:, seed % 5] *= 1000
    elif kind == "equal":
        values = values.sign()
    values[seed % 64_000] = float("nan")
    places = largest(values, count)
    assert len(set(places.tolist())) == count
    assert seed % 64_000 in places
    expected = torch.topk(values.abs(), count).values
    assert torch.equal(
        values[places].abs().nan_to_num(torch.inf).sort().values, expected.nan_to_num(torch.inf).sort().values
    )


def test_the_density_falls_in_stages() -> None:
    recipe = SyncRecipe(compress="topk", density=0.001, warmup=40)
    found = [density(recipe, step) for step in (1, 10, 11, 21, 31, 40, 41, 999)]
    assert found[:2] == [FIRST_DENSITY] * 2
    assert found[2:] == pytest.approx([0.0629, 0.0158, 0.00398, 0.00398, 0.001, 0.001], rel=0.01)
    assert density(SyncRecipe(compress="topk", density=0.5, warmup=40), 1) == 0.5
