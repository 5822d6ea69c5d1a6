"""The guard by itself: what it catches, whom it names, how it goes back."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from git_gru.runs.incidents import Incident
from git_gru.train.guard import DivergedError, Guard
from git_gru.train.recipe import GuardRecipe, SyncRecipe, TrainRecipe
from git_gru.train.sync import build_strategy
from git_gru.train.world import World

NAN, INF = float("nan"), float("inf")


class TwoRanks(World):
    """Rank 0 of two; what rank 1 saw is put in by the test: its row of (loss summed, terms, norm) for each step."""

    other: list[tuple[float, float, float]]

    def add_up(self, values: torch.Tensor) -> None:
        if values.dim() == 3:
            values[1] += torch.tensor(self.other, dtype=torch.float64)


class Bench:
    """A guard around a small network, and what it told."""

    def __init__(self, world: World | None = None, *, apart: int = 1, **keys: Any) -> None:
        torch.manual_seed(0)
        self.network = nn.Linear(3, 2)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.1)
        self.told: list[Incident] = []
        self.guard = Guard(
            GuardRecipe(**{"check_every": 5, "patience": 2, **keys}),
            self.network,
            self.optimizer,
            world or World.alone(),
            build_strategy(SyncRecipe(), TrainRecipe(), self.network, World.alone()),
            tell=self.told.append,
            samples=lambda step, rank: np.arange(step * 10 + (rank or 0), step * 10 + 4),
            apart=apart,
        )
        self.step = 0

    def take(self, *losses: float, scale: float = 1.0) -> None:
        """Steps of one term each with these losses; the gradients are `scale` everywhere. Checks when it is due."""
        for loss in losses:
            self.step += 1
            for parameter in self.network.parameters():
                parameter.grad = torch.full_like(parameter, scale)
            norms = self.guard.gradient_norms()
            self.optimizer.step()
            self.guard.saw(self.step, torch.tensor(loss), 1, norms)
            if self.guard.due():
                self.guard.check()

    def incident(self, action: Callable[[], None]) -> Incident:
        with pytest.raises(DivergedError) as caught:
            action()
        return caught.value.incident


def test_a_nan_loss_is_told_with_step_samples_and_norms() -> None:
    bench = Bench()
    bench.take(1.0, 1.0)
    incident = bench.incident(lambda: bench.take(NAN, 1.0, 1.0))
    assert (incident.kind, incident.step, incident.rank, incident.samples) == ("loss", 3, 0, (30, 31, 32, 33))
    assert incident.gradient_norms == {
        "weight": pytest.approx(6**0.5), "bias": pytest.approx(2**0.5)
    }  # fmt: skip


def test_it_waits_for_ranks_that_are_apart() -> None:
    bench = Bench(apart=4)
    check, bench.guard.check = bench.guard.check, lambda: None  # type: ignore[method-assign]
    bench.take(1.0, 1.0, 1.0, NAN, 1.0, 1.0, 1.0, 1.0)
    assert bench.guard.due()
    incident = bench.incident(check)
    assert (incident.kind, incident.step) == ("loss", 4)


def test_the_rank_of_a_nan_loss_is_told() -> None:
    world = TwoRanks(0, 2, torch.device("cpu"))
    world.other = [(1.0, 1.0, 2.0)] * 3 + [(INF, 1.0, 2.0), (NAN, 1.0, NAN)]
    incident = Bench(world).incident(lambda: Bench(world).take(*[1.0] * 5))
    assert (incident.kind, incident.step, incident.rank) == ("loss", 4, 1)
    assert incident.samples == (41, 42, 43)
    assert "worker 1" in incident.message


@pytest.mark.parametrize("bad", [NAN, INF])
def test_gradients_that_are_no_numbers(bad: float) -> None:
    bench = Bench()
    bench.take(1.0)
    incident = bench.incident(lambda: (bench.take(1.0, scale=bad), bench.guard.check())[0])
    assert (incident.kind, incident.step, incident.rank) == ("gradients", 2, None)
    assert incident.gradient_norms == {"weight": None, "bias": None}


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_weights_that_are_no_numbers_are_named(value: float) -> None:
    bench = Bench()
    bench.take(1.0)
    bench.guard.saw(2, torch.tensor(1.0), 1, bench.guard.gradient_norms())
    with torch.no_grad():
        bench.network.bias[1] = value
    incident = bench.incident(bench.guard.check)
    assert (incident.kind, incident.step) == ("weights", 2)
    assert "bias" in incident.message


def test_weights_near_the_end_of_their_range_are_numbers() -> None:
    bench = Bench()
    with torch.no_grad():
        bench.network.weight.fill_(torch.finfo(torch.float32).max)
    bench.take(1.0, 1.0, 1.0, 1.0, 1.0)
    assert bench.step == 5


def test_a_lasting_spike_counts_and_the_first_of_its_steps_is_the_cause() -> None:
    bench = Bench()
    bench.take(*[1.0, 1.1, 0.9] * 10)
    incident = bench.incident(lambda: bench.take(1.0, 9.0, 9.5, 9.0, 9.0))
    assert (incident.kind, incident.step) == ("spike", 32)
    assert bench.told == []


def test_a_spike_that_goes_by_is_a_warning() -> None:
    bench = Bench()
    bench.take(*[1.0, 1.1, 0.9] * 10, 9.0, 1.0, 9.0, 1.0, 1.0)
    assert [(told.kind, told.step, told.action) for told in bench.told] == [
        ("spike", 31, "none"),
        ("spike", 33, "none"),
    ]
    assert "went by" in bench.told[0].message


def test_an_exploding_gradient() -> None:
    bench = Bench(explosion=50.0)
    bench.take(*[1.0] * 30)
    bench.take(*[1.0] * 5, scale=40.0)
    incident = bench.incident(lambda: bench.take(*[1.0] * 5, scale=5000.0))
    assert (incident.kind, incident.step) == ("explosion", 36)


def test_nothing_is_caught_where_the_recipe_says_so() -> None:
    bench = Bench(spike=0.0, explosion=0.0)
    bench.take(*[1.0] * 30, *[1e9] * 10, scale=1.0)
    bench.take(*[1.0] * 10, scale=1e9)
    assert bench.told == []


def test_a_run_that_is_to_stop_tells_and_raises() -> None:
    bench = Bench()
    bench.guard.keep(0)
    error = DivergedError(Incident(kind="loss", step=1, message="the loss is nan"))
    with pytest.raises(DivergedError) as caught:
        bench.guard.recover(error, 1)
    assert caught.value is error
    assert [told.action for told in bench.told] == ["stop"]


def test_a_rollback_brings_every_bit_back_and_gives_up_in_the_end() -> None:
    bench = Bench(on_divergence="rollback", lr_factor=0.5, most_rollbacks=2)
    bench.take(*[1.0] * 5)
    bench.guard.keep(5)
    kept = [p.detach().clone() for p in bench.network.parameters()]
    moments = [bench.optimizer.state[p]["exp_avg"].clone() for p in bench.network.parameters()]
    drawn = torch.rand(4)
    for turn in (1, 2):
        bench.take(*[1.0] * 3)
        error = DivergedError(Incident(kind="loss", step=7, message="the loss is nan"))
        assert bench.guard.recover(error, 8) == 5
        assert all(torch.equal(a, b) for a, b in zip(kept, bench.network.parameters(), strict=True))
        states = [bench.optimizer.state[p]["exp_avg"] for p in bench.network.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(moments, states, strict=True))
        assert torch.equal(torch.rand(4), drawn)
        course = bench.guard.course
        assert (course.rollbacks, course.skipped, course.lr_scale) == (turn, 3 * turn, 0.5**turn)
    told = bench.told[-1]
    assert (told.action, told.back_to, told.skipped, told.lr_scale) == ("rollback", 5, 6, 0.25)
    with pytest.raises(DivergedError):
        bench.guard.recover(error, 8)
    assert bench.told[-1].action == "stop"


def test_a_loss_that_is_nan_from_the_first_is_not_laid_at_the_learning_rate() -> None:
    def said(step: int) -> str:
        return str(
            DivergedError(Incident(kind="validation", step=step, message="the validation loss is nan"))
        )

    assert "train.lr" in said(3)
    assert "train.lr" not in said(0)
    assert "look at the model that it starts from" in said(0)
