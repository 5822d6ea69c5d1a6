"""The user's own PyTorch code as a task: `model.entrypoint = "package.module:function"`, from the commit's own files.

The function is called with the folder of the commit's files and gives an object that is an `OwnTask`. Its code is imported in
workers and in the process of an evaluation only, from that folder; what is installed comes first, so that no file of a
repository stands in for a module of ours.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.data import default_collate

from git_gru.errors import InputError
from git_gru.train.architecture import Architecture
from git_gru.train.corpus.source import FOLDER
from git_gru.train.recipe import DataRecipe
from git_gru.train.sharding import Indices
from git_gru.train.tasks.task import Batch


class EntrypointError(InputError):
    """An entrypoint that is not there, or does not give what it should."""


class Items(Protocol):
    """A data set in PyTorch's sense, with a length: an item is a tensor or number, or a tuple of these."""

    def __len__(self) -> int:
        """How many items there are."""

    def __getitem__(self, index: int) -> Any:
        """The item `index`."""


class OwnTask(Protocol):
    """What the user's function gives. A batch is a tuple of tensors, one for each part of an item, on the model's device."""

    metrics: Sequence[str]
    """Names of what `measure` tells besides the loss; may be empty."""

    def model(self) -> nn.Module:
        """The network, with fresh weights of torch's global random state.

        All of its parameters must take part in the loss, but those that are frozen.
        """

    def data(self, split: str) -> Items:
        """The items of `train` or `validation`."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The MEAN loss over a batch: a scalar."""

    def measure(self, model: nn.Module, batch: Batch) -> Mapping[str, float | torch.Tensor]:
        """The `metrics` as means over a validation batch; needed only where there are any."""


class OwnSamples:
    """The user's items as batches."""

    terms = 1

    def __init__(self, items: Items) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def batch(self, indices: Indices) -> Batch:
        """The items `indices`, put together by PyTorch's `default_collate`."""
        parts = default_collate([self._items[int(index)] for index in indices])
        found = (parts,) if isinstance(parts, torch.Tensor) else tuple(parts)
        if not all(isinstance(part, torch.Tensor) for part in found):
            raise EntrypointError(
                "an item of the entrypoint's data must be a tensor or number, or a tuple of these"
            )
        return found


class EntrypointTask:
    """The engine's view of the user's task; see the module's docstring."""

    def __init__(self, architecture: Architecture, data: Path) -> None:
        self.architecture = architecture
        self.carried: dict[str, torch.Tensor] = {}
        self._own = _load(architecture["entrypoint"], data / FOLDER)
        self._names = tuple(self._own.metrics)
        self.measures: tuple[str, ...] = ("loss", *self._names)

    def build(self, *, dropout: float = 0.0) -> nn.Module:
        """The user's network; `dropout` is its own affair."""
        network = self._own.model()
        if not isinstance(network, nn.Module) or not any(True for _ in network.parameters()):
            raise EntrypointError(
                f"{self.architecture['entrypoint']}: model() must give a torch.nn.Module with parameters"
            )
        return network

    def samples(self, folder: Path, split: str, recipe: DataRecipe) -> OwnSamples:
        """The user's items; there must be some."""
        samples = OwnSamples(self._own.data(split))
        if not len(samples):
            raise EntrypointError(f"{self.architecture['entrypoint']} gives no items for {split}")
        return samples

    def loss(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        """The user's mean loss times the number of items."""
        loss = self._own.loss(network, batch)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise EntrypointError(
                f"{self.architecture['entrypoint']}: loss() must give the mean over the batch, a tensor of one number"
            )
        return loss.reshape(()).float() * len(batch[0])

    def measure(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss, and the user's own measures in the order of their names."""
        found = self._own.measure(network, batch) if self._names else {}
        if missing := [name for name in self._names if name not in found]:
            raise EntrypointError(
                f"{self.architecture['entrypoint']}: measure() does not tell {missing[0]!r}"
            )
        means = [float(found[name]) * len(batch[0]) for name in self._names]
        return torch.tensor([float(self.loss(network, batch)), *means], dtype=torch.float64)

    def metrics(self, means: Sequence[float]) -> dict[str, float]:
        """`val_loss`, and `val_NAME` for each of the user's metrics."""
        return {f"val_{name}": mean for name, mean in zip(self.measures, means, strict=True)}


def _load(entrypoint: str, source: Path) -> OwnTask:
    """What the entrypoint's function gives. Raises `EntrypointError`; what the user's code raises goes through as it is."""
    name, _, function = entrypoint.partition(":")
    if str(source) not in sys.path:
        sys.path.append(str(source))
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the user's module is there, and imports one that is not
        raise EntrypointError(
            f"model.entrypoint: the commit has no module {name}",
            hint="Modules are named from the repository's root: tasks/mine.py is tasks.mine.",
        ) from error
    place = Path(module.__file__ or "").resolve()
    if not place.is_relative_to(source.resolve()):
        raise EntrypointError(
            f"model.entrypoint: another module named {name} is installed, and the commit's would never be imported",
            hint="Rename the commit's module.",
        )
    if not callable(make := getattr(module, function, None)):
        raise EntrypointError(f"model.entrypoint: {name} has no function {function}")
    own: OwnTask = make(source)
    for wanted in ("model", "data", "loss", "metrics"):
        if not hasattr(own, wanted):
            raise EntrypointError(
                f"model.entrypoint: what {entrypoint} gives has no {wanted}",
                hint="docs/entrypoint.md shows one.",
            )
    return own
