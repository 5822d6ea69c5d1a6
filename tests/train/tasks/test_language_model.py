"""The language model: a carried state is that of the whole text, and only where the text goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from git_gru.train.architecture import architecture_of
from git_gru.train.corpus.text import Windows
from git_gru.train.recipe import ModelRecipe
from git_gru.train.recipe_file import recipe_of
from git_gru.train.sharding import batch_plan, share
from git_gru.train.tasks.language_model import LanguageModelTask, TextSamples

TEXT = np.random.default_rng(0).integers(0, 256, 8 * 6 + 1, dtype=np.uint8)
WINDOW = 6


@pytest.fixture(autouse=True)
def double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def task() -> LanguageModelTask:
    return LanguageModelTask(architecture_of(ModelRecipe(embedding=4, hidden=5, layers=2), {"symbols": 256}))


def samples(window: int = WINDOW, *, numbered: bool = True) -> TextSamples:
    return TextSamples(Windows(TEXT, window), numbered=numbered)


def losses(one: LanguageModelTask, network: Any, *batches: list[int]) -> list[float]:
    return [one.loss(network, samples().batch(np.array(batch))).item() for batch in batches]


def whole_loss(network: Any, first: int, count: int) -> float:
    """The loss of `count` windows from `first` on, read as one long window."""
    text = TEXT[first * WINDOW : (first + count) * WINDOW + 1].astype(np.int64)
    return task().loss(network, (torch.from_numpy(text)[None],)).item()


def test_windows_in_a_row_are_read_as_one_text() -> None:
    torch.manual_seed(0)
    network, one = task().build(), task()
    carried = losses(one, network, [0, 4], [1, 5], [2, 6])
    expected = whole_loss(network, 0, 3) + whole_loss(network, 4, 3)
    assert sum(carried) == pytest.approx(expected, rel=1e-6)
    assert sum(losses(task(), network, [0, 4])) == pytest.approx(carried[0])


def test_a_row_that_does_not_go_on_starts_from_zero() -> None:
    torch.manual_seed(0)
    network, one = task().build(), task()
    _, broken = losses(one, network, [0, 4], [1, 6])
    expected = whole_loss(network, 0, 2) - whole_loss(network, 0, 1) + whole_loss(network, 6, 1)
    assert broken == pytest.approx(expected, rel=1e-6)


def test_no_gradient_goes_through_a_carried_state() -> None:
    network, one = task().build(), task()
    losses(one, network, [0, 1])
    assert not one.carried["state"].requires_grad


def test_shares_of_the_ranks_come_to_the_same_loss() -> None:
    torch.manual_seed(0)
    network = task().build()
    recipe = recipe_of({"data": {"files": "*", "stateful": True}, "train": {"batch": 3}})
    plan = batch_plan(recipe, samples=len(samples()))

    def over(ranks: int) -> list[float]:
        tasks = [task() for _ in range(ranks)]
        return [
            sum(
                one.loss(network, samples().batch(plan.indices(step)[share(3, ranks, rank)])).item()
                for rank, one in enumerate(tasks)
            )
            for step in range(1, 7)
        ]

    assert over(1) == pytest.approx(over(2), rel=1e-6)


def test_tied_weights_are_kept_once() -> None:
    tied = architecture_of(ModelRecipe(embedding=4, hidden=4, tied=True), {"symbols": 256})
    free = architecture_of(ModelRecipe(embedding=4, hidden=4), {"symbols": 256})
    sizes = [sum(p.numel() for p in LanguageModelTask(one).build().parameters()) for one in (tied, free)]
    assert sizes[1] - sizes[0] == 256 * 4


def test_only_training_windows_are_numbered(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.bin").write_bytes(TEXT.tobytes())
    data = recipe_of({"data": {"files": "*", "stateful": True, "window": WINDOW}}).data
    sizes = [
        len(task().samples(tmp_path, split, data).batch(np.arange(2))) for split in ("train", "validation")
    ]
    assert sizes == [2, 1]
