"""A GRU that predicts the next symbol of a text: a byte, or a symbol of the tokenizer in the architecture.

    symbols [b, t] → embedding [b, t, E] → GRU, `layers` × hidden H → [b, t, H] → linear → logits [b, t, symbols]

The loss is cross-entropy in nats per symbol. Each window starts from a zero state; with `data.stateful` a window in training that
goes on where the one before it in the same row of the batch ended starts from that one's last state, without gradients
through it (truncated back-propagation through time).
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from git_gru.train.architecture import Architecture
from git_gru.train.corpus import TRAIN
from git_gru.train.corpus.text import Windows, open_windows, split_file
from git_gru.train.corpus.tokens import symbol_bytes
from git_gru.train.recipe import DataRecipe
from git_gru.train.sharding import Indices
from git_gru.train.tasks.task import Batch


class GruLanguageModel(nn.Module):
    """The network. With `tied`, the output layer multiplies by the embedding's weights, which are then kept once."""

    def __init__(
        self, *, symbols: int, embedding: int, hidden: int, layers: int, tied: bool, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, embedding)
        self.gru = nn.GRU(embedding, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, symbols) if not tied else None
        self.bias = nn.Parameter(torch.zeros(symbols)) if tied else None
        nn.init.normal_(self.embedding.weight, std=hidden**-0.5 if tied else 1.0)

    def forward(
        self, symbols: torch.Tensor, state: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Symbols int64 [b, t] and a state [layers, b, H] (zero by default) → logits [b, t, symbols] and the next state."""
        out, state = self.gru(self.embedding(symbols), state)
        out = self.dropout(out)
        if self.head is not None:
            return self.head(out), state
        return functional.linear(out, self.embedding.weight, self.bias), state


class TextSamples:
    """Windows of a text as tensors: int64 [n, window + 1]; `numbered`, also which windows they are: int64 [n]."""

    def __init__(self, windows: Windows, *, numbered: bool = False) -> None:
        self._windows, self._numbered = windows, numbered
        self.terms = windows.window

    def __len__(self) -> int:
        return len(self._windows)

    def batch(self, indices: Indices) -> Batch:
        """The windows `indices`."""
        symbols = torch.from_numpy(self._windows.gather(indices)).long()
        return (symbols, torch.from_numpy(indices)) if self._numbered else (symbols,)


class LanguageModelTask:
    """Next-symbol prediction; see the module's docstring."""

    measures: tuple[str, ...] = ("loss", "bytes")

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.carried: dict[str, torch.Tensor] = {}
        tokenizer = architecture.get("tokenizer")
        self._lengths: torch.Tensor | None = None  # of each symbol in bytes; None: they are bytes
        if tokenizer is not None:
            self._lengths = torch.tensor(
                [len(one) for one in symbol_bytes(tokenizer, "the model's tokenizer")]
            )

    def build(self, *, dropout: float = 0.0) -> GruLanguageModel:
        """The network with fresh weights (PyTorch's own initialization, of torch's global random state)."""
        sizes = {key: self.architecture[key] for key in ("symbols", "embedding", "hidden", "layers", "tied")}
        return GruLanguageModel(**sizes, dropout=dropout)

    def samples(self, folder: Path, split: str, recipe: DataRecipe) -> TextSamples:
        """The windows of a prepared text."""
        numbered = recipe.stateful and split == TRAIN
        windows = open_windows(split_file(folder, split), recipe.window, self.architecture["symbols"])
        return TextSamples(windows, numbered=numbered)

    def loss(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        """Cross-entropy summed over the symbols of int64 [n, window + 1], in nats. Numbered windows carry the state on."""
        symbols, *numbers = batch
        if not numbers:
            return _cross_entropy(network(symbols[:, :-1])[0], symbols)
        logits, state = network(symbols[:, :-1], self._state(numbers[0]))
        self.carried = {"state": state.detach(), "window": numbers[0]}
        return _cross_entropy(logits, symbols)

    def _state(self, numbers: torch.Tensor) -> torch.Tensor | None:
        """What the windows `numbers` start from: [layers, b, H], zero in rows that do not go on. None: all zero."""
        before = self.carried.get("window")
        if before is None or before.shape != numbers.shape:
            return None
        return self.carried["state"] * (numbers == before + 1)[None, :, None]

    def measure(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss, and how many bytes were predicted."""
        (symbols,) = batch
        loss = _cross_entropy(network(symbols[:, :-1])[0], symbols)
        predicted = symbols[:, 1:]
        bytes_predicted = (
            predicted.numel() if self._lengths is None else int(self._lengths[predicted.cpu()].sum())
        )
        return torch.stack([loss, loss.new_tensor(bytes_predicted)])

    def metrics(self, means: Sequence[float]) -> dict[str, float]:
        """The loss, perplexity per symbol, and bits per byte."""
        loss, length = means
        return {
            "val_loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "bits_per_byte": loss / length / math.log(2),
        }


def _cross_entropy(logits: torch.Tensor, symbols: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits.float().flatten(0, 1), symbols[:, 1:].flatten(), reduction="sum")
