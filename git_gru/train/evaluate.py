"""Evaluating a committed model on the validation data of its own commit, as its own commit's recipe defines it.

Deterministic: the same windows in the same order, in float32, with as many threads as a worker of the recipe has. The number
is the one that training wrote into the commit (on another machine: to float32's rounding).
"""

import tempfile
from pathlib import Path

import torch

from git_gru.git.repository import Repository
from git_gru.git.revisions import resolve_commit
from git_gru.train.architecture import check_same, check_task
from git_gru.train.corpus import VALIDATION, prepare
from git_gru.train.evaluations import Evaluation
from git_gru.train.models import known_architecture, open_model
from git_gru.train.naming import name_model
from git_gru.train.plan import read_recipe
from git_gru.train.processes import worker_threads
from git_gru.train.validation import validate
from git_gru.train.world import World, choose_device


def evaluate_here(repo: Repository, text: str, recipe_path: str, overrides: tuple[str, ...]) -> Evaluation:
    """One evaluation, in this process."""
    commit = resolve_commit(repo, text.partition(":")[0])
    recipe = read_recipe(repo, commit, recipe_path, overrides)
    name = name_model(repo, text, preferred=recipe.model.path)
    known = known_architecture(repo, name)
    check_task(recipe.model, known, where=str(name))
    torch.set_num_threads(worker_threads(recipe.launch))
    world = World.alone(str(choose_device(recipe.launch.device, local_rank=0, local_size=1)))
    with tempfile.TemporaryDirectory(prefix="git-gru-eval-") as folder:
        data = Path(folder)
        facts = prepare(repo, commit, recipe.data, data, known)
        check_same({**known, **facts}, known, where=str(name))
        own = data if recipe.model.task == "entrypoint" else None
        model = open_model(repo, name, world.device, own)
        samples = model.task.samples(data, VALIDATION, recipe.data)
        metrics = validate(model.task, model.network, samples, world)
    return Evaluation(name=text, commit=commit, path=name.path, samples=len(samples), metrics=metrics)
