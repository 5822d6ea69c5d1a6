"""The data of a run: files of the commit, put together once for all workers.

`prepare` (run by the launcher, so that its errors come before a worker starts) reads the files that the recipe's globs
name from a worktree of the commit, in the order of their paths, and writes two files into the run's folder: `train.bin` and
`validation.bin`. Workers map them into memory, so N workers share one copy in the page cache.

A *sample* of text is a *window*: `window` bytes to read and, one further, `window` bytes to predict. Windows do not
overlap in what they predict: sample i predicts bytes i·window + 1 … (i+1)·window.
"""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from git_gru.errors import InputError
from git_gru.git.commits import worktree
from git_gru.git.repository import Repository
from git_gru.git.revisions import models_at
from git_gru.git.run import LOCAL_VARIABLES, git
from git_gru.store.restore import restore
from git_gru.train.recipe import DataRecipe
from git_gru.train.sharding import Indices

TRAIN_FILE = "train.bin"
VALIDATION_FILE = "validation.bin"


class DataError(InputError):
    """The commit's data does not allow the run."""


@dataclass(frozen=True)
class Windows:
    """Samples of a text: `len(data) - 1` predictable bytes cut into windows; the rest at the end is left out."""

    data: npt.NDArray[np.uint8]
    window: int

    def __len__(self) -> int:
        return max(0, (len(self.data) - 1) // self.window)

    def gather(self, indices: Indices) -> npt.NDArray[np.uint8]:
        """The samples `indices`, as uint8 [len(indices), window + 1]: what is read is [:, :-1], what is predicted [:, 1:]."""
        offsets = np.arange(self.window + 1, dtype=np.int64)
        gathered: npt.NDArray[np.uint8] = self.data[indices[:, None] * self.window + offsets[None, :]]
        return gathered


class CommitFiles:
    """The files of one commit, in a worktree of it whose models were left as manifests (`commits.worktree`).

    A data file that is itself kept by git-gru is read from the store; the model under training is not read at all.
    """

    def __init__(self, repo: Repository, commit: str, worktree: Path) -> None:
        self._repo = repo
        self._worktree = worktree
        self._models = models_at(repo, commit)

    def matching(self, globs: Sequence[str], key: str) -> list[str]:
        """The plain files that match any of `globs` (git's own glob rules), sorted; symbolic links are left out.

        Raises `DataError`, naming the recipe's `key`, when there are none.
        """
        specs = [f":(glob,top){glob}" for glob in globs]
        names = git("ls-files", "-z", "--", *specs, cwd=self._worktree, env=LOCAL_VARIABLES).split(b"\0")
        found = sorted({name.decode("utf-8", "surrogateescape") for name in names if name})
        plain = [name for name in found if self._is_plain(name)]
        if not plain:
            listed = ", ".join(f'"{glob}"' for glob in globs)
            raise DataError(
                f"no file of the commit matches {key} = [{listed}]",
                hint="Only committed files count: git add and git commit the data, or correct the glob "
                "(** crosses folders).",
            )
        return plain

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        if name in self._models:
            return b"".join(restore(self._repo.store(), self._models[name]))
        return (self._worktree / name).read_bytes()

    def _is_plain(self, name: str) -> bool:
        path = self._worktree / name
        return path.is_file() and not path.is_symlink()


def prepare(repo: Repository, commit: str, recipe: DataRecipe, target: Path) -> None:
    """Writes `train.bin` and `validation.bin` of a commit's data into the folder `target`. Raises `DataError`.

    Of every file, the last `recipe.validation` (a share of its bytes) is for validation; with `validation_files`, those
    files are, and nothing else.
    """
    with worktree(repo, commit, weights=False) as place:
        files = CommitFiles(repo, commit, place)
        held_out: list[str] = []
        if recipe.validation_files:
            held_out = files.matching(recipe.validation_files, "data.validation_files")
        learnt = sorted(set(files.matching(recipe.files, "data.files")) - set(held_out))
        with (target / TRAIN_FILE).open("wb") as train, (target / VALIDATION_FILE).open("wb") as validation:
            for name in learnt:
                data = files.read(name)
                cut = len(data) if held_out else len(data) - int(len(data) * recipe.validation)
                train.write(data[:cut])
                validation.write(data[cut:])
            for name in held_out:
                validation.write(files.read(name))
    for name, what in ((TRAIN_FILE, "training"), (VALIDATION_FILE, "validation")):
        size = (target / name).stat().st_size
        if size <= recipe.window:
            raise DataError(
                f"the {what} data has {size} bytes, too few for one window of {recipe.window} and the byte after it",
                hint=_advice(what),
            )


def open_windows(file: Path, window: int) -> Windows:
    """The samples of a prepared file, mapped into memory read-only."""
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    return Windows(np.frombuffer(mapped, dtype=np.uint8), window)


def _advice(what: str) -> str:
    if what == "training":
        return "Make data.window smaller, or let data.files name more files."
    return "Make data.window smaller, data.validation larger, or name data.validation_files."
