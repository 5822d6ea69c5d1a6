"""Forecaster, classifier and a carried state, from a commit to commits and back through `git gru eval`."""

import json
import math
from typing import Any

import pytest

from git_gru.cli.main import run
from git_gru.errors import InputError
from git_gru.train.evaluations import evaluate
from git_gru.train.forecast import forecast
from git_gru.train.sample import sample

pytestmark = pytest.mark.slow

TRAIN = "[train]\nsteps = 4\nbatch = 6\ncheckpoint_every = 4\n[launch]\nthreads = 1\n"
SERIES = """
[model]
task = "forecaster"
hidden = 8
bidirectional = true
[data]
kind = "series"
files = ["data/*.csv"]
time = "t"
targets = ["y"]
window = 8
horizon = 3
"""
LABELLED = """
[model]
task = "classifier"
embedding = 4
hidden = 6
[data]
kind = "labelled"
files = ["names.csv"]
validation = 0.3
"""


LABELLED_DATA = ("data.kind=labelled", "data.targets=[]", "data.time=", "data.horizon=1")


def committed(project: Any, recipe: str, name: str, data: str) -> None:
    project.work.write(name, data.encode())
    project.work.write("gru.toml", (recipe + TRAIN).encode())
    project.work.commit("another task")


def evaluated(project: Any, rev: str) -> dict[str, float]:
    (found,) = evaluate(project.work.repository, [rev])
    return found.metrics


def test_a_forecaster_keeps_its_scaling_and_goes_on(
    project: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"{row},{row / 10 + math.sin(row):.4f}\n" for row in range(60))
    committed(project, SERIES, "data/s.csv", "t,y\n" + rows)
    record = project.train("--here")
    kept = record["checkpoints"][-1]["metrics"]
    assert set(kept) == {"val_loss", "val_mae"}
    found = evaluated(project, "HEAD")
    assert {name: found[name] for name in kept} == pytest.approx(kept, rel=1e-6)
    assert set(found) == {"val_loss", "val_mae", "naive_mae", "skill"}
    assert "data.horizon is 2 in the recipe and 3 in" in project.refused("train", "--set", "data.horizon=2")

    assert 'data.targets is ["t"] in the recipe and ["y"] in' in project.refused(
        "train", "--set", "data.targets=t", "--set", "data.time="
    )
    with pytest.raises(
        InputError, match=r'model\.task is "classifier" in the recipe, and HEAD.* holds a forecaster'
    ):
        list(evaluate(project.work.repository, ["HEAD"], overrides=("model.task=classifier", *LABELLED_DATA)))

    before = forecast(project.work.repository, "HEAD")[0]
    project.work.write("data/s.csv", ("t,y\n" + rows + "60,1e3\n").encode())
    project.work.commit("another row, far from all others")
    first = forecast(project.work.repository, "HEAD")[0]
    longer = forecast(project.work.repository, "HEAD", horizon=7)[0]
    assert forecast(project.work.repository, "HEAD~1")[0] == before
    assert (first.series, first.target, first.times) == ("", "y", ["61", "62", "63"])
    assert (len(first.past), first.past[-1], first.past_times[-1]) == (8, 1000.0, "60")
    assert longer.values[:3] == pytest.approx(first.values)
    assert longer.times == [str(year) for year in range(61, 68)]
    with pytest.raises(InputError, match="the data has no series 'z'; it has ''"):
        forecast(project.work.repository, "HEAD", only=("z",))
    with pytest.raises(InputError, match="there is no model in HEAD~2"):
        forecast(project.work.repository, "HEAD~2")

    monkeypatch.chdir(project.work.path)
    assert run(["forecast", "--png", "picture.png"]) == 0
    assert "y  (53 … 63)" in capsys.readouterr().out
    assert project.work.read("picture.png").startswith(b"\x89PNG")
    assert run(["forecast", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["forecasts"]
    assert shown["values"] == first.values


def test_a_classifier_is_trained_by_two_workers(project: Any) -> None:
    rows = "".join(f"{'ab'[row % 2] * (row // 7 + 1)},{row % 2}\n" for row in range(60))
    committed(project, LABELLED, "names.csv", "text,label\n" + rows)
    record = project.train("--nproc", "2", "--branch", "trained")
    kept = record["checkpoints"][-1]["metrics"]
    assert set(kept) == {"val_loss", "val_accuracy"}
    assert evaluated(project, "trained") == pytest.approx(kept, rel=1e-6)


def test_a_carried_state_is_reproducible(project: Any) -> None:
    """Also from a checkpoint within the text: by three samples for two workers, so that one carries more than the other."""
    keys = ("train.steps=4", "train.checkpoint_every=2", "train.resume_every=2", "train.batch=3")
    options = [word for key in keys for word in ("--set", key)]
    carried = project.train(*options, "--set", "data.stateful=true", "--nproc", "2")["checkpoints"]
    plain = project.train(*options, "--nproc", "2")["checkpoints"]
    assert project.digests([carried[0]["commit"]]) != project.digests([plain[0]["commit"]])
    done = project.gru("reproduce", carried[1]["commit"], "--json")
    told = json.loads(done.stdout)
    assert (told["exact"], told["first_step"]) == (True, 3), done.stderr


def test_a_byte_pair_model_with_carried_state_writes_from_the_commit_alone(project: Any) -> None:
    recipe = project.work.read("gru.toml").replace(
        b"[data]", b'[data]\ntokens = "bpe"\nvocabulary = 300\nstateful = true'
    )
    project.work.write("gru.toml", recipe.replace(b"window = 16", b"window = 4"))
    project.work.commit("byte pairs")
    record = project.train("--here", "--nproc", "1")
    found = evaluated(project, "HEAD")
    assert found["val_loss"] == pytest.approx(record["checkpoints"][-1]["metrics"]["val_loss"], rel=1e-6)
    assert found["bits_per_byte"] < found["val_loss"] / math.log(2)
    first, again = (sample(project.work.repository, "HEAD", prompt=b"line 1", length=9) for _ in range(2))
    assert first == again != b""


OWN = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

class Mine:
    metrics = ()
    def model(self):
        network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        network[0].requires_grad_(False)
        return network
    def data(self, split):
        random = torch.Generator().manual_seed(len(split))
        x = torch.randn(24 if split == "train" else 130, 2, generator=random)
        return TensorDataset(x, x.sum(1, keepdim=True))
    def loss(self, model, batch):
        return nn.functional.mse_loss(model(batch[0]), batch[1])

def task(files):
    return Mine()
"""


def test_two_workers_validate_the_network_that_is_committed(project: Any) -> None:
    """Also one with running statistics, which every worker gathers by itself, and with parameters that are frozen."""
    project.work.write("own.py", OWN.encode())
    project.work.write(
        "gru.toml",
        b"[model]\ntask = 'entrypoint'\nentrypoint = 'own:task'\n[data]\nkind = 'files'\nfiles = ['own.py']\n"
        + TRAIN.encode(),
    )
    project.work.commit("a network of my own")
    (made,) = project.train("--nproc", "2")["checkpoints"]
    assert evaluated(project, made["commit"]) == pytest.approx(made["metrics"], rel=1e-6)
