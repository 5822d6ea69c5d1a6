"""New recipes: every key that a kind of task can use, with its meaning; those left at their defaults stand as comments.

They are made of the sections' own fields, so a recipe of `git gru new` can neither name a key that is gone nor miss a new one.
"""

import dataclasses
import textwrap
from pathlib import Path
from typing import Any

from git_gru.errors import InputError
from git_gru.train.recipe import TASK_DATA
from git_gru.train.recipe_file import DEFAULT_PATH, SECTIONS, recipe_text
from git_gru.train.section import Rule

KINDS = tuple(TASK_DATA)

_CHOSEN: dict[str, dict[str, Any]] = {
    "language-model": {
        "data.files": ("data/**/*.txt",),
        "data.window": 128,
        "train.steps": 2000,
        "train.clip": 1.0,
    },
    "forecaster": {
        "model.hidden": 64,
        "data.files": ("data/*.csv",),
        "data.targets": ("value",),
        "data.time": "date",
        "data.window": 48,
        "data.horizon": 12,
        "data.season": 12,
        "data.validation": 0.2,
        "train.steps": 1000,
        "train.checkpoint_every": 200,
    },
    "classifier": {
        "model.embedding": 32,
        "model.hidden": 128,
        "model.bidirectional": True,
        "data.files": ("data/*.csv",),
        "data.text": "text",
        "data.label": "label",
        "data.window": 256,
        "data.validation": 0.1,
        "train.steps": 2000,
    },
    "entrypoint": {"model.entrypoint": "task:task", "data.files": ("data/*",), "train.steps": 1000},
}
"""What a new recipe of a kind says; the task and the kind of data besides."""

_GRU = {"kind", "embedding", "hidden", "layers", "bidirectional", "dropout", "tied"}
_UNUSED: dict[str, set[str]] = {
    "language-model": {"model.entrypoint", "model.bidirectional"},
    "forecaster": {"model.entrypoint", "model.embedding", "model.tied", "data.validation_files"},
    "classifier": {"model.entrypoint", "model.tied"},
    "entrypoint": {
        *(f"model.{key}" for key in _GRU),
        "data.window",
        "data.validation",
        "data.validation_files",
    },
}
"""Keys that mean nothing to a task."""

_CODE = '''\
"""A task for git-gru; docs/entrypoint.md of git-gru says what each part must be. This one fits a line: replace it."""

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset


class Task:
    metrics = ("error",)

    def __init__(self, files: Path) -> None:
        self.files = files  # the folder of the commit's files: read your data from it

    def model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def data(self, split: str) -> TensorDataset:
        x = torch.linspace(-1, 1, 256 if split == "train" else 64)[:, None]
        return TensorDataset(x, 3 * x + 1)

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        x, y = batch
        return nn.functional.mse_loss(model(x), y)

    def measure(self, model: nn.Module, batch: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        x, y = batch
        return {"error": (model(x) - y).abs().mean()}


def task(files: Path) -> Task:
    return Task(files)
'''


def write_new(kind: str, folder: Path) -> list[Path]:
    """Writes what a new project of a kind (`KINDS`) needs into `folder` (made when it is missing); returns the files.

    Raises `InputError` rather than replace a file.
    """
    contents = {DEFAULT_PATH: new_recipe(kind)} | ({"task.py": _CODE} if kind == "entrypoint" else {})
    files = [folder / name for name in contents]
    if present := [file for file in files if file.exists() or file.is_symlink()]:
        raise InputError(f"{present[0]} is there already", hint="Name another folder, or move the file away.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in zip(files, contents.values(), strict=True):
            file.write_text(content)
    except OSError as error:
        raise InputError(f"{error.filename or folder} cannot be written: {error.strerror}") from error
    return files


def new_recipe(kind: str) -> str:
    """The text of a new recipe."""
    chosen = {"model.task": kind, "data.kind": TASK_DATA[kind], **_CHOSEN[kind]}
    lines = [
        f"# A recipe for git gru train: {kind}. Keys that stand as comments have these values anyway.",
        "# Check it with: git gru recipe --check",
    ]
    for name, section in SECTIONS.items():
        lines += ["", f"[{name}]"]
        for item in dataclasses.fields(section):
            rule: Rule = item.metadata["rule"]
            key = f"{name}.{item.name}"
            if key in _UNUSED[kind] or rule.only not in ("", TASK_DATA[kind]):
                continue
            choices = f" ({', '.join(rule.choices)})" if rule.choices else ""
            lines += textwrap.wrap(rule.help + choices, 100, initial_indent="# ", subsequent_indent="#   ")
            mark = "" if key in chosen else "#"
            lines.append(f"{mark}{item.name} = {recipe_text(chosen.get(key, item.default))}")
    return "\n".join([*lines, ""])
