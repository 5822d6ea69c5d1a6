"""The fixed history that the storage benchmarks run on: real checkpoints of a real GRU, made once and kept.

A two-layer byte-level GRU language model (embedding 512, hidden 1024: 11.4 M weights, 45.7 MB in fp32) trained by AdamW at its
default learning rate on the running Python's standard library. Checkpoints: every 20 steps (the thresholds are for these), every
100 and every 500; the last of the first series fine-tuned for 20 steps in its head alone; all of them also cast to bf16; and a
larger model (hidden 3200, 411 MB) over a few steps, for speed.

Run as a module to make it: `python -m benchmarks.history FOLDER`.
"""

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WARMUP = 200
SERIES = {20: 11, 100: 11, 500: 3}
"""Spacing in steps -> number of checkpoints, all counted from step WARMUP of one run."""

LARGE_VERSIONS = 5
WINDOW, BATCH = 16, 8


def corpus(limit: int = 8_000_000) -> bytes:
    """The standard library's sources, sorted by name, up to `limit` bytes."""
    text = bytearray()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text += path.read_bytes()
        if len(text) >= limit:
            break
    return bytes(text[:limit])


def make_model(hidden: int, embedding: int = 512) -> Any:
    """A two-layer byte-level GRU with an embedding and a linear head."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(256, embedding)
            self.gru = torch.nn.GRU(embedding, hidden, 2, batch_first=True)
            self.head = torch.nn.Linear(hidden, 256)

        def forward(self, x: Any) -> Any:
            return self.head(self.gru(self.embedding(x))[0])

    return Model()


def train(model: Any, parameters: Any, data: Any, seed: int, window: int, batch: int) -> Iterator[float]:
    """Takes one AdamW step at each `next` and yields the loss."""
    import torch

    optimizer = torch.optim.AdamW(parameters)
    generator = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(0, len(data) - window - 1, (batch,), generator=generator)
        windows = torch.stack([data[s : s + window + 1] for s in starts]).long()
        loss = torch.nn.functional.cross_entropy(
            model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        yield loss.item()


def save(model: Any, folder: Path, name: str) -> None:
    """Saves the weights in fp32 as `name`, and cast to bf16 beside it."""
    import torch
    from safetensors.torch import save_file

    state = {key: tensor.detach().contiguous() for key, tensor in model.state_dict().items()}
    save_file(state, folder / f"{name}.safetensors")
    half = {key: tensor.to(torch.bfloat16) for key, tensor in state.items()}
    save_file(half, folder / f"{name}-bf16.safetensors")


def make(folder: Path) -> None:
    """Makes what is missing of the history in `folder`."""
    import torch

    # moments of bytes that never occur decay into numbers that a CPU is slow at
    torch.set_flush_denormal(True)
    folder.mkdir(parents=True, exist_ok=True)
    for part in (_small, _large):
        done = folder / f"complete{part.__name__}"
        if not done.exists():
            part(folder)
            done.touch()


def _data() -> Any:
    import numpy as np
    import torch

    return torch.from_numpy(np.frombuffer(corpus(), dtype=np.uint8).copy())


def _small(folder: Path) -> None:
    """All series of the 45.7 MB model, from one run."""
    import torch

    torch.manual_seed(0)
    data = _data()
    model = make_model(1024)
    steps = train(model, list(model.parameters()), data, 0, WINDOW, BATCH)
    wanted = {WARMUP + spacing * at for spacing, count in SERIES.items() for at in range(count)}
    for step in range(1, max(wanted) + 1):
        loss = next(steps)
        if step in wanted:
            save(model, folder, f"step-{step:05d}")
            print(f"step {step}: loss {loss:.3f}", file=sys.stderr, flush=True)
        if step == WARMUP + 20 * (SERIES[20] - 1):
            _head_only(model, data, folder)


def _large(folder: Path) -> None:
    """A few versions of the 411 MB model, two steps apart."""
    import torch

    torch.manual_seed(1)
    model = make_model(3200)
    steps = train(model, list(model.parameters()), _data(), 1, 16, 2)
    for at in range(LARGE_VERSIONS):
        for _ in range(2):
            next(steps)
        save(model, folder, f"large-{at}")
        print(f"large model, version {at}", file=sys.stderr, flush=True)


def _head_only(model: Any, data: Any, folder: Path) -> None:
    """Fine-tunes a copy in its head alone."""
    import copy

    tuned = copy.deepcopy(model)
    for name, parameter in tuned.named_parameters():
        parameter.requires_grad_(name.startswith("head"))
    steps = train(tuned, list(tuned.head.parameters()), data, 2, WINDOW, BATCH)
    for _ in range(20):
        next(steps)
    save(tuned, folder, "head-only")


def series(folder: Path, spacing: int, suffix: str = "") -> list[Path]:
    """The checkpoints of one spacing, oldest first."""
    return [folder / f"step-{WARMUP + spacing * at:05d}{suffix}.safetensors" for at in range(SERIES[spacing])]


if __name__ == "__main__":
    make(Path(sys.argv[1]))
