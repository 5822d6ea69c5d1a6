"""The default strategy: the mean gradient over the global batch at every step, by PyTorch's DistributedDataParallel.

Sent in full, in half precision, or as matrices of low rank (PowerSGD, arXiv 1905.13727, with error feedback), by PyTorch's own
hooks; eight bits and the largest gradients alone are `compressed`'s.
"""

import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from git_gru.train.recipe import SyncRecipe, TrainRecipe
from git_gru.train.sync.strategy import SyncState
from git_gru.train.sync.wire import Wire
from git_gru.train.world import World

_LEAST_EXACT = 2
"""Steps before PowerSGD begins: after the first, DistributedDataParallel arranges anew what the errors are kept by."""


class AllReduce:
    """Gradients are bucketed and summed while the backward pass still runs. One worker alone needs no wrapper.

    DDP divides the sum of the ranks' gradients by their number W. With rank r back-propagating (W / N) · Σ_{i∈r} ℓ_i, N the
    number of terms in the global batch, that mean is the gradient of (1 / N) · Σ_i ℓ_i, whatever the ranks' shares.
    """

    optimizers_differ = False

    def __init__(self, recipe: SyncRecipe, network: nn.Module, world: World) -> None:
        self._wire, self._network = Wire(world), network
        trained = [p for p in network.parameters() if p.requires_grad]
        self._size = sum(p.numel() for p in trained)
        self._number_bytes = max(p.element_size() for p in trained)
        self._graded = 0.0
        self._low_rank: LowRank | None = None
        self.module: nn.Module = network
        if world.size == 1:
            return
        # PowerSGD sends twice for each bucket, the second time from another thread: of several buckets the order of sending
        # could differ between ranks, and gloo would mix them up
        bucket = sys.maxsize >> 24 if recipe.compress == "powersgd" else None
        with warnings.catch_warnings():
            # newer versions of torch have another argument for it, which lets buffers be sent at the start
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            wrapped = DistributedDataParallel(
                network, broadcast_buffers=False, gradient_as_bucket_view=True, bucket_cap_mb=bucket
            )
        if recipe.compress == "fp16":
            wrapped.register_comm_hook(None, fp16_compress_hook)
            self._number_bytes = 2
        elif recipe.compress == "powersgd":
            start = max(recipe.warmup, _LEAST_EXACT)
            self._low_rank = LowRank(rank=recipe.rank, start=start, device=world.device)
            wrapped.register_comm_hook(self._low_rank.hook_state, powerSGD_hook)
        self.module = wrapped
        for parameter in trained:
            parameter.register_post_accumulate_grad_hook(self._note_gradient)  # type: ignore[no-untyped-call]

    def optimization(self, train: TrainRecipe) -> TrainRecipe:
        """All of it."""
        return train

    def lr_scale(self, step: int) -> float:
        """All steps are steps together."""
        return 1.0

    def weight(self, local: int, whole: int) -> float:
        """W / N; see the class."""
        return self._wire.size / whole

    def after_backward(self) -> None:
        """What the backward pass took after the last gradient was ready is waiting for other ranks."""
        if self._graded:
            self._wire.waited += time.perf_counter() - self._graded

    def after_step(self, step: int, local: int, whole: int) -> None:
        """Nothing to do: equal gradients and equal optimizers keep the weights equal."""
        sent = self._low_rank.take_count() if self._low_rank is not None else None
        self._wire.count_ring((self._size if sent is None else sent) * self._number_bytes)

    def meets(self, step: int) -> bool:
        """At every step."""
        return True

    @contextmanager
    def consolidated(self) -> Iterator[None]:
        """The weights are always the same; buffers (running means and the like) become rank 0's."""
        self._wire.share(self._network.buffers())
        yield

    def state(self) -> SyncState:
        """PowerSGD's errors and matrices."""
        return SyncState() if self._low_rank is None else self._low_rank.state()

    def restore(self, step: int, state: SyncState) -> None:
        """Gives PowerSGD its errors and matrices back."""
        if self._low_rank is not None:
            self._low_rank.restore(step, state)

    def bytes_sent(self) -> int:
        """By the sizes of what is summed."""
        return self._wire.sent

    def seconds_waited(self) -> float:
        """Of each backward pass, what came after this rank's last gradient."""
        return self._wire.waited

    def _note_gradient(self, parameter: torch.Tensor) -> None:
        """Called as each gradient is ready."""
        self._graded = time.perf_counter()


class LowRank:
    """PyTorch's PowerSGD, its state made one that can be kept. All gradients are in one bucket, of the number 0."""

    def __init__(self, *, rank: int, start: int, device: torch.device) -> None:
        self.hook_state = PowerSGDState(
            None,
            matrix_approximation_rank=rank,
            start_powerSGD_iter=start,
            orthogonalization_epsilon=1e-8,  # a column of zeros: symbols that no batch had yet
        )
        self._device = device
        self._counted = 0

    def take_count(self) -> int | None:
        """Numbers that were sent since the last call; None for all of them, as they are."""
        total = self.hook_state.total_numel_after_compression
        count, self._counted = total - self._counted, total
        return count or None

    def state(self) -> SyncState:
        """`error` of each rank; `p` and `q`, the factors that the next step begins with. Empty before it began."""
        state = self.hook_state
        if not state.error_dict:
            return SyncState()
        shared = {"p": state.p_memory_dict[0], "q": state.q_memory_dict[0]}
        return SyncState(shared=shared, own={"error": state.error_dict[0]})

    def restore(self, step: int, state: SyncState) -> None:
        """See `SyncStrategy`."""
        hook = self.hook_state
        hook.iter = step
        hook.rng = np.random.RandomState(0)
        hook.error_dict, hook.p_memory_dict, hook.q_memory_dict = (
            {0: tensors[name].to(self._device, copy=True)} if name in tensors else {}
            for name, tensors in (("error", state.own), ("p", state.shared), ("q", state.shared))
        )
