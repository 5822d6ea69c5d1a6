"""Files for the user's own code: the commit's, as they are, in a folder `source` that outlives the temporary worktree."""

import shutil
from pathlib import Path
from typing import Any

from git_gru.train.corpus.files import CommitFiles
from git_gru.train.recipe import DataRecipe

FOLDER = "source"


def prepare(files: CommitFiles, recipe: DataRecipe, target: Path, known: Any = None) -> dict[str, Any]:
    """Copies all files of the commit; those under `data.files` that git-gru keeps are written in full. No facts.

    Raises `DataError` when `data.files` matches nothing.
    """
    names = files.matching(recipe.files, "data.files")
    source = target / FOLDER
    shutil.copytree(files.folder, source, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    for name in names:
        if files.is_model(name):
            (source / name).write_bytes(files.read(name))
    return {}
