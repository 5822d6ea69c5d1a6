"""The state of training in memory: what the guard goes back to.

A *state* is a copy of the network's weights and buffers, of the optimizer's and the strategy's state and of the random states,
all on the CPU.
Restoring it puts every tensor's bits back, in place, so that whatever wraps the network (DistributedDataParallel, fused
optimizers) goes on with the tensors that it knows.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from git_gru.train.sync import SyncState, SyncStrategy


@dataclass(frozen=True)
class State:
    """A copy, after `step`; see the module. It costs the memory of the weights and of the optimizer's moments."""

    step: int

    network: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    sync: SyncState
    random: torch.Tensor
    device_random: torch.Tensor | None

    @classmethod
    def capture(
        cls, step: int, network: nn.Module, optimizer: torch.optim.Optimizer, strategy: SyncStrategy
    ) -> "State":
        """Copies everything as it is now."""
        device = next(network.parameters()).device
        sync = strategy.state()
        return cls(
            step=step,
            network={name: _copied(tensor) for name, tensor in network.state_dict().items()},
            optimizer=_copied(optimizer.state_dict()),
            sync=SyncState(shared=_copied(dict(sync.shared)), own=_copied(dict(sync.own))),
            random=torch.get_rng_state(),
            device_random=torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        )

    def restore(self, network: nn.Module, optimizer: torch.optim.Optimizer, strategy: SyncStrategy) -> None:
        """Makes all of them and the random states what they were; the state can be restored again."""
        network.load_state_dict(self.network)
        optimizer.load_state_dict(copy.deepcopy(self.optimizer))  # it may keep the very tensors it is given
        strategy.restore(self.step, self.sync)
        torch.set_rng_state(self.random)
        if self.device_random is not None:
            torch.cuda.set_rng_state(self.device_random, next(network.parameters()).device)


def _copied(value: Any) -> Any:
    """`value` with every tensor in it copied to the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(entry) for entry in value)
    return value
