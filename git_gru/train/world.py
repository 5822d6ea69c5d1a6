"""The workers of a run as one of them sees them: its rank, their number, its device, and small collectives.

*rank* counts over all machines, *local rank* on one. Weights and gradients travel over the main process group (gloo or
NCCL); decisions and sums of a few numbers over a gloo group of their own, so that they never wait for a GPU.
"""

import datetime
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from git_gru.errors import InputError

TIMEOUT = datetime.timedelta(minutes=10)


@dataclass(frozen=True)
class World:
    """One worker's place. `control` is the gloo group; None in a world without process groups (one process alone)."""

    rank: int
    size: int
    device: torch.device
    control: dist.ProcessGroup | None = None
    local_rank: int = 0

    @classmethod
    def alone(cls, device: str = "cpu") -> "World":
        """A world of one process, for evaluation and tests."""
        return cls(0, 1, torch.device(device))

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """The sums over all ranks of `numbers` (float64), the same list on every rank."""
        values = torch.tensor(numbers, dtype=torch.float64)
        self.add_up(values)
        return [float(value) for value in values]

    def add_up(self, values: torch.Tensor) -> None:
        """Replaces a float64 CPU tensor by its sum over all ranks, in place."""
        if self.control is not None and self.size > 1:
            dist.all_reduce(values, group=self.control)

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds on any rank, the same answer on every rank."""
        return self.ask(flag)()

    def ask(self, flag: bool) -> Callable[[], bool]:
        """As `any`, but it waits where the answer is taken: after a while of other work that is there already."""
        if self.control is None or self.size == 1:
            return lambda: flag
        values = torch.tensor([float(flag)])
        work = dist.all_reduce(values, group=self.control, async_op=True)

        def answer() -> bool:
            work.wait()
            return bool(values[0] > 0)

        return answer

    def gather(self, values: torch.Tensor) -> list[torch.Tensor]:
        """`values` (a CPU tensor, of one dtype and number of dimensions on all ranks) of every rank, on every rank."""
        if self.control is None or self.size == 1:
            return [values]
        shapes = [shape.tolist() for shape in self._gather_equal(torch.tensor(values.shape))]
        padded = values.new_zeros(max(math.prod(shape) for shape in shapes))
        padded[: values.numel()] = values.flatten()
        parts = self._gather_equal(padded)
        return [part[: math.prod(shape)].reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def collect(self, values: torch.Tensor) -> list[torch.Tensor]:
        """`values` (of one dtype and shape on all ranks) of every rank, on the CPU of rank 0; an empty list elsewhere."""
        own = values.detach().cpu().contiguous()
        if self.control is None or self.size == 1:
            return [own]
        parts = [torch.empty_like(own) for _ in range(self.size)] if self.rank == 0 else []
        dist.gather(own, parts or None, group=self.control)
        return parts

    def tell(self, value: Any) -> Any:
        """Rank 0's `value`, plain JSON values, on every rank; what the others pass is not looked at."""
        if self.control is None or self.size == 1:
            return value
        text = bytearray(json.dumps(value).encode() if self.rank == 0 else b"")
        length = torch.tensor(len(text))
        dist.broadcast(length, 0, group=self.control)
        data = (
            torch.frombuffer(text, dtype=torch.uint8) if text else torch.empty(int(length), dtype=torch.uint8)
        )
        dist.broadcast(data, 0, group=self.control)
        return json.loads(bytes(data.numpy()))

    def hand_over(self, values: torch.Tensor, to: int | None) -> None:
        """Replaces `values` (a contiguous CPU tensor, of one dtype and shape everywhere) by rank 0's on rank `to`, or on all."""
        if self.control is None or self.size == 1 or to == 0 or not values.numel():
            return
        data = values.reshape(-1).view(torch.uint8)  # gloo does not know every dtype
        if to is None:
            dist.broadcast(data, 0, group=self.control)
        elif self.rank == 0:
            dist.send(data, to, group=self.control)
        elif self.rank == to:
            dist.recv(data, 0, group=self.control)

    def _gather_equal(self, values: torch.Tensor) -> list[torch.Tensor]:
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values, group=self.control)
        return parts

    def barrier(self) -> None:
        """Waits until every rank is here."""
        self.sum([0.0])


def choose_device(wanted: str, *, local_rank: int, local_size: int) -> torch.device:
    """The device of a worker: a GPU of its own where the recipe's `launch.device` and the machine allow it."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if there < local_size:
        raise InputError(
            f"{local_size} workers need a GPU each, and this machine has {there}: "
            f'use --nproc {max(1, there)}, or set launch.device = "cpu"'
        )
    return torch.device("cuda", local_rank)


def join(wanted: str, *, rank: int, size: int, local_rank: int, local_size: int) -> World:
    """Joins the process groups that `torch.distributed.run` has prepared in the environment."""
    device = choose_device(wanted, local_rank=local_rank, local_size=local_size)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", timeout=TIMEOUT, device_id=device)
        return World(rank, size, device, dist.new_group(backend="gloo", timeout=TIMEOUT), local_rank)
    dist.init_process_group("gloo", timeout=TIMEOUT)
    return World(rank, size, device, dist.new_group(backend="gloo", timeout=TIMEOUT), local_rank)
