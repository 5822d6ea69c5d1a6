"""Text: all files one after the other, as `train.bin` and `validation.bin`.

Its *symbols* are bytes (`data.tokens = "bytes"`), or what a tokenizer makes of UTF-8 text (`"bpe"`); as few bytes each as their
number allows, little-endian. A *sample* is a *window*: `window` symbols to read and, one further, `window` symbols to predict.
Windows do not overlap in what they predict: sample i predicts symbols i·window + 1 … (i+1)·window.
"""

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from git_gru.train.corpus.files import CommitFiles, DataError
from git_gru.train.corpus.tables import decoded
from git_gru.train.corpus.tokens import open_tokenizer, symbol_bytes, train_tokenizer
from git_gru.train.recipe import DataRecipe
from git_gru.train.sharding import Indices

BYTE_SYMBOLS = 256

Symbols = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Windows:
    """Samples of a text: `len(data) - 1` predictable symbols cut into windows; the rest at the end is left out."""

    data: Symbols
    window: int

    def __len__(self) -> int:
        return max(0, (len(self.data) - 1) // self.window)

    def gather(self, indices: Indices) -> Symbols:
        """The samples `indices`, as [len(indices), window + 1]: what is read is [:, :-1], what is predicted [:, 1:]."""
        offsets = np.arange(self.window + 1, dtype=np.int64)
        gathered: Symbols = self.data[indices[:, None] * self.window + offsets[None, :]]
        return gathered


def prepare(files: CommitFiles, recipe: DataRecipe, target: Path, known: Any = None) -> dict[str, Any]:
    """Writes both splits; facts: `symbols`, and `tokenizer` where there is one (that of a `known` model stays).

    Of every file, the last `recipe.validation` (a share of it) is for validation; with `validation_files`, those files are,
    and nothing else. Raises `DataError`, `TokenizersMissingError`.
    """
    learnt, held_out = files.split(recipe)
    _check_tokens(recipe, known)
    tokenizer = _tokenizer(files, recipe, learnt, known) if recipe.tokens == "bpe" else None
    facts: dict[str, Any] = {"symbols": BYTE_SYMBOLS}
    if tokenizer is not None:
        facts = {"symbols": len(symbol_bytes(tokenizer, "the tokenizer")), "tokenizer": tokenizer}
    encode = _encoder(tokenizer)
    with (
        split_file(target, "train").open("wb") as train,
        split_file(target, "validation").open("wb") as validation,
    ):
        for name in learnt:
            first, rest = _halves(files.read(name), name, recipe)
            train.write(encode(first))
            validation.write(encode(rest))
        for name in held_out:
            validation.write(encode(_content(files.read(name), name, recipe)))
    for split, what in (("train", "training"), ("validation", "validation")):
        size = split_file(target, split).stat().st_size // _dtype(facts["symbols"]).itemsize
        if size <= recipe.window:
            one = "byte" if tokenizer is None else "symbol"
            raise DataError(
                f"the {what} data has {size} {one}s, too few for one window of {recipe.window} and the {one} after it",
                hint=_advice(what),
            )
    return facts


def split_file(folder: Path, split: str) -> Path:
    """The prepared file of a split."""
    return folder / f"{split}.bin"


def open_windows(file: Path, window: int, symbols: int = BYTE_SYMBOLS) -> Windows:
    """The samples of a prepared file, mapped into memory read-only. `symbols` is how many different ones there are."""
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    return Windows(np.frombuffer(mapped, dtype=_dtype(symbols)), window)


def _dtype(symbols: int) -> np.dtype[Any]:
    return np.dtype("u1" if symbols <= 1 << 8 else "<u2" if symbols <= 1 << 16 else "<u4")


def _content(data: bytes, name: str, recipe: DataRecipe) -> bytes | str:
    return data if recipe.tokens == "bytes" else decoded(data, name)


def _halves(data: bytes, name: str, recipe: DataRecipe) -> tuple[bytes | str, bytes | str]:
    """What of a file is for training, and what for validation."""
    content = _content(data, name, recipe)
    cut = len(content) if recipe.validation_files else len(content) - int(len(content) * recipe.validation)
    return content[:cut], content[cut:]


def _check_tokens(recipe: DataRecipe, known: Any) -> None:
    if known is not None and (recipe.tokens == "bpe") != ("tokenizer" in known):
        reads = "the symbols of a tokenizer" if "tokenizer" in known else "bytes"
        raise DataError(
            f'data.tokens is "{recipe.tokens}", and the model in the commit reads {reads}',
            hint="Set data.tokens to the model's, or give a new model another model.path.",
        )


def _tokenizer(files: CommitFiles, recipe: DataRecipe, learnt: list[str], known: Any) -> str:
    """The model's tokenizer, or the commit's (`data.tokenizer`), or one learnt from the training data."""
    given = None
    if recipe.tokenizer:
        (name,) = files.matching([f"{_literal(recipe.tokenizer)}"], "data.tokenizer")
        given = decoded(files.read(name), name)
        symbol_bytes(given, name)
    if known is None:
        parts = (_halves(files.read(name), name, recipe)[0] for name in learnt)
        return given or train_tokenizer(map(str, parts), recipe.vocabulary)
    if given is not None and symbol_bytes(given, recipe.tokenizer) != symbol_bytes(
        known["tokenizer"], "the model's"
    ):
        raise DataError(
            f"data.tokenizer: the symbols of {recipe.tokenizer} are not those that the model in the commit was trained with",
            hint="Leave data.tokenizer out to go on with the model's own, or give a new model another model.path.",
        )
    tokenizer: str = known["tokenizer"]
    return tokenizer


def _literal(path: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in path)


def _encoder(tokenizer: str | None) -> Callable[[bytes | str], bytes]:
    """A function from a piece of text to its symbols, as they are kept."""
    if tokenizer is None:
        return lambda piece: piece if isinstance(piece, bytes) else piece.encode()
    opened = open_tokenizer(tokenizer, "the tokenizer")
    dtype = _dtype(opened.get_vocab_size())
    return lambda piece: np.array(
        opened.encode(str(piece), add_special_tokens=False).ids, dtype=dtype
    ).tobytes()


def _advice(what: str) -> str:
    if what == "training":
        return "Make data.window smaller, or let data.files name more files."
    return "Make data.window smaller, data.validation larger, or name data.validation_files."
