"""The user's own code: what is imported, from where, and what is wrong with it."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from git_gru.train.recipe import DataRecipe
from git_gru.train.tasks import task_of
from git_gru.train.tasks.entrypoint import EntrypointError

DATA = DataRecipe(kind="files", files=("*",))
OWN = """
import csv
import torch

class Mine:
    metrics = ("error",)
    def __init__(self, files):
        rows = list(csv.DictReader((files / "points.csv").open()))
        self.points = [(torch.tensor([float(row["x"])]), float(row["y"])) for row in rows]
    def model(self):
        return torch.nn.Linear(1, 1)
    def data(self, split):
        return self.points[:-2] if split == "train" else self.points[-2:]
    def loss(self, model, batch):
        x, y = batch
        return (model(x)[:, 0] - y.float()).square().mean()
    def measure(self, model, batch):
        x, y = batch
        return {"error": (model(x)[:, 0] - y.float()).abs().mean()}

def task(files):
    return Mine(files)
"""
POINTS = "x,y\n" + "".join(f"{x},{2 * x + 1}\n" for x in range(12))


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "source" / "own"
    folder.mkdir(parents=True)
    (folder / "line_task.py").write_text(OWN)
    (folder / "broken_task.py").write_text("import no_such_library\n")
    (tmp_path / "source/json.py").write_text("raise SystemExit('never imported')\n")
    (tmp_path / "source/points.csv").write_text(POINTS)
    return tmp_path


def load(name: str, data: Path) -> Any:
    return task_of({"kind": "entrypoint", "task": "entrypoint", "entrypoint": name}, data)


def test_means_of_the_user_become_sums_of_the_engine(data: Path) -> None:
    task = load("own.line_task:task", data)
    network = task.build()
    torch.nn.init.zeros_(network.weight)
    torch.nn.init.zeros_(network.bias)
    train, validation = (task.samples(data, split, DATA) for split in ("train", "validation"))
    assert (len(train), len(validation), train.terms) == (10, 2, 1)
    batch = train.batch(np.array([0, 2]))
    assert [part.tolist() for part in batch] == [[[0.0], [2.0]], [1.0, 5.0]]
    assert float(task.loss(network, batch).detach()) == 26.0
    with torch.no_grad():
        measured = task.measure(network, batch)
    assert measured.tolist() == [26.0, 6.0]
    assert task.metrics([13.0, 3.0]) == {"val_loss": 13.0, "val_error": 3.0}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own.nothing:task", "the commit has no module own.nothing"),
        ("own.line_task:nothing", "own.line_task has no function nothing"),
        ("own.line_task:csv", "own.line_task has no function csv"),
        ("own.line_task:Mine.loss", "has no function Mine.loss"),
        ("json:loads", "another module named json is installed"),
    ],
)
def test_what_is_wrong_is_named(name: str, said: str, data: Path) -> None:
    with pytest.raises(EntrypointError, match=said):
        load(name, data)


def test_the_users_own_errors_go_through(data: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        load("own.broken_task:task", data)


def test_an_object_that_is_no_task(data: Path) -> None:
    (data / "source/own/empty_task.py").write_text("def task(files):\n    return object()\n")
    with pytest.raises(EntrypointError, match=r"what own\.empty_task:task gives has no model"):
        load("own.empty_task:task", data)


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (
            "return torch.nn.Linear(1, 1)",
            "return None",
            r"model\(\) must give a torch.nn.Module with parameters",
        ),
        (
            "return torch.nn.Linear(1, 1)",
            "return torch.nn.ReLU()",
            r"model\(\) must give a torch.nn.Module with",
        ),
        (".square().mean()", ".square()", r"loss\(\) must give the mean over the batch"),
        (".square().mean()", ".square().mean().item()", r"loss\(\) must give the mean over the batch"),
    ],
)
def test_a_task_that_gives_something_else(data: Path, right: str, wrong: str, said: str) -> None:
    assert right in OWN
    (data / "source/own/other_task.py").write_text(OWN.replace(right, wrong))
    task = load("own.other_task:task", data)
    with pytest.raises(EntrypointError, match=said):
        task.loss(task.build(), task.samples(data, "train", DATA).batch(np.array([0, 2])))


RECIPE = """
[model]
task = "entrypoint"
entrypoint = "own.line_task:task"
[data]
kind = "files"
files = ["points.csv"]
[train]
steps = 4
batch = 5
lr = 0.1
warmup = 0
[launch]
threads = 1
"""


@pytest.mark.slow
def test_a_run_and_an_evaluation_from_commits(repo: Any) -> None:
    repo.write("own/line_task.py", OWN.encode())
    repo.write("points.csv", POINTS.encode())
    repo.write("gru.toml", RECIPE.encode())
    repo.commit("code, data and recipe")
    done = repo.gru("train", "--branch", "trained", "--json")
    assert done.returncode == 0, done.stderr.decode()
    kept = json.loads(done.stdout)["checkpoints"][-1]["metrics"]
    assert set(kept) == {"val_loss", "val_error"}
    repo.write("own/line_task.py", b"raise SystemExit('not the commit')\n")
    found = json.loads(repo.gru("eval", "trained", "--json").stdout)["evaluations"][0]
    assert found["metrics"] == pytest.approx(kept, rel=1e-6)
    refused = repo.gru("sample", "trained")
    assert (refused.returncode, b"code in its commit" in refused.stderr) == (4, True)
