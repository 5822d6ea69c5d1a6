"""Resume states (`git_gru.git.run_states`): what of a running training they hold. `restoring` is the way back.

    optimizer.<parameter>.<key>   the optimizer's state, as it names it (`exp_avg`, `step`, …)
    random.<rank>.cpu, .cuda      the random state of torch's generators on each rank, U8
    carried.<rank>.<key>          what the task carries from one batch of the rank to the next (`Task.carried`)
    sync.<key>                    what the synchronisation strategy keeps, the same on every rank (`SyncState.shared`)
    apart.<rank>.sync.<key>       what it keeps of each rank's own (`SyncState.own`)
    apart.<rank>.optimizer.…      in place of `optimizer.…`, where each rank's optimizer has a state of its own
    balance.<key>                 the shares of the workers and what led to them (`Balancer.state`): F64 [any]
    guard.course                  how often the guard took the run back, batches left out, scale of the learning rate: F64 [3]
    weights.<name>                the weights as training has them, where a commit keeps them in fewer bits

The position in the data, the learning rate and the epoch are functions of the step, which the checkpoint's message names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple

import torch
from torch import nn

from git_gru.runs.incidents import Course
from git_gru.train.round_snapshots import WEIGHTS
from git_gru.train.sync import SyncStrategy
from git_gru.train.weights import DTYPES, RECIPE_DTYPES, TensorData, copied
from git_gru.train.world import World

OPTIMIZER, RANDOM, CARRIED = "optimizer.", "random.", "carried."
SYNC, APART = "sync.", "apart."
COURSE, BALANCE = "guard.course", "balance."


def rank_states(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    strategy: SyncStrategy,
    world: World,
    carried: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Beside the weights and the course, all of a resume state: each rank's own, and what they have in common.

    A collective: every rank calls it. Only on rank 0 the result is complete.
    """
    states = {(RANDOM, "cpu"): torch.get_rng_state()}
    if world.device.type == "cuda":
        states[RANDOM, "cuda"] = torch.cuda.get_rng_state(world.device)
    states |= {(CARRIED, key): value.cpu() for key, value in carried.items()}
    found = {
        f"{kind}{rank}.{key}": state
        for (kind, key), own in states.items()
        for rank, state in enumerate(world.gather(own))
    }
    sync, moments = strategy.state(), _optimizer_state(network, optimizer)
    apart = {f"{SYNC}{key}": tensor for key, tensor in sync.own.items()}
    if strategy.optimizers_differ:
        apart |= moments
    else:
        found |= moments
    for key, own in apart.items():
        found |= {f"{APART}{rank}.{key}": state for rank, state in enumerate(world.collect(own))}
    return found | {f"{SYNC}{key}": tensor for key, tensor in sync.shared.items()}


def balance_state(kept: Mapping[str, Sequence[float]]) -> dict[str, torch.Tensor]:
    """What `Balancer.state` gave, as part of a resume state."""
    return {f"{BALANCE}{key}": torch.tensor(values, dtype=torch.float64) for key, values in kept.items()}


def capture_round(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    shared: Mapping[str, torch.Tensor],
    balance: Mapping[str, Sequence[float]],
    course: Course,
) -> list[TensorData]:
    """A copy of what one rank has, without asking, of a resume state at the end of a round: the network's weights, its
    optimizer's state, what the strategy keeps in common (`shared`), and what `capture` keeps beside.
    """
    found = {
        f"{WEIGHTS}{name}": value if value.dtype in DTYPES.values() else value.double()
        for name, value in network.state_dict().items()
    }
    found |= _optimizer_state(network, optimizer) | balance_state(balance)
    found |= {f"{SYNC}{key}": value for key, value in shared.items()}
    found[COURSE] = torch.tensor(astuple(course), dtype=torch.float64)
    return [copied(name, value) for name, value in found.items()]


def capture(
    network: nn.Module, ranks: Mapping[str, torch.Tensor], course: Course, dtype: str
) -> list[TensorData]:
    """A copy of all that a resume needs beside the weights of a commit that keeps them as `dtype` (`fp32`, `bf16`).

    `ranks` is what `rank_states` gave, and `balance_state`.
    """
    state = [copied(name, value) for name, value in ranks.items()]
    state.append(copied(COURSE, torch.tensor(astuple(course), dtype=torch.float64)))
    if RECIPE_DTYPES[dtype] != "F32":
        state += [copied(f"{WEIGHTS}{name}", value) for name, value in network.state_dict().items()]
    return state


def _optimizer_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{OPTIMIZER}{name}.{key}": value
        for name, parameter in ordered(network, optimizer)
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def ordered(network: nn.Module, optimizer: torch.optim.Optimizer) -> list[tuple[str, nn.Parameter]]:
    """The parameters with their names, in the optimizer's order (by which it numbers them)."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return [(names[id(p)], p) for group in optimizer.param_groups for p in group["params"]]
