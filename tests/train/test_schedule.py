"""Learning rates at the steps that matter."""

import pytest

from git_gru.train.recipe import TrainRecipe
from git_gru.train.schedule import learning_rate


def test_warm_up_then_half_a_cosine() -> None:
    recipe = TrainRecipe(steps=110, warmup=10, lr=1.0, lr_final=0.2)
    assert learning_rate(recipe, 1) == pytest.approx(0.1)
    assert learning_rate(recipe, 10) == pytest.approx(1.0)
    assert learning_rate(recipe, 60) == pytest.approx(0.6)
    assert learning_rate(recipe, 110) == pytest.approx(0.2)


def test_constant_after_the_warm_up() -> None:
    recipe = TrainRecipe(steps=10, warmup=2, lr=0.5, schedule="constant")
    assert [learning_rate(recipe, step) for step in (1, 2, 3, 10)] == [0.25, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_warm_up_longer_than_the_run_never_reaches_the_peak(schedule: str) -> None:
    recipe = TrainRecipe(steps=5, warmup=10, lr=1.0, schedule=schedule)
    assert [learning_rate(recipe, step) for step in range(1, 6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
