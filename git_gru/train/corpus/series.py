"""Time series: numeric columns of CSV or Parquet files.

A *series* is what the rows with one name in the column `data.series` make, or else one file (of a single file the name is
empty). Its *columns* are the targets, then the exogenous ones. A *sample* is `window` rows to look back on, and the `horizon`
rows of targets that follow. Of every series the last `data.validation` of its rows are for validation: samples
whose targets lie there, though they may look back further; training's samples lie before it in full.

Every column of every series is scaled by its mean and standard deviation over its TRAINING rows; the scaling stands in the
model. Prepared: `values.npy` (float32 [rows, columns], scaled), `std.npy` (float32 [series, targets]),
`SPLIT.npy` (int64 [samples, 2]: first row, number of the series).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from git_gru.train.corpus.files import CommitFiles, DataError
from git_gru.train.corpus.tables import read_table
from git_gru.train.corpus.times import Moment, parse_times
from git_gru.train.recipe import DataRecipe
from git_gru.train.sharding import Indices

Scaling = Mapping[str, Mapping[str, Sequence[float]]]
"""Name of a series → `mean` and `std` of each of its columns."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One series: `values` float64 [rows, columns]; `times` is empty where the recipe names no column of times."""

    name: str
    values: npt.NDArray[np.float64]
    times: Sequence[Moment] = ()


@dataclass(frozen=True)
class SeriesWindows:
    """The samples of a split; see the module's docstring."""

    values: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]
    places: npt.NDArray[np.int64]
    window: int
    horizon: int

    def __len__(self) -> int:
        return len(self.places)

    def gather(
        self, indices: Indices
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Rows looked back on [n, window, columns], targets [n, horizon, T], and what a target's unit is [n, T] (its std)."""
        first, number = self.places[indices].T
        std = self.std[number]
        past = self.values[first[:, None] + np.arange(self.window)]
        ahead = first[:, None] + self.window + np.arange(self.horizon)
        return past, self.values[ahead][:, :, : std.shape[1]], std


def prepare(files: CommitFiles, recipe: DataRecipe, target: Path, known: Any = None) -> dict[str, Any]:
    """Writes both splits; facts: `window`, `horizon`, `targets`, `exogenous`, `scaling` (that of a `known` model stays).

    Raises `DataError`.
    """
    all_series = read_series(files, recipe)
    columns = {"targets": list(recipe.targets), "exogenous": list(recipe.exogenous)}
    same = known is not None and all(known.get(key) == names for key, names in columns.items())
    scaling = dict(known["scaling"]) if same else {}
    places: dict[str, list[npt.NDArray[np.int64]]] = {"train": [], "validation": []}
    row = 0
    for number, series in enumerate(all_series):
        rows = len(series.values)
        cut = rows - max(recipe.horizon, int(rows * recipe.validation))
        span = recipe.window + recipe.horizon
        if cut < span:
            raise DataError(
                f"{_named(series.name)} has {rows} rows, of which {max(0, cut)} are to learn from; a sample takes {span} "
                "(data.window and data.horizon)",
                hint="Make data.window, data.horizon or data.validation smaller, or add rows.",
            )
        scaling.setdefault(series.name, scale_of(series.values[:cut]))
        for split, first, last in (("train", 0, cut), ("validation", cut - recipe.window, rows)):
            starts = np.arange(row + first, row + last - span + 1, dtype=np.int64)
            places[split].append(np.stack([starts, np.full_like(starts, number)], axis=1))
        row += rows
    scaled = [scale(series.values, scaling[series.name]) for series in all_series]
    np.save(target / "values.npy", np.concatenate(scaled).astype(np.float32))
    units = [scaling[series.name]["std"][: len(recipe.targets)] for series in all_series]
    np.save(target / "std.npy", np.array(units, dtype=np.float32))
    for split, parts in places.items():
        np.save(target / f"{split}.npy", np.concatenate(parts))
    return {
        "window": recipe.window,
        "horizon": recipe.horizon,
        **columns,
        "scaling": scaling,
    }


def open_series(folder: Path, split: str, *, window: int, horizon: int) -> SeriesWindows:
    """A prepared split, mapped into memory."""
    return SeriesWindows(
        np.load(folder / "values.npy", mmap_mode="r"),
        np.load(folder / "std.npy"),
        np.load(folder / f"{split}.npy", mmap_mode="r"),
        window,
        horizon,
    )


def scale_of(values: npt.NDArray[np.float64]) -> dict[str, list[float]]:
    """Mean and standard deviation of each column; a column that never changes has the unit 1."""
    std = values.std(axis=0)
    return {"mean": values.mean(axis=0).tolist(), "std": np.where(std > 0, std, 1.0).tolist()}


def scale(values: npt.NDArray[np.float64], scaling: Mapping[str, Sequence[float]]) -> npt.NDArray[np.float64]:
    """The columns in their own units, around zero."""
    scaled: npt.NDArray[np.float64] = (values - np.array(scaling["mean"])) / np.array(scaling["std"])
    return scaled


def read_series(files: CommitFiles, recipe: DataRecipe) -> list[Series]:
    """The series of the commit's files, in the order of their first rows. Raises `DataError`."""
    names = files.matching(recipe.files, "data.files")
    columns = (*recipe.targets, *recipe.exogenous)
    wanted = {f"data.targets, {name}": name for name in recipe.targets}
    wanted |= {f"data.exogenous, {name}": name for name in recipe.exogenous}
    wanted |= {
        key: name for key, name in (("data.time", recipe.time), ("data.series", recipe.series)) if name
    }
    rows: dict[str, list[list[float]]] = {}
    times: dict[str, list[Any]] = {}
    for name in names:
        table = read_table(files.read(name), name, wanted)
        numbers = [_numbers(table[column], name, column) for column in columns]
        for place, row in enumerate(zip(*numbers, strict=True)):
            alone = "" if len(names) == 1 else name
            series = str(table[recipe.series][place]) if recipe.series else alone
            rows.setdefault(series, []).append(list(row))
            if recipe.time:
                times.setdefault(series, []).append(table[recipe.time][place])
    return [
        Series(
            name=name,
            values=np.array(values, dtype=np.float64),
            times=parse_times(times[name], _named(name)) if recipe.time else (),
        )
        for name, values in rows.items()
    ]


def _numbers(values: Sequence[Any], name: str, column: str) -> list[float]:
    found = []
    for row, value in enumerate(values, start=1):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(
                f"{name}: row {row} has {value!r} in the column {column!r}, and a series needs a number in every row",
                hint="Fill gaps before training (the last value, or a line between neighbours), or leave such rows out.",
            )
        found.append(number)
    return found


def _named(series: str) -> str:
    return f"the series {series!r}" if series else "the series"
