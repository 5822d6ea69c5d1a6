"""Labelled sequences: rows of CSV (with a header) or JSONL files, each with a text and a label.

A sequence is the text's UTF-8 bytes, at most `data.window` of them. Prepared, a split is `SPLIT.bin` (all sequences, one after
the other), `SPLIT.offsets.npy` (int64 [n + 1], where each begins) and `SPLIT.labels.npy` (int32 [n], places in `classes`).
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from git_gru.train.corpus.files import CommitFiles, DataError
from git_gru.train.corpus.tables import decoded, read_table
from git_gru.train.corpus.text import BYTE_SYMBOLS
from git_gru.train.recipe import DataRecipe

Row = tuple[bytes, str]
"""A sequence and its label."""


@dataclass(frozen=True)
class Labelled:
    """The sequences of a split, mapped into memory."""

    data: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.labels)

    def sequence(self, index: int) -> npt.NDArray[np.uint8]:
        """The bytes of a sequence."""
        return self.data[self.offsets[index] : self.offsets[index + 1]]


def prepare(files: CommitFiles, recipe: DataRecipe, target: Path, known: Any = None) -> dict[str, Any]:
    """Writes both splits; facts: `symbols`, `classes` (the labels, sorted; those of a `known` model stay). Raises `DataError`.

    Without `validation_files` a hash of its text decides whether a row is for validation: whatever the order of the rows, and
    the same text never stands in both.
    """
    learnt, held_out = files.split(recipe)
    splits: dict[str, list[Row]] = {"train": [], "validation": []}
    for name in learnt:
        for text, label in _rows(files, name, recipe):
            kept = not held_out and _held_out(text, recipe.validation)
            splits["validation" if kept else "train"].append((text, label))
    for name in held_out:
        splits["validation"] += _rows(files, name, recipe)
    for split, what in (("train", "learn from"), ("validation", "validate with")):
        if not splits[split]:
            raise DataError(
                f"no row of the labelled data is left to {what}",
                hint="Add rows, change data.validation, or name data.validation_files.",
            )
    classes = _classes({label for rows in splits.values() for _, label in rows}, known)
    places = {label: place for place, label in enumerate(classes)}
    for split, rows in splits.items():
        _write(target, split, [(text[: recipe.window], places[label]) for text, label in rows])
    return {"symbols": BYTE_SYMBOLS, "classes": classes}


def open_labelled(folder: Path, split: str) -> Labelled:
    """A prepared split."""
    return Labelled(
        np.memmap(folder / f"{split}.bin", dtype=np.uint8, mode="r"),
        np.load(folder / f"{split}.offsets.npy", mmap_mode="r"),
        np.load(folder / f"{split}.labels.npy", mmap_mode="r"),
    )


def _rows(files: CommitFiles, name: str, recipe: DataRecipe) -> Iterator[Row]:
    data = files.read(name)
    pairs = (
        _json_rows(data, name, recipe)
        if name.endswith((".jsonl", ".ndjson"))
        else _table_rows(data, name, recipe)
    )
    for row, (text, label) in pairs:
        if not text:
            raise DataError(f"{name}: row {row} has an empty {recipe.text}: there is nothing to read in it")
        yield text.encode(), label


def _table_rows(data: bytes, name: str, recipe: DataRecipe) -> Iterator[tuple[int, tuple[str, str]]]:
    table = read_table(data, name, {"data.text": recipe.text, "data.label": recipe.label})
    pairs = zip(table[recipe.text], table[recipe.label], strict=True)
    return enumerate(((str(text), str(label)) for text, label in pairs), start=1)


def _json_rows(data: bytes, name: str, recipe: DataRecipe) -> Iterator[tuple[int, tuple[str, str]]]:
    for number, line in enumerate(decoded(data, name).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name}: line {number} is no JSON: {error}") from error
        for key, which in ((recipe.text, "data.text"), (recipe.label, "data.label")):
            if not isinstance(row, dict) or not isinstance(row.get(key), str | int | bool):
                raise DataError(f"{name}: line {number} has no text under {key!r} ({which})")
        yield number, (str(row[recipe.text]), str(row[recipe.label]))


def _held_out(text: bytes, share: float) -> bool:
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest()) < share * (1 << 56)


def _classes(labels: set[str], known: Any) -> list[str]:
    if known is None or "classes" not in known:
        if len(labels) < 2:
            raise DataError(f"all rows have the same label {min(labels)!r}: there is nothing to tell apart")
        return sorted(labels)
    if new := sorted(labels - set(known["classes"])):
        raise DataError(
            f"the data has the label {new[0]!r}, which the model does not know; it knows {', '.join(known['classes'])}",
            hint="Train a new model for other labels: give it another model.path.",
        )
    return list(known["classes"])


def _write(target: Path, split: str, rows: list[tuple[bytes, int]]) -> None:
    (target / f"{split}.bin").write_bytes(b"".join(text for text, _ in rows))
    offsets = np.cumsum([0, *(len(text) for text, _ in rows)], dtype=np.int64)
    np.save(target / f"{split}.offsets.npy", offsets)
    np.save(target / f"{split}.labels.npy", np.array([label for _, label in rows], dtype=np.int32))
