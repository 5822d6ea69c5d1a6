"""Forecasting the series of a commit with the commit's model: from the last rows of its data on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from git_gru.errors import InputError
from git_gru.git.repository import Repository
from git_gru.git.revisions import resolve_commit
from git_gru.train.architecture import check_same
from git_gru.train.corpus import DataError, commit_series
from git_gru.train.corpus.series import Series, scale
from git_gru.train.corpus.times import next_times, shown_time
from git_gru.train.models import RunnableModel, open_model
from git_gru.train.naming import name_model
from git_gru.train.plan import read_recipe
from git_gru.train.recipe import DataRecipe
from git_gru.train.recipe_file import DEFAULT_PATH


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """One target of one series, in its own unit: the window looked back on, and what is to come.

    Times are texts for people: the data's own, or places relative to the last row (`+1`) where they name none.
    """

    series: str
    target: str
    past_times: Sequence[str]
    past: Sequence[float]
    times: Sequence[str]
    values: Sequence[float]


def forecast(
    repo: Repository,
    name: str,
    *,
    horizon: int | None = None,
    only: Sequence[str] = (),
    recipe_path: str = DEFAULT_PATH,
    overrides: tuple[str, ...] = (),
) -> list[Forecast]:
    """`horizon` rows (by default as many as the model forecasts at once) of every target of every series, or of those in `only`.

    Where more rows are asked for, forecasts are read as if they had happened. Raises `InputError`, `RecipeError`, `DataError`.
    """
    commit = resolve_commit(repo, name.partition(":")[0])
    recipe = read_recipe(repo, commit, recipe_path, overrides)
    model = open_model(repo, name_model(repo, name, preferred=recipe.model.path), torch.device("cpu"))
    _check(model, recipe.data, horizon)
    found = commit_series(repo, commit, recipe.data)
    if unknown := sorted(set(only) - {series.name for series in found}):
        raise InputError(
            f"the data has no series {unknown[0]!r}; it has {', '.join(repr(one.name) for one in found)}"
        )
    return [
        one
        for series in found
        if not only or series.name in only
        for one in _forecast(model, series, horizon or model.task.architecture["horizon"])
    ]


def _check(model: RunnableModel, data: DataRecipe, horizon: int | None) -> None:
    known = model.task.architecture
    if known["task"] != "forecaster":
        raise InputError(f"{model.name} is no forecaster: it is a {known['task']}")
    asked = {"window": data.window, "horizon": data.horizon}
    asked_columns = {"targets": list(data.targets), "exogenous": list(data.exogenous)}
    check_same({**known, **asked, **asked_columns}, known, where=str(model.name))
    if horizon is not None and horizon > known["horizon"] and known["exogenous"]:
        raise InputError(
            f"{model.name} forecasts {known['horizon']} rows, and to go on it would have to know {known['exogenous'][0]!r} there",
            hint=f"Leave --horizon out, or train with data.horizon = {horizon}.",
        )


@torch.no_grad()
def _forecast(model: RunnableModel, series: Series, horizon: int) -> list[Forecast]:
    known = model.task.architecture
    window, targets = known["window"], known["targets"]
    scaling = known["scaling"].get(series.name)
    if scaling is None:
        raise DataError(
            f"{model.name} does not know the series {series.name!r}: it was not in the data that it was trained on",
            hint="Train on it first, or choose others with --series.",
        )
    if len(series.values) < window:
        raise DataError(
            f"the series {series.name!r} has {len(series.values)} rows, and the model looks back on {window}"
        )
    rows = torch.from_numpy(scale(series.values[-window:], scaling).astype(np.float32))
    while len(rows) < window + horizon:
        ahead = model.network(rows[None, -window:])[0]
        rows = torch.cat([rows, torch.nn.functional.pad(ahead, (0, rows.shape[1] - len(targets)))])
    values = _unscaled(rows[window : window + horizon, : len(targets)].double().numpy(), scaling)
    before, after = _times(series, window, horizon)
    return [
        Forecast(
            series=series.name,
            target=target,
            past_times=before,
            past=series.values[-window:, place].tolist(),
            times=after,
            values=values[:, place].tolist(),
        )
        for place, target in enumerate(targets)
    ]


def _unscaled(values: npt.NDArray[np.float64], scaling: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    columns = values.shape[1]
    own: npt.NDArray[np.float64] = values * np.array(scaling["std"][:columns]) + np.array(
        scaling["mean"][:columns]
    )
    return own


def _times(series: Series, window: int, horizon: int) -> tuple[list[str], list[str]]:
    if not series.times:
        return [str(place) for place in range(1 - window, 1)], [f"+{place + 1}" for place in range(horizon)]
    return [shown_time(time) for time in series.times[-window:]], [
        shown_time(time) for time in next_times(series.times, horizon)
    ]
