"""What torchrun starts: a byte-level GRU trained by a framework's own loop. `python launched_script.py SETTINGS` (JSON).

Prints `{"tokens_per_s"}` on rank 0, over the last three quarters of the steps.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Model(nn.Module):
    def __init__(self, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, embedding)
        self.gru = nn.GRU(embedding, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, 256)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        logits = self.head(self.gru(self.embedding(windows[:, :-1]))[0])
        return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


class Windows(torch.utils.data.Dataset[torch.Tensor]):
    """Consecutive windows of the files' bytes."""

    def __init__(self, folder: Path, window: int) -> None:
        text = b"".join(path.read_bytes() for part in "ab" for path in sorted((folder / part).glob("*.py")))
        self.data = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self.window = window

    def __len__(self) -> int:
        return (len(self.data) - 1) // self.window

    def __getitem__(self, index: int) -> torch.Tensor:
        start = index * self.window
        return self.data[start : start + self.window + 1].long()


def loader(settings: dict[str, Any], rank: int, size: int) -> Any:
    windows = Windows(Path(settings["data"]), settings["window"])
    sampler = torch.utils.data.DistributedSampler(windows, size, rank, drop_last=True)
    return torch.utils.data.DataLoader(windows, settings["batch"] // size, sampler=sampler, drop_last=True)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.003, weight_decay=0.01, fused=True)


class Clock:
    """Counts steps; the first quarter warms up."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings, self.step, self.start = settings, 0, 0.0

    def tick(self) -> bool:
        """Called after each step; whether that was the last."""
        self.step += 1
        if self.step == self.settings["steps"] // 4:
            self.start = time.perf_counter()
        return self.step == self.settings["steps"]

    def tell(self) -> None:
        seconds = time.perf_counter() - self.start
        steps = self.settings["steps"] - self.settings["steps"] // 4
        rate = steps * self.settings["batch"] * self.settings["window"] / seconds
        if os.environ["RANK"] == "0":
            print(json.dumps({"tokens_per_s": rate}), flush=True)


def ddp(model: Model, settings: dict[str, Any], clock: Clock) -> None:
    torch.distributed.init_process_group("gloo")
    wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = optimizer_of(wrapped)
    for windows in loader(settings, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])):
        loss = wrapped(windows)
        loss.backward()
        nn.utils.clip_grad_norm_(wrapped.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if clock.tick():
            break
    clock.tell()


def accelerate(model: Model, settings: dict[str, Any], clock: Clock) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    windows = Windows(Path(settings["data"]), settings["window"])
    batches = torch.utils.data.DataLoader(
        windows, settings["batch"] // accelerator.num_processes, shuffle=True, drop_last=True
    )
    prepared, optimizer, batches = accelerator.prepare(model, optimizer_of(model), batches)
    for batch in batches:
        loss = prepared(batch)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if clock.tick():
            break
    clock.tell()


def lightning(model: Model, settings: dict[str, Any], clock: Clock) -> None:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback

    class Wrapped(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
            loss: torch.Tensor = self.model(batch)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer_of(self)

    class Tick(Callback):
        def on_train_batch_end(self, *arguments: Any, **named: Any) -> None:
            if clock.tick():
                clock.tell()

    trainer = Trainer(
        accelerator="cpu", strategy="ddp", devices=int(os.environ["WORLD_SIZE"]), max_steps=settings["steps"],
        gradient_clip_val=1.0, callbacks=[Tick()], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    windows = Windows(Path(settings["data"]), settings["window"])
    size = int(os.environ["WORLD_SIZE"])
    trainer.fit(
        Wrapped(),
        torch.utils.data.DataLoader(windows, settings["batch"] // size, shuffle=True, drop_last=True),
    )


def main() -> None:
    settings = json.loads(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Model(settings["embedding"], settings["hidden"], settings["layers"])
    {"ddp": ddp, "accelerate": accelerate, "lightning": lightning}[settings["framework"]](
        model, settings, Clock(settings)
    )


if __name__ == "__main__":
    main()
