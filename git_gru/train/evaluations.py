"""Evaluations of committed models, kept once they are made. Free of torch, so that a kept one is answered at once.

Commit and path fix the model, the data and the recipe's text. What else a result depends on makes its *key*: the recipe as it
takes effect, the versions of git-gru and torch, and the kind of device.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata

from git_gru import __version__
from git_gru.git.eval_notes import find_evaluation, keep_evaluation
from git_gru.git.repository import Repository
from git_gru.git.revisions import resolve_commit
from git_gru.train.evaluator import evaluate_apart
from git_gru.train.naming import name_model
from git_gru.train.plan import read_recipe
from git_gru.train.recipe import Recipe
from git_gru.train.recipe_file import DEFAULT_PATH


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model's metrics on the validation data: `val_loss` first. `samples` were looked at, now or, `cached`, before."""

    name: str
    commit: str
    path: str
    samples: int
    metrics: dict[str, float]
    cached: bool = False


def evaluate(
    repo: Repository,
    names: Sequence[str],
    *,
    recipe_path: str = DEFAULT_PATH,
    overrides: tuple[str, ...] = (),
    fresh: bool = False,
) -> Iterator[Evaluation]:
    """Evaluates each of `names` (REV or REV:PATH), in order; `fresh`: also what was evaluated before.

    Raises `InputError`, `RecipeError`, `DataError`, and `RunFailedError` where the commit's own code fails.
    """
    for name in names:
        commit = resolve_commit(repo, name.partition(":")[0])
        recipe = read_recipe(repo, commit, recipe_path, overrides)
        path = name_model(repo, name, preferred=recipe.model.path).path
        key = _key(path, recipe)
        found = None if fresh else _kept(repo, name, commit, path, key)
        if found is None:
            found = _make(repo, name, recipe, recipe_path, overrides)
            if all(map(math.isfinite, found.metrics.values())):
                fields = asdict(found)
                kept = {field: fields[field] for field in ("path", "samples", "metrics")}
                keep_evaluation(repo, commit, key, kept)
        yield found


def _make(
    repo: Repository, name: str, recipe: Recipe, recipe_path: str, overrides: tuple[str, ...]
) -> Evaluation:
    if recipe.model.task == "entrypoint":
        fields = evaluate_apart(repo, text=name, recipe_path=recipe_path, overrides=overrides)
        return Evaluation(**fields)
    from git_gru.train.evaluate import evaluate_here

    return evaluate_here(repo, name, recipe_path, overrides)


def _key(path: str, recipe: Recipe) -> str:
    """Changes with all that a result depends on, besides the commit."""
    tables = recipe.as_json()
    parts = {
        "path": path,
        "model": tables["model"],
        "data": tables["data"],
        "device": recipe.launch.device,
        "git-gru": __version__,
        "torch": metadata.version("torch"),
    }
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _kept(repo: Repository, name: str, commit: str, path: str, key: str) -> Evaluation | None:
    """What a note says, as far as it is an evaluation: notes come from others, too."""
    fields = find_evaluation(repo, commit, key)
    if fields is None or fields.get("path") != path or not isinstance(fields.get("metrics"), dict):
        return None
    try:
        metrics = {str(metric): float(value) for metric, value in fields["metrics"].items()}
        samples = int(fields["samples"])
    except (TypeError, ValueError, KeyError):
        return None
    if "val_loss" not in metrics or not all(map(math.isfinite, metrics.values())):
        return None
    return Evaluation(name=name, commit=commit, path=path, samples=samples, metrics=metrics, cached=True)
