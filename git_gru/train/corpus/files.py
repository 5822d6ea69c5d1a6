"""The files of one commit, as data."""

from collections.abc import Sequence
from pathlib import Path

from git_gru.errors import InputError
from git_gru.git.repository import Repository
from git_gru.git.revisions import models_at
from git_gru.git.run import LOCAL_VARIABLES, git
from git_gru.store.restore import restore
from git_gru.train.recipe import DataRecipe


class DataError(InputError):
    """The commit's data does not allow the run."""


class CommitFiles:
    """The files of one commit, in a worktree of it whose models were left as manifests (`commits.worktree`).

    A data file that is itself kept by git-gru is read from the store; the model under training is not read at all.
    """

    def __init__(self, repo: Repository, commit: str, worktree: Path) -> None:
        self._repo = repo
        self.folder = worktree
        self._models = models_at(repo, commit)

    def matching(self, globs: Sequence[str], key: str) -> list[str]:
        """The plain files that match any of `globs` (git's own glob rules), sorted; symbolic links are left out.

        Raises `DataError`, naming the recipe's `key`, when there are none for one of them.
        """
        found: set[str] = set()
        for glob in globs:
            names = git("ls-files", "-z", "--", f":(glob,top){glob}", cwd=self.folder, env=LOCAL_VARIABLES)
            listed = {name.decode("utf-8", "surrogateescape") for name in names.split(b"\0") if name}
            plain = {name for name in listed if self._is_plain(name)}
            if not plain:
                raise DataError(
                    f'{key}: no file of the commit matches "{glob}"',
                    hint="Only committed files count: git add and git commit the data, or correct the glob "
                    "(** crosses folders).",
                )
            found |= plain
        return sorted(found)

    def split(self, recipe: DataRecipe) -> tuple[list[str], list[str]]:
        """The files to learn from, and those that are for validation alone (none where the recipe names none)."""
        held_out: list[str] = []
        if recipe.validation_files:
            held_out = self.matching(recipe.validation_files, "data.validation_files")
        return sorted(set(self.matching(recipe.files, "data.files")) - set(held_out)), held_out

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        if self.is_model(name):
            return b"".join(restore(self._repo.store(), self._models[name]))
        return (self.folder / name).read_bytes()

    def is_model(self, name: str) -> bool:
        """Whether git-gru keeps the file: `folder` then holds its manifest."""
        return name in self._models

    def _is_plain(self, name: str) -> bool:
        path = self.folder / name
        return path.is_file() and not path.is_symlink()
