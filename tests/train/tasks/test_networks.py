"""Forecaster and classifier: what is padded does not count, units come back, and the naive forecast is what it says."""

import numpy as np
import pytest
import torch

from git_gru.train.architecture import (
    Architecture,
    ArchitectureError,
    architecture_of,
    metadata_of,
    parse_architecture,
)
from git_gru.train.corpus.labelled import Labelled
from git_gru.train.corpus.series import SeriesWindows
from git_gru.train.recipe import ModelRecipe
from git_gru.train.tasks import moved, task_of
from git_gru.train.tasks.classifier import LabelledSamples
from git_gru.train.tasks.forecaster import SeriesSamples, naive_forecast

SCALING = {"": {"mean": [1.0, 2.0], "std": [3.0, 4.0]}}
FORECASTER = {"window": 5, "horizon": 3, "targets": ["y"], "exogenous": ["x"], "scaling": SCALING}
CLASSIFIER = {"symbols": 256, "classes": ["a", "b", "c"]}


def architecture(task: str, **keys: object) -> Architecture:
    facts = FORECASTER if task == "forecaster" else CLASSIFIER
    return architecture_of(ModelRecipe(task=task, embedding=4, hidden=6, **keys), facts)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["forecaster", "classifier"])
def test_an_architecture_comes_back(task: str) -> None:
    one = architecture(task, layers=2, bidirectional=True)
    assert parse_architecture(metadata_of(one), where="m") == one


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("targets", ["y", "y"]),
        ("targets", "y"),
        ("horizon", 0),
        ("scaling", {"": {"mean": [1.0]}}),
        ("scaling", {"": {"mean": [1.0], "std": [0.0]}}),
        ("scaling", {"": {"mean": [1.0, float("nan")], "std": [1.0, 1.0]}}),
    ],
)
def test_what_is_no_architecture(key: str, value: object) -> None:
    with pytest.raises(ArchitectureError):
        parse_architecture(metadata_of({**architecture("forecaster"), key: value}), where="m")


@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_does_not_count(bidirectional: bool) -> None:
    torch.manual_seed(0)
    data = np.frombuffer(b"hello" + b"wide world" + b"x", np.uint8)
    labelled = Labelled(data, np.array([0, 5, 15, 16]), np.array([0, 1, 2], np.int32))
    samples, task = (
        LabelledSamples(labelled),
        task_of(architecture("classifier", bidirectional=bidirectional, layers=2)),
    )
    network = task.build().eval()
    symbols, lengths, labels = samples.batch(np.array([2, 0, 1]))
    assert (symbols.shape, lengths.tolist(), labels.tolist()) == ((3, 10), [1, 5, 10], [2, 0, 1])
    together = network(symbols, lengths)
    alone = [network(*samples.batch(np.array([place]))[:2])[0] for place in (2, 0, 1)]
    torch.testing.assert_close(together, torch.stack(alone))
    loss, correct = task.measure(network, samples.batch(np.array([2, 0, 1])))
    assert float(loss) == pytest.approx(float(task.loss(network, (symbols, lengths, labels))))
    assert int(correct) == int((together.argmax(1) == labels).sum())


def test_a_forecaster_follows_the_level_of_its_series() -> None:
    torch.manual_seed(0)
    network = (
        task_of(architecture("forecaster", bidirectional=True, layers=2, dropout=0.5))
        .build(dropout=0.5)
        .eval()
    )
    past = torch.randn(2, 5, 2)
    higher = past + torch.tensor([10.0, 0.0])
    torch.testing.assert_close(network(higher), network(past) + 10)
    assert not torch.equal(network.train()(past), network(past))  # dropout


def test_measures_are_in_the_targets_units() -> None:
    values = np.arange(20, dtype=np.float32).reshape(10, 2)
    windows = SeriesWindows(values, np.array([[3.0]], np.float32), np.array([[0, 0], [2, 0]]), 5, 3)
    task = task_of(architecture("forecaster"))
    samples = SeriesSamples(windows, season=2)
    past, future, naive, unit = batch = samples.batch(np.array([1]))
    assert past[0, :, 0].tolist() == [4, 6, 8, 10, 12]
    assert future[0, :, 0].tolist() == [14, 16, 18]
    assert naive[0, :, 0].tolist() == [10, 12, 10]
    assert unit.tolist() == [[[3.0]]]

    class Zero(torch.nn.Module):
        def forward(self, past: torch.Tensor) -> torch.Tensor:
            return past.new_zeros(len(past), 3, 1)

    measured = task.measure(Zero(), moved(batch, torch.device("cpu")))
    assert measured.tolist() == [14**2 + 16**2 + 18**2, 3 * (14 + 16 + 18), 3 * (4 + 4 + 8)]
    assert samples.terms == 3
    assert task.metrics([4.0, 1.0, 2.0]) == {"val_loss": 4.0, "val_mae": 1.0, "naive_mae": 2.0, "skill": 0.5}


def test_the_naive_forecast_repeats_the_last_season() -> None:
    past = torch.arange(5.0)[None, :, None]
    assert naive_forecast(past, horizon=3, targets=1, season=1)[0, :, 0].tolist() == [4, 4, 4]
    assert naive_forecast(past, horizon=4, targets=1, season=3)[0, :, 0].tolist() == [2, 3, 4, 2]
