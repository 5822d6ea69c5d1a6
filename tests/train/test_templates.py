"""New recipes are valid, say what each key means, and what stands as a comment is what holds anyway."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from git_gru.train.recipe import TASK_DATA
from git_gru.train.recipe_file import parse_recipe
from git_gru.train.templates import KINDS, new_recipe, write_new


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_recipe_is_valid_and_its_comments_change_nothing(kind: str) -> None:
    text = new_recipe(kind)
    recipe = parse_recipe(text.encode(), where="gru.toml")
    assert (recipe.model.task, recipe.data.kind) == (kind, TASK_DATA[kind])
    everything = re.sub(r"^#(\w+ = )", r"\1", text, flags=re.MULTILINE)
    assert everything.count(" = ") > text.count("\n[") + 10
    assert parse_recipe(everything.encode(), where="gru.toml") == recipe


def test_nothing_is_replaced(tmp_path: Path, plain_repo: Any) -> None:
    (plain_repo.path / "task.py").write_text("mine")
    done = plain_repo.gru("new", "entrypoint")
    assert done.returncode == 4
    assert b"task.py is there already" in done.stderr
    assert not (plain_repo.path / "gru.toml").exists()
    done = plain_repo.gru("new", "entrypoint", "deep/er", "--json")
    assert json.loads(done.stdout) == {"files": ["deep/er/gru.toml", "deep/er/task.py"]}


def test_recipes_are_checked_and_shown(plain_repo: Any) -> None:
    missing = plain_repo.gru("recipe", "--check")
    assert (missing.returncode, b"git gru new KIND" in missing.stderr) == (4, True)
    plain_repo.gru("new", "forecaster")
    assert b"gru.toml is a valid recipe: a forecaster on series" in plain_repo.gru("recipe", "--check").stdout
    shown = plain_repo.gru("recipe", "--set", "train.steps=7").stdout
    assert parse_recipe(shown, where="shown").train.steps == 7
    wrong = plain_repo.gru("recipe", "--check", "--set", "data.horizont=3")
    assert (wrong.returncode, b"Did you mean data.horizon?" in wrong.stderr) == (4, True)


def test_the_skeleton_is_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from git_gru.train.tasks import task_of

    write_new("entrypoint", tmp_path / "source")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "source/task.py").rename(tmp_path / "source/new_skeleton.py")
    architecture = {"kind": "entrypoint", "task": "entrypoint", "entrypoint": "new_skeleton:task"}
    assert task_of(architecture, tmp_path).measures == ("loss", "error")
