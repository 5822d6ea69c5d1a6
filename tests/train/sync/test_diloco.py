"""DiLoCo's outer step, its fragments, and what happens while they are under way."""

from typing import Any

import pytest
import torch
from torch import nn

from git_gru.train.recipe import SyncRecipe, TrainRecipe
from git_gru.train.sync import build_strategy
from git_gru.train.sync.diloco import DiLoCo
from git_gru.train.sync.local import local_lr
from git_gru.train.world import World


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).double()


def local_steps(module: nn.Module, first: int, last: int, after: Any = lambda step: None) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for step in range(first, last + 1):
        data = torch.randn(6, 5, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        module(data).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        after(step)


def strategy_of(module: nn.Module, steps: int = 1000, **keys: Any) -> DiLoCo:
    recipe = SyncRecipe(strategy="diloco", **{"warmup": 0, **keys})
    built = build_strategy(recipe, TrainRecipe(steps=steps), module, World.alone())
    assert isinstance(built, DiLoCo)
    return built


def test_the_outer_optimizer_is_sgd_with_nesterov_momentum() -> None:
    module, reference = network(), network()
    strategy = strategy_of(module, every=3, warmup=2, outer_lr=0.7, outer_momentum=0.9)
    local_steps(module, 1, 11, lambda step: strategy.after_step(step, 6, 6))

    outer = [p.detach().clone() for p in reference.parameters()]
    optimizer = torch.optim.SGD(outer, lr=0.7, momentum=0.9, nesterov=True)
    local_steps(reference, 1, 2)
    with torch.no_grad():
        for anchor, parameter in zip(outer, reference.parameters(), strict=True):
            anchor.copy_(parameter)
    for end in (5, 8, 11):
        local_steps(reference, end - 2, end)
        with torch.no_grad():
            for anchor, parameter in zip(outer, reference.parameters(), strict=True):
                anchor.grad = anchor - parameter
            optimizer.step()
            for anchor, parameter in zip(outer, reference.parameters(), strict=True):
                parameter.copy_(anchor)
    for found, expected in zip(module.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_the_last_outer_step_is_without_momentum() -> None:
    module = network()
    strategy = strategy_of(module, steps=12, every=4, warmup=2, outer_momentum=0.9)
    own: dict[int, Any] = {}

    def after(step: int) -> None:
        own[step] = strategy._flat.weights()
        strategy.after_step(step, 6, 6)

    local_steps(module, 1, 10, after)
    assert torch.equal(strategy._flat.weights(), own[10]), "a round from 7 to 10, and no other one after it"
    assert not torch.equal(strategy._anchor, own[6])


@pytest.mark.parametrize(("momentum", "outer_lr"), [(0.0, 1.0), (0.7, 1.0), (0.9, 0.7), (0.5, 2.0)])
def test_rounds_go_as_far_as_their_steps_together_would(momentum: float, outer_lr: float) -> None:
    """Where gradients are all the same, one worker by SGD goes a learning rate a step, once the momentum is there."""
    module = nn.Linear(1, 1, bias=False).double()
    strategy = strategy_of(module, every=5, outer_momentum=momentum, outer_lr=outer_lr)
    at = []
    for step in range(1, 501):
        with torch.no_grad():
            module.weight += strategy.lr_scale(step) * 0.01
        strategy.after_step(step, 6, 6)
        at.append(float(module.weight.detach()))
    assert at[499] - at[399] == pytest.approx(100 * 0.01, rel=1e-3)


def test_the_rate_of_local_steps() -> None:
    def rate(workers: int, optimizer: str = "adamw", strategy: str = "diloco", **keys: Any) -> float:
        return local_lr(SyncRecipe(strategy=strategy, **keys), TrainRecipe(optimizer=optimizer), workers)

    assert rate(8) == pytest.approx(2 * 0.3)
    assert rate(8, optimizer="sgd") == pytest.approx(0.3)
    assert rate(8, outer_momentum=0.9, outer_lr=0.5) == pytest.approx(2 * 0.1 / 0.5)
    assert rate(100) == 1.0, "never more than that of steps together"
    assert rate(4, local_lr=0.25) == 0.25
    assert rate(4, strategy="local-sgd") == 1.0
    assert rate(4, strategy="local-sgd", local_lr=0.25) == 0.25
    strategy = strategy_of(network(), warmup=3, every=2, outer_momentum=0.5)
    assert [strategy.lr_scale(step) for step in (1, 3, 4, 900)] == [1, 1, 0.5, 0.5]


def test_fragments_cover_all_weights_and_go_out_evenly() -> None:
    strategy = strategy_of(network(), every=10, fragments=4)
    cuts = [(fragment.start, fragment.end, fragment.first) for fragment in strategy._fragments]
    assert cuts == [(0, 9, 10), (9, 19, 2), (19, 29, 5), (29, 39, 7)]
    assert [step for step in range(1, 41) if strategy.meets(step)] == [10, 20, 30, 40]


@pytest.mark.parametrize("fragments", [1, 3])
def test_a_part_is_replaced_when_it_is_exchanged_and_not_before(fragments: int) -> None:
    module = network()
    strategy = strategy_of(module, every=6, fragments=fragments, outer_lr=1e-300, outer_momentum=0.0)
    start = strategy._flat.weights()
    back: list[list[bool]] = []

    def after(step: int) -> None:
        strategy.after_step(step, 6, 6)
        same = strategy._flat.weights() == start
        back.append([bool(same[f.range].all()) for f in strategy._fragments])

    local_steps(module, 1, 12, after)
    gone_back = [step for step, parts in enumerate(back, 1) if any(parts)]
    assert gone_back == ([6, 12] if fragments == 1 else [2, 4, 6, 8, 10, 12])
    assert all(sum(parts) <= 1 for parts in back)


def test_what_comes_late_is_mixed_half_and_half() -> None:
    module = network()
    strategy = strategy_of(module, every=5, overlap=2, outer_lr=0.5, outer_momentum=0.0)
    start = strategy._flat.weights()
    at: dict[int, Any] = {}

    def after(step: int) -> None:
        before = strategy._flat.weights()
        strategy.after_step(step, 6, 6)
        at[step] = (before, strategy._flat.weights())

    local_steps(module, 1, 7, after)
    assert all(torch.equal(*at[step]) for step in range(1, 7))
    anchor = start - 0.5 * (start - at[5][0])
    assert torch.allclose(at[7][1], (at[7][0] + anchor) / 2, rtol=1e-12)


def test_an_exchange_that_failed_is_told_where_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    module = network()
    strategy = strategy_of(module, every=3, overlap=1)

    def fail(vector: torch.Tensor, share: float) -> torch.Tensor:
        raise RuntimeError("connection closed by peer")

    monkeypatch.setattr(strategy._fragments[0].mean, "mean", fail)
    local_steps(module, 1, 3, lambda step: strategy.after_step(step, 6, 6))
    with pytest.raises(RuntimeError, match="closed by peer"):
        local_steps(module, 4, 4, lambda step: strategy.after_step(step, 6, 6))
