"""The data of a run: files of the commit, put together once for all workers. One module a kind of data; free of torch.

`prepare` (run by the launcher, so that its errors come before a worker starts) reads the files that the recipe's globs name
from a worktree of the commit, in the order of their paths, and writes what the workers need into a folder. Workers map it into
memory, so N workers share one copy in the page cache.

A *split* is `train` or `validation`. The *facts* of the data are what a network has to know of them to be built and to run
(how many symbols there are, for example); they stand in the model file with the architecture. A model that is trained on, or
evaluated, has facts already: they are `known`, and the data are prepared by them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from git_gru.git.commits import worktree
from git_gru.git.repository import Repository
from git_gru.train.corpus import labelled, series, source, text
from git_gru.train.corpus.files import CommitFiles, DataError
from git_gru.train.recipe import DataRecipe

__all__ = ["TRAIN", "VALIDATION", "DataError", "Facts", "commit_series", "prepare"]

TRAIN, VALIDATION = "train", "validation"

Facts = Mapping[str, Any]

PREPARERS: dict[str, Callable[[CommitFiles, DataRecipe, Path, Facts | None], Facts]] = {
    "text": text.prepare,
    "series": series.prepare,
    "labelled": labelled.prepare,
    "files": source.prepare,
}


def prepare(
    repo: Repository, commit: str, recipe: DataRecipe, target: Path, known: Facts | None = None
) -> Facts:
    """Writes a commit's data into `target` (made when it is missing) and gives their facts. Raises `DataError`."""
    target.mkdir(parents=True, exist_ok=True)
    with worktree(repo, commit, weights=False) as place:
        return PREPARERS[recipe.kind](CommitFiles(repo, commit, place), recipe, target, known)


def commit_series(repo: Repository, commit: str, recipe: DataRecipe) -> list[series.Series]:
    """The series of a commit's data, as they are. Raises `DataError`."""
    with worktree(repo, commit, weights=False) as place:
        return series.read_series(CommitFiles(repo, commit, place), recipe)
