"""A GRU that forecasts the next `horizon` rows of a series from the last `window`.

    rows [b, w, T + X] → GRU, `layers` × hidden H, one or both directions → [b, H·d] → linear → [b, horizon, T]

All values are scaled (`corpus.series`). Targets are read, and forecast, relative to the last row of the window, so that a series
that leaves the range it was learnt on is no stranger (as NLinear does, arXiv 2205.13504). The horizon is forecast at once.
The loss is the squared error per value, in units of the targets' standard deviation.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from git_gru.train.architecture import Architecture
from git_gru.train.corpus.series import SeriesWindows, open_series
from git_gru.train.recipe import DataRecipe
from git_gru.train.sharding import Indices
from git_gru.train.tasks.encoder import GruEncoder
from git_gru.train.tasks.task import Batch


class GruForecaster(nn.Module):
    """The network for `targets` columns to forecast and `exogenous` columns to read besides."""

    def __init__(
        self, *, targets: int, exogenous: int, horizon: int, hidden: int, layers: int, bidirectional: bool,
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.targets, self.horizon = targets, horizon
        self.encoder = GruEncoder(
            features=targets + exogenous,
            hidden=hidden,
            layers=layers,
            bidirectional=bidirectional,
            dropout=dropout,
        )
        self.head = nn.Linear(self.encoder.size, horizon * targets)

    def forward(self, past: torch.Tensor) -> torch.Tensor:
        """Rows [b, w, targets + exogenous] → targets [b, horizon, targets]."""
        last = past[:, -1:, : self.targets]
        relative = torch.cat([past[..., : self.targets] - last, past[..., self.targets :]], dim=-1)
        change = self.head(self.encoder(relative)).unflatten(1, (self.horizon, self.targets))
        forecast: torch.Tensor = last + change
        return forecast


def naive_forecast(past: torch.Tensor, *, horizon: int, targets: int, season: int) -> torch.Tensor:
    """The last `season` rows of the targets again and again: [b, horizon, targets]. `season` = 1: the last value stays."""
    steps = torch.arange(horizon, device=past.device) % season
    return past[:, past.shape[1] - season + steps, :targets]


class SeriesSamples:
    """Batches of (rows [n, window, columns], targets [n, horizon, T], their naive forecast, units of the targets [n, 1, T])."""

    def __init__(self, windows: SeriesWindows, season: int) -> None:
        self._windows, self._season = windows, season
        self.terms = windows.horizon * windows.std.shape[1]

    def __len__(self) -> int:
        return len(self._windows)

    def batch(self, indices: Indices) -> Batch:
        """The samples `indices`."""
        past, future, unit = map(torch.from_numpy, self._windows.gather(indices))
        horizon, targets = future.shape[1:]
        naive = naive_forecast(past, horizon=horizon, targets=targets, season=self._season)
        return past, future, naive, unit[:, None]


class ForecasterTask:
    """Forecasts of series; see the module's docstring."""

    measures: tuple[str, ...] = ("loss", "mae", "naive_mae")

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.carried: dict[str, torch.Tensor] = {}

    def build(self, *, dropout: float = 0.0) -> GruForecaster:
        """The network with fresh weights (PyTorch's own initialization, of torch's global random state)."""
        sizes = {key: self.architecture[key] for key in ("horizon", "hidden", "layers", "bidirectional")}
        targets, exogenous = (len(self.architecture[key]) for key in ("targets", "exogenous"))
        return GruForecaster(**sizes, targets=targets, exogenous=exogenous, dropout=dropout)

    def samples(self, folder: Path, split: str, recipe: DataRecipe) -> SeriesSamples:
        """The samples of a split."""
        windows = open_series(folder, split, window=recipe.window, horizon=recipe.horizon)
        return SeriesSamples(windows, recipe.season)

    def loss(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        """The squared error summed over all targets and rows."""
        past, future, _, _ = batch
        loss: torch.Tensor = (network(past).float() - future).square().sum()
        return loss

    def measure(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss; the absolute errors of the forecast, and of the naive one, in the targets' own units."""
        past, future, naive, unit = batch
        error = network(past).float() - future
        return torch.stack(
            [error.square().sum(), (error * unit).abs().sum(), ((naive - future) * unit).abs().sum()]
        )

    def metrics(self, means: Sequence[float]) -> dict[str, float]:
        """Loss; mean absolute error; that of the naive forecast; `skill`, the share of the naive error that is gone."""
        loss, mae, naive = means
        found = {"val_loss": loss, "val_mae": mae, "naive_mae": naive}
        return found | ({"skill": 1 - mae / naive} if naive > 0 else {})
