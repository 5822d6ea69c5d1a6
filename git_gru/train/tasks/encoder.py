"""A GRU that reads a whole sequence and gives one vector for it: the last state of its top layer, of both directions."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence


class GruEncoder(nn.Module):
    """Sequences [b, t, `features`] → codes [b, `size`], with `size` = hidden × directions."""

    def __init__(
        self, *, features: int, hidden: int, layers: int, bidirectional: bool, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.directions = 2 if bidirectional else 1
        self.size = hidden * self.directions
        self.gru = nn.GRU(
            features,
            hidden,
            layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, sequences: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """`lengths` (int64 [b], on the CPU, at least 1) says how much of each sequence counts; by default all of it.

        Sequences are packed, so that what stands behind a sequence's end changes nothing, in either direction.
        """
        if lengths is not None:
            packed = pack_padded_sequence(sequences, lengths, batch_first=True, enforce_sorted=False)
            _, state = self.gru(packed)
        else:
            _, state = self.gru(sequences)
        top = state[-self.directions :]  # [directions, b, hidden]
        code: torch.Tensor = self.dropout(top.transpose(0, 1).flatten(1))
        return code
