"""Collectives over the main process group that count what this rank sends and how long it waits. Without other ranks: nothing."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from git_gru.train.world import World


class Wire:
    """One rank's end. `sent`: bytes, without what protocols add; `waited`: seconds."""

    def __init__(self, world: World) -> None:
        self.size = world.size
        self.sent = 0
        self.waited = 0.0

    def add_up(self, vector: torch.Tensor) -> None:
        """Replaces `vector` by its sum over the ranks, the same bits on every rank."""
        if self.size > 1:
            with self.waiting():
                dist.all_reduce(vector)
            self.count_ring(vector.numel() * vector.element_size())

    def count_ring(self, size: int) -> None:
        """Counts an all-reduce of `size` bytes: around a ring, every rank sends (W − 1) / W of them twice."""
        self.sent += 2 * (self.size - 1) * size // self.size

    def scatter(self, parts: torch.Tensor) -> torch.Tensor:
        """`parts` [ranks, …]: row i goes to rank i; gives what came here, by the rank that it came from."""
        if self.size == 1:
            return parts
        came = torch.empty_like(parts)
        with self.waiting():
            dist.all_to_all_single(came, parts)
        self.sent += (self.size - 1) * parts[0].numel() * parts.element_size()
        return came

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        """`part` of every rank, by rank: [ranks, …]."""
        parts = part.new_empty(self.size, *part.shape)
        if self.size == 1:
            parts[0] = part
            return parts
        with self.waiting():
            dist.all_gather(list(parts.unbind()), part)
        self.sent += (self.size - 1) * part.numel() * part.element_size()
        return parts

    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Gives every rank rank 0's `tensors`, in place. For small or rare things: it is not counted in `sent`."""
        if self.size > 1:
            with self.waiting():
                for tensor in tensors:
                    values = tensor.detach().contiguous().reshape(-1)
                    dist.broadcast(values.view(torch.uint8), 0)  # as bytes: gloo does not know every dtype
                    tensor.detach().copy_(values.reshape(tensor.shape))

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What is done within it counts as waited for."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.waited += time.perf_counter() - start
