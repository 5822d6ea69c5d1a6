"""Deep gradient compression against its equations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from git_gru.train.recipe import SyncRecipe, TrainRecipe
from git_gru.train.sync import topk
from git_gru.train.sync.topk import FIRST_DENSITY, Largest, density, largest

OnRanks = Callable[..., list[Any]]
SIZES = [40, 7]


def exact(values: Any, places: Any, length: int) -> tuple[Any, Any]:
    """Stands in for `packed`: rounds nothing."""
    return torch.cat([values.view(torch.uint8), places.view(torch.uint8)]), values


def from_exact(message: Any, length: int, count: int, dtype: Any) -> tuple[Any, Any]:
    values, places = message[: -8 * count].clone(), message[-8 * count :].clone()
    return values.view(dtype), places.view(torch.int64)


@pytest.fixture
def unrounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "packed", exact)
    monkeypatch.setattr(topk, "unpacked", from_exact)


@pytest.mark.usefixtures("unrounded")
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
    assert (left.optimizer, left.clip, left.momentum, left.lr) == ("sgd", 0.0, 0.0, train.lr)


@pytest.mark.usefixtures("unrounded")
def test_one_worker_that_sends_all_steps_as_adamw_does(on_ranks: OnRanks) -> None:
    train = TrainRecipe(clip=0.0, lr=0.1, weight_decay=0.01)
    gradients = torch.randn(9, sum(SIZES), generator=torch.Generator().manual_seed(4))

    def work(wire: Any) -> Any:
        weights = torch.ones(sum(SIZES), requires_grad=True)
        recipe = SyncRecipe(compress="topk", density=1.0)
        compressor = Largest(wire, torch.zeros(sum(SIZES)), SIZES, recipe, train)
        left = compressor.optimization(train)
        optimizer = torch.optim.SGD([weights], lr=left.lr, weight_decay=left.weight_decay)
        for step, gradient in enumerate(gradients, 1):
            weights.grad = compressor.mean(gradient.clone(), 1.0, step)
            optimizer.step()
        return weights.detach()

    (found,) = on_ranks(1, work)
    expected = torch.ones(sum(SIZES), requires_grad=True)
    optimizer = torch.optim.AdamW([expected], lr=0.1, weight_decay=0.01, betas=(train.beta1, train.beta2))
    for gradient in gradients:
        expected.grad = gradient.clone()
        optimizer.step()
    assert torch.allclose(found, expected.detach(), atol=1e-5)


@pytest.mark.usefixtures("unrounded")
def test_with_adamw_the_steps_that_are_not_sent_gather(on_ranks: OnRanks) -> None:
    """Equal gradients at every step: Adam's step by them is 1, and ∛W with W workers."""
    recipe = SyncRecipe(compress="topk", density=0.5, warmup=0)

    def work(wire: Any) -> Any:
        compressor = Largest(wire, torch.zeros(2), [2], recipe, TrainRecipe())
        gradient = torch.tensor([3.0, 2.0])
        return torch.stack([compressor.mean(gradient.clone(), 0.25, step) for step in range(1, 6)])

    expected = torch.tensor([[1.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]) * 4 ** (1 / 3)
    for found in on_ranks(4, work):
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.usefixtures("unrounded")
def test_adams_averages_may_begin_in_the_middle_of_a_run(on_ranks: OnRanks) -> None:
    """As they do when a run goes on with another number of workers."""

    def work(wire: Any) -> Any:
        recipe = SyncRecipe(compress="topk", density=1.0)
        compressor = Largest(wire, torch.zeros(2), [2], recipe, TrainRecipe())
        return compressor.mean(torch.tensor([3.0, -2.0]), 1.0, 700)

    (found,) = on_ranks(1, work)
    assert torch.allclose(found, torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_what_eight_bits_lose_is_sent_later(optimizer: str, on_ranks: OnRanks) -> None:
    """With everything sent at every step, the sum of what was sent is that of exact messages, but for the last rounding."""
    recipe = SyncRecipe(compress="topk", density=1.0)
    train = TrainRecipe(optimizer=optimizer, momentum=0.0, clip=0.0)
    gradients = torch.randn(2, 30, sum(SIZES), generator=torch.Generator().manual_seed(5))

    def work(wire: Any) -> Any:
        compressor = Largest(wire, torch.zeros(sum(SIZES)), SIZES, recipe, train)
        means = [compressor.mean(gradients[wire.rank, step].clone(), 0.5, step + 1) for step in range(30)]
        return sum(means), compressor.own["gathered"].clone()

    (sent, left), (other, left_there) = on_ranks(2, work)
    assert torch.equal(sent, other)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "packed", exact)
        patch.setattr(topk, "unpacked", from_exact)
        (whole, nothing), _ = on_ranks(2, work)
    assert not nothing.any()
    assert torch.allclose(sent + (left + left_there) / 2, whole, atol=1e-4)
    assert 0 < left.abs().max() < 0.05


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
