"""Resume states (`git_gru.git.run_states`) between a running training and the store.

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
from dataclasses import astuple, dataclass

import torch
from torch import nn

from git_gru.errors import InputError
from git_gru.runs.incidents import Course
from git_gru.store.manifest import Manifest
from git_gru.store.store import Store
from git_gru.train.sync import SyncState, SyncStrategy
from git_gru.train.weights import RECIPE_DTYPES, TensorData, copied, loaded
from git_gru.train.world import World

_OPTIMIZER, _RANDOM, _CARRIED, _WEIGHTS = "optimizer.", "random.", "carried.", "weights."
_SYNC, _APART = "sync.", "apart."
_COURSE, _BALANCE = "guard.course", "balance."


class ResumeError(InputError):
    """A resume state that does not fit the run."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What `restore` hands back: what the rank's task carried, the guard's course, the strategy's and the balance's state."""

    carried: dict[str, torch.Tensor]
    course: Course
    sync: SyncState
    balance: dict[str, list[float]]


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
    states = {(_RANDOM, "cpu"): torch.get_rng_state()}
    if world.device.type == "cuda":
        states[_RANDOM, "cuda"] = torch.cuda.get_rng_state(world.device)
    states |= {(_CARRIED, key): value.cpu() for key, value in carried.items()}
    found = {
        f"{kind}{rank}.{key}": state
        for (kind, key), own in states.items()
        for rank, state in enumerate(world.gather(own))
    }
    sync, moments = strategy.state(), _optimizer_state(network, optimizer)
    apart = {f"{_SYNC}{key}": tensor for key, tensor in sync.own.items()}
    if strategy.optimizers_differ:
        apart |= moments
    else:
        found |= moments
    for key, own in apart.items():
        found |= {f"{_APART}{rank}.{key}": state for rank, state in enumerate(world.collect(own))}
    return found | {f"{_SYNC}{key}": tensor for key, tensor in sync.shared.items()}


def balance_state(kept: Mapping[str, Sequence[float]]) -> dict[str, torch.Tensor]:
    """What `Balancer.state` gave, as part of a resume state."""
    return {f"{_BALANCE}{key}": torch.tensor(values, dtype=torch.float64) for key, values in kept.items()}


def capture(
    network: nn.Module, ranks: Mapping[str, torch.Tensor], course: Course, dtype: str
) -> list[TensorData]:
    """A copy of all that a resume needs beside the weights of a commit that keeps them as `dtype` (`fp32`, `bf16`).

    `ranks` is what `rank_states` gave, and `balance_state`.
    """
    state = [copied(name, value) for name, value in ranks.items()]
    state.append(copied(_COURSE, torch.tensor(astuple(course), dtype=torch.float64)))
    if RECIPE_DTYPES[dtype] != "F32":
        state += [copied(f"{_WEIGHTS}{name}", value) for name, value in network.state_dict().items()]
    return state


def restore(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    world: World,
    store: Store,
    state: Manifest,
    *,
    where: str,
) -> Restored:
    """Gives this rank its weights, optimizer and random state back, as `capture` took them; returns the rest.

    Raises `ResumeError`, naming `where`, when the state does not fit the run.
    """
    workers = {name.split(".")[1] for name in state.tensors if name.startswith(_RANDOM)}
    if len(workers) != world.size:
        raise ResumeError(f"{where} is the state of {len(workers)} workers, and the run has {world.size}")
    with torch.no_grad():
        for name, weight in network.state_dict().items():
            if f"{_WEIGHTS}{name}" in state.tensors:
                weight.copy_(loaded(store, state, f"{_WEIGHTS}{name}"))

    def below(prefix: str) -> dict[str, torch.Tensor]:
        names = [name for name in state.tensors if name.startswith(prefix)]
        return {name.removeprefix(prefix): loaded(store, state, name) for name in names}

    own = f"{_APART}{world.rank}."
    differ = any(name.startswith(f"{own}{_OPTIMIZER}") for name in state.tensors)
    moments = f"{own if differ else ''}{_OPTIMIZER}"
    content = optimizer.state_dict()
    content["state"] = {
        number: below(f"{moments}{name}.") for number, (name, _) in enumerate(_ordered(network, optimizer))
    }
    optimizer.load_state_dict(content)
    torch.set_rng_state(loaded(store, state, f"{_RANDOM}{world.rank}.cpu"))
    if world.device.type == "cuda":
        torch.cuda.set_rng_state(loaded(store, state, f"{_RANDOM}{world.rank}.cuda"), world.device)
    rollbacks, skipped, lr_scale = loaded(store, state, _COURSE).tolist()
    return Restored(
        carried={key: value.to(world.device) for key, value in below(f"{_CARRIED}{world.rank}.").items()},
        course=Course(rollbacks=int(rollbacks), skipped=int(skipped), lr_scale=lr_scale),
        sync=SyncState(shared=below(_SYNC), own=below(f"{own}{_SYNC}")),
        balance={key: values.tolist() for key, values in below(_BALANCE).items()},
    )


def _optimizer_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{_OPTIMIZER}{name}.{key}": value
        for name, parameter in _ordered(network, optimizer)
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def _ordered(network: nn.Module, optimizer: torch.optim.Optimizer) -> list[tuple[str, nn.Parameter]]:
    """The parameters with their names, in the optimizer's order (by which it numbers them)."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return [(names[id(p)], p) for group in optimizer.param_groups for p in group["params"]]
