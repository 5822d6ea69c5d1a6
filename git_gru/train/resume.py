"""Resume states (`git_gru.git.run_states`) between a running training and the store.

    optimizer.<parameter>.<key>   the optimizer's state, as it names it (`exp_avg`, `step`, …)
    random.<rank>.cpu, .cuda      the random state of torch's generators on each rank, U8
    carried.<rank>.<key>          what the task carries from one batch of the rank to the next (`Task.carried`)
    guard.course                  how often the guard took the run back, batches left out, scale of the learning rate: F64 [3]
    weights.<name>                the weights as training has them, where a commit keeps them in fewer bits

The position in the data, the learning rate and the epoch are functions of the step, which the checkpoint's message names.
"""

from collections.abc import Mapping
from dataclasses import astuple

import torch
from torch import nn

from git_gru.errors import InputError
from git_gru.runs.incidents import Course
from git_gru.store.manifest import Manifest
from git_gru.store.store import Store
from git_gru.train.weights import RECIPE_DTYPES, TensorData, copied, loaded
from git_gru.train.world import World

_OPTIMIZER, _RANDOM, _CARRIED, _WEIGHTS = "optimizer.", "random.", "carried.", "weights."
_COURSE = "guard.course"


class ResumeError(InputError):
    """A resume state that does not fit the run."""


def rank_states(world: World, carried: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What each rank has of its own, by names, the same on every rank. A collective: every rank calls it."""
    states = {(_RANDOM, "cpu"): torch.get_rng_state()}
    if world.device.type == "cuda":
        states[_RANDOM, "cuda"] = torch.cuda.get_rng_state(world.device)
    states |= {(_CARRIED, key): value.cpu() for key, value in carried.items()}
    return {
        f"{kind}{rank}.{key}": state
        for (kind, key), own in states.items()
        for rank, state in enumerate(world.gather(own))
    }


def capture(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    ranks: Mapping[str, torch.Tensor],
    course: Course,
    dtype: str,
) -> list[TensorData]:
    """A copy of all that a resume needs beside the weights of a commit that keeps them as `dtype` (`fp32`, `bf16`)."""
    state = [
        copied(f"{_OPTIMIZER}{name}.{key}", value)
        for name, parameter in _ordered(network, optimizer)
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    ]
    state += [copied(name, value) for name, value in ranks.items()]
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
) -> tuple[dict[str, torch.Tensor], Course]:
    """Gives this rank back what `capture` took; returns what its task carried, and the guard's course.

    Raises `ResumeError`, naming `where`, when the state does not fit the run.
    """
    workers = {name.split(".")[1] for name in state.tensors if name.startswith(_RANDOM)}
    if len(workers) != world.size:
        raise ResumeError(f"{where} is the state of {len(workers)} workers, and the run has {world.size}")
    with torch.no_grad():
        for name, weight in network.state_dict().items():
            if f"{_WEIGHTS}{name}" in state.tensors:
                weight.copy_(loaded(store, state, f"{_WEIGHTS}{name}"))
    content = optimizer.state_dict()
    content["state"] = {
        number: {
            tensor.removeprefix(start): loaded(store, state, tensor)
            for tensor in state.tensors
            if tensor.startswith(start)
        }
        for number, start in enumerate(f"{_OPTIMIZER}{name}." for name, _ in _ordered(network, optimizer))
    }
    optimizer.load_state_dict(content)
    torch.set_rng_state(loaded(store, state, f"{_RANDOM}{world.rank}.cpu"))
    if world.device.type == "cuda":
        torch.cuda.set_rng_state(loaded(store, state, f"{_RANDOM}{world.rank}.cuda"), world.device)
    mine = f"{_CARRIED}{world.rank}."
    carried = {
        name.removeprefix(mine): loaded(store, state, name).to(world.device)
        for name in state.tensors
        if name.startswith(mine)
    }
    rollbacks, skipped, lr_scale = loaded(store, state, _COURSE).tolist()
    return carried, Course(rollbacks=int(rollbacks), skipped=int(skipped), lr_scale=lr_scale)


def _ordered(network: nn.Module, optimizer: torch.optim.Optimizer) -> list[tuple[str, nn.Parameter]]:
    """The parameters with their names, in the optimizer's order (by which it numbers them)."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return [(names[id(p)], p) for group in optimizer.param_groups for p in group["params"]]
