"""Text: all files one after the other, as `train.bin` and `validation.bin`.

A *sample* is a *window*: `window` bytes to read and, one further, `window` bytes to predict. Windows do not overlap in what
they predict: sample i predicts bytes i·window + 1 … (i+1)·window.
"""

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from git_gru.train.corpus.files import CommitFiles, DataError
from git_gru.train.recipe import DataRecipe
from git_gru.train.sharding import Indices

BYTE_SYMBOLS = 256


@dataclass(frozen=True)
class Windows:
    """Samples of a text: `len(data) - 1` predictable symbols cut into windows; the rest at the end is left out."""

    data: npt.NDArray[np.uint8]
    window: int

    def __len__(self) -> int:
        return max(0, (len(self.data) - 1) // self.window)

    def gather(self, indices: Indices) -> npt.NDArray[np.uint8]:
        """The samples `indices`, as [len(indices), window + 1]: what is read is [:, :-1], what is predicted [:, 1:]."""
        offsets = np.arange(self.window + 1, dtype=np.int64)
        gathered: npt.NDArray[np.uint8] = self.data[indices[:, None] * self.window + offsets[None, :]]
        return gathered


def prepare(files: CommitFiles, recipe: DataRecipe, target: Path, known: Any = None) -> dict[str, Any]:
    """Writes both splits; facts: `symbols`. Raises `DataError`.

    Of every file, the last `recipe.validation` (a share of its bytes) is for validation; with `validation_files`, those
    files are, and nothing else.
    """
    learnt, held_out = files.split(recipe)
    with (
        split_file(target, "train").open("wb") as train,
        split_file(target, "validation").open("wb") as validation,
    ):
        for name in learnt:
            data = files.read(name)
            cut = len(data) if held_out else len(data) - int(len(data) * recipe.validation)
            train.write(data[:cut])
            validation.write(data[cut:])
        for name in held_out:
            validation.write(files.read(name))
    for split, what in (("train", "training"), ("validation", "validation")):
        size = split_file(target, split).stat().st_size
        if size <= recipe.window:
            raise DataError(
                f"the {what} data has {size} bytes, too few for one window of {recipe.window} and the byte after it",
                hint=_advice(what),
            )
    return {"symbols": BYTE_SYMBOLS}


def split_file(folder: Path, split: str) -> Path:
    """The prepared file of a split."""
    return folder / f"{split}.bin"


def open_windows(file: Path, window: int) -> Windows:
    """The samples of a prepared file, mapped into memory read-only."""
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    return Windows(np.frombuffer(mapped, dtype=np.uint8), window)


def _advice(what: str) -> str:
    if what == "training":
        return "Make data.window smaller, or let data.files name more files."
    return "Make data.window smaller, data.validation larger, or name data.validation_files."
