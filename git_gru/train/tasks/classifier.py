"""A GRU that gives a sequence of bytes one of several labels.

    bytes [b, t] → embedding [b, t, E] → GRU, `layers` × hidden H, one or both directions → [b, H·d] → linear → logits [b, C]

Sequences of a batch are padded to the longest and packed. The loss is cross-entropy in nats per sequence.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from git_gru.train.architecture import Architecture
from git_gru.train.corpus.labelled import Labelled, open_labelled
from git_gru.train.recipe import DataRecipe
from git_gru.train.sharding import Indices
from git_gru.train.tasks.encoder import GruEncoder
from git_gru.train.tasks.task import Batch


class GruClassifier(nn.Module):
    """The network."""

    def __init__(
        self, *, symbols: int, classes: int, embedding: int, hidden: int, layers: int, bidirectional: bool,
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embedding = nn.Embedding(symbols, embedding)
        self.encoder = GruEncoder(
            features=embedding, hidden=hidden, layers=layers, bidirectional=bidirectional, dropout=dropout
        )
        self.head = nn.Linear(self.encoder.size, classes)

    def forward(self, symbols: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Symbols int64 [b, t] with their lengths int64 [b] → logits [b, classes]."""
        logits: torch.Tensor = self.head(self.encoder(self.embedding(symbols), lengths))
        return logits


class LabelledSamples:
    """Batches of (symbols int64 [n, longest], lengths int64 [n], labels int64 [n])."""

    terms = 1

    def __init__(self, labelled: Labelled) -> None:
        self._labelled = labelled

    def __len__(self) -> int:
        return len(self._labelled)

    def batch(self, indices: Indices) -> Batch:
        """The sequences `indices`, padded with zeros to the longest of them."""
        sequences = [self._labelled.sequence(int(index)) for index in indices]
        lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        padded = np.zeros((len(sequences), lengths.max()), dtype=np.int64)
        for row, sequence in zip(padded, sequences, strict=True):
            row[: len(sequence)] = sequence
        labels = self._labelled.labels[indices].astype(np.int64)
        return torch.from_numpy(padded), torch.from_numpy(lengths), torch.from_numpy(labels)


class ClassifierTask:
    """Labels for sequences; see the module's docstring."""

    measures: tuple[str, ...] = ("loss", "correct")

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.carried: dict[str, torch.Tensor] = {}

    def build(self, *, dropout: float = 0.0) -> GruClassifier:
        """The network with fresh weights (PyTorch's own initialization, of torch's global random state)."""
        keys = ("symbols", "embedding", "hidden", "layers", "bidirectional")
        sizes = {key: self.architecture[key] for key in keys}
        return GruClassifier(**sizes, classes=len(self.architecture["classes"]), dropout=dropout)

    def samples(self, folder: Path, split: str, recipe: DataRecipe) -> LabelledSamples:
        """The labelled sequences of a split."""
        return LabelledSamples(open_labelled(folder, split))

    def loss(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        """Cross-entropy summed over the sequences, in nats."""
        logits, labels = self._logits(network, batch)
        return functional.cross_entropy(logits, labels, reduction="sum")

    def measure(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss, and how many sequences got their label."""
        logits, labels = self._logits(network, batch)
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        return torch.stack([loss, (logits.argmax(1) == labels).sum().to(loss.dtype)])

    def metrics(self, means: Sequence[float]) -> dict[str, float]:
        """The loss, and the share of sequences that got their label."""
        loss, accuracy = means
        return {"val_loss": loss, "val_accuracy": accuracy}

    def _logits(self, network: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        symbols, lengths, labels = batch
        return network(symbols, lengths.cpu()).float(), labels
