"""docs/examples: every recipe is valid, its data can be prepared, and its network learns from them."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from git_gru.train.architecture import architecture_of
from git_gru.train.corpus import TRAIN, VALIDATION, prepare
from git_gru.train.plan import read_recipe
from git_gru.train.tasks import task_of

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
FOLDERS = sorted(folder.name for folder in EXAMPLES.iterdir() if folder.is_dir())


def test_all_examples_are_listed_with_their_licence() -> None:
    index = (EXAMPLES / "README.md").read_text()
    assert FOLDERS == ["classifier", "entrypoint", "forecaster", "language-model"]
    for name in FOLDERS:
        assert f"[{name}]({name})" in index
        text = (EXAMPLES / name / "README.md").read_text()
        assert "Data: " in text
        assert "licence" in text or "public domain" in text


@pytest.mark.parametrize("name", FOLDERS)
def test_an_example_can_be_trained(
    name: str, plain_repo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    shutil.copytree(
        EXAMPLES / name, plain_repo.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
    )
    if (writer := plain_repo.path / "write_data.py").exists():
        subprocess.run([sys.executable, writer], check=True, capture_output=True)
    repo, commit = plain_repo.repository, plain_repo.commit("example")
    recipe = read_recipe(repo, commit, "gru.toml")
    facts = prepare(repo, commit, recipe.data, tmp_path / "data")
    architecture = architecture_of(recipe.model, facts)
    task = task_of(architecture, tmp_path / "data")
    torch.manual_seed(0)
    network = task.build(dropout=recipe.model.dropout)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.train.lr)
    samples = task.samples(tmp_path / "data", TRAIN, recipe.data)
    assert len(samples) > recipe.train.batch
    batch = samples.batch(np.arange(recipe.train.batch))
    losses = []
    for _ in range(5):
        task.carried = {}
        loss = task.loss(network, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    held_out = task.samples(tmp_path / "data", VALIDATION, recipe.data)
    with torch.no_grad():
        measured = task.measure(network.eval(), held_out.batch(np.arange(min(8, len(held_out)))))
    assert torch.isfinite(measured).all()
    assert next(iter(task.metrics(measured.tolist()))) == "val_loss"
