"""Next year's sunspots from the last 32 years', by a convolution over time: a network that is no GRU, in git-gru's runs.

`git gru train` calls `task` with the folder of the commit's files.
"""

import csv
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

WINDOW = 32
VALIDATION_YEARS = 60


class Convolutions(nn.Module):
    """Years [b, 1, WINDOW] → the next one [b], as a change from the last."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(1, channels, kernel_size=5, stride=2), nn.GELU(),
            nn.Conv1d(channels, channels, kernel_size=5, stride=2), nn.GELU(),
            nn.Flatten(), nn.Linear(channels * 5, 1),
        )  # fmt: skip

    def forward(self, past: torch.Tensor) -> torch.Tensor:
        last = past[:, :, -1:]
        return (last.flatten(1) + self.body(past - last))[:, 0]


class Sunspots:
    """Network, data, loss and metrics; docs/entrypoint.md says what each must be."""

    metrics = ("error", "error_of_same_as_last_year")

    def __init__(self, file: Path) -> None:
        with file.open(newline="") as opened:
            numbers = torch.tensor([float(row["sunactivity"]) for row in csv.DictReader(opened)])
        self.scale = float(numbers[:-VALIDATION_YEARS].std())
        windows = (numbers / self.scale).unfold(0, WINDOW + 1, 1)  # [samples, WINDOW + 1]
        self.pasts, self.nexts = windows[:, None, :-1].contiguous(), windows[:, -1].contiguous()

    def model(self) -> nn.Module:
        return Convolutions()

    def data(self, split: str) -> TensorDataset:
        part = slice(-VALIDATION_YEARS) if split == "train" else slice(-VALIDATION_YEARS, None)
        return TensorDataset(self.pasts[part], self.nexts[part])

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        past, coming = batch
        return nn.functional.mse_loss(model(past), coming)

    def measure(self, model: nn.Module, batch: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        past, coming = batch
        mine, naive = model(past), past[:, 0, -1]
        return {
            "error": (mine - coming).abs().mean() * self.scale,
            "error_of_same_as_last_year": (naive - coming).abs().mean() * self.scale,
        }


def task(files: Path) -> Sunspots:
    return Sunspots(files / "data" / "sunspots.csv")
