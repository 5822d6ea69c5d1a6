"""Bringing a training back to a checkpoint: rank 0 reads it from its store, and sends every rank what that one needs.

So only rank 0's machine must have the checkpoint, and a worker of another one, which has just come, gets all of it over the
network: a tensor at a time, to all ranks or to the one whose own it is.

With as many workers as the state was taken of, each is what it was, bit for bit. With another number of them the run goes on from
what they had in common, which is the same statistically, not bit for bit:

| kept of each rank | with another number of workers |
| --- | --- |
| weights, where they were apart | the checkpoint's: their mean, exactly summed |
| the optimizer's state, where it was apart | its mean |
| what the strategy keeps of a rank: what a compressor owes, terms of a round | none, as at the beginning |
| random state | a new one, of the seed, the step and the rank |
| what the task carried from batch to batch | none, as where a text does not go on |

A round snapshot (`round_snapshots`) has the weights that all knew and rank 0's optimizer: from it the ranks go on as another
number of them does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import nn

from git_gru.errors import RunFailedError
from git_gru.git.repository import Repository
from git_gru.git.revisions import read_model
from git_gru.git.run_states import read_state
from git_gru.runs.incidents import Course
from git_gru.store.manifest import Manifest
from git_gru.store.store import Store
from git_gru.train.job import Job
from git_gru.train.resume import APART, BALANCE, CARRIED, COURSE, OPTIMIZER, RANDOM, SYNC, ordered
from git_gru.train.round_snapshots import WEIGHTS, read_snapshot
from git_gru.train.sync import SyncState, SyncStrategy
from git_gru.train.weights import STATE_DTYPES, Described, HasTensors, check_fits, tensor_of
from git_gru.train.world import World

_OWN = "own."
_STEP_PRIME = 1_000_003
"""Keeps the seeds of one step's ranks and those of another's apart."""


class SnapshotGoneError(RunFailedError):
    """The round snapshot that the launcher has found is not there any more."""


class Tensors(HasTensors, Protocol):
    """Named tensors, and where they can be read."""

    def read(self, name: str) -> bytearray:
        """A tensor's bytes, little-endian, in C order."""


@dataclass(frozen=True)
class StoredTensors:
    """Those of a stored model."""

    store: Store
    manifest: Manifest

    @property
    def tensors(self) -> Mapping[str, Described]:
        """The manifest's."""
        return self.manifest.tensors

    def read(self, name: str) -> bytearray:
        """See `Tensors`."""
        return bytearray().join(self.store.tensor(self.manifest, name))


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A checkpoint as rank 0 has it: the model of its commit, which `where` names in messages, and its resume state; or what a
    round snapshot has of both, to which no rank's own belongs.
    """

    weights: Tensors
    state: Tensors
    where: str


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What `restore` hands back: what the rank's task carried, the guard's course, the strategy's and the balance's state."""

    carried: dict[str, torch.Tensor]
    course: Course
    sync: SyncState
    balance: dict[str, list[float]]


class _Part(NamedTuple):
    """A tensor under the name by which the rank `to` (None: every rank) knows it: the mean of some that are kept."""

    to: int | None
    name: str
    source: Tensors
    stored: tuple[str, ...]


def restore(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    strategy: SyncStrategy,
    world: World,
    kept: Kept | None,
    *,
    seed: int,
) -> Restored:
    """Gives every rank its weights, optimizer and random state back, as `capture` took them; returns the rest.

    A collective. `kept` is None on every rank but 0. `strategy` is one that has not done a step; the random state comes of `seed`
    (the recipe's, and the step) where the number of ranks is another. Raises `WeightsError` when the model does not fit.
    """
    parts = []
    if kept is not None:
        check_fits(
            {k: tuple(v.shape) for k, v in network.state_dict().items()}, kept.weights, where=kept.where
        )
        parts = list(_parts(kept, world.size))
    got = _exchanged(world, kept, parts)

    def below(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): value for name, value in got.items() if name.startswith(prefix)}

    with torch.no_grad():
        for name, weight in network.state_dict().items():
            weight.copy_(got[f"{WEIGHTS}{name}"])
    content = optimizer.state_dict()
    content["state"] = {
        number: below(f"{OPTIMIZER}{name}.") for number, (name, _) in enumerate(ordered(network, optimizer))
    }
    optimizer.load_state_dict(content)
    as_many = f"{RANDOM}cpu" in got
    if as_many:
        torch.set_rng_state(got[f"{RANDOM}cpu"])
    else:
        torch.manual_seed((seed + 1 + world.rank) % 2**63)
    if world.device.type == "cuda" and f"{RANDOM}cuda" in got:
        torch.cuda.set_rng_state(got[f"{RANDOM}cuda"], world.device)
    rollbacks, skipped, lr_scale = got[COURSE].tolist()
    return Restored(
        carried={key: value.to(world.device) for key, value in below(CARRIED).items()},
        course=Course(rollbacks=int(rollbacks), skipped=int(skipped), lr_scale=lr_scale),
        sync=SyncState(shared=below(SYNC), own=below(_OWN) if as_many else strategy.state().own),
        balance={key: values.tolist() for key, values in below(BALANCE).items()},
    )


def kept_for(job: Job, repo: Repository) -> Kept:
    """What a job goes on from, on rank 0's machine. Raises `SnapshotGoneError`, and what reading a checkpoint raises."""
    if job.round_end is not None:
        found = read_snapshot(job.folder)
        if found is None or found.step != job.round_end:
            raise SnapshotGoneError(f"the round snapshot of step {job.round_end} in {job.folder} is gone")
        return Kept(
            weights=found.weights, state=found.state, where=f"the round snapshot of step {found.step}"
        )
    assert job.start is not None
    store, where = repo.store(), f"{job.start.commit}:{job.recipe.model.path}"
    weights, state = read_model(repo, where), read_state(repo, job.start.state)
    return Kept(weights=StoredTensors(store, weights), state=StoredTensors(store, state), where=where)


def seed_after(seed: int, step: int) -> int:
    """The seed for the random states of workers that go on after `step` with none of their own."""
    return seed + _STEP_PRIME * step


def _parts(kept: Kept, size: int) -> Iterator[_Part]:
    """All that `size` ranks need of a checkpoint."""
    state = kept.state
    for name in kept.weights.tensors:
        own = f"{WEIGHTS}{name}"
        yield (
            _Part(None, own, state, (own,))
            if own in state.tensors
            else _Part(None, own, kept.weights, (name,))
        )
    workers = len({name.split(".")[1] for name in state.tensors if name.startswith(RANDOM)})
    for name in state.tensors:
        kind, _, rest = name.partition(".")
        rank, _, key = rest.partition(".")
        if name.startswith((OPTIMIZER, SYNC, COURSE, BALANCE)):
            yield _Part(None, name, state, (name,))
        elif name.startswith(WEIGHTS):
            continue
        elif workers == size:
            own = key.replace(SYNC, _OWN, 1) if name.startswith(APART) else f"{kind}.{key}"
            yield _Part(int(rank), own, state, (name,))
        elif name.startswith(f"{APART}0.{OPTIMIZER}"):
            yield _Part(None, key, state, tuple(f"{APART}{one}.{key}" for one in range(workers)))


def _exchanged(world: World, kept: Kept | None, parts: list[_Part]) -> dict[str, torch.Tensor]:
    """The tensors of the parts that are for this rank, by their names."""
    told = []
    for part in parts:
        entry = part.source.tensors[part.stored[0]]
        told.append([part.to, part.name, entry.dtype, list(entry.shape)])
    got = {}
    for number, (to, name, dtype, shape) in enumerate(world.tell(told)):
        mine = to is None or to == world.rank
        if kept is not None:
            value = _mean(parts[number])
        elif mine:
            value = torch.empty(shape, dtype=STATE_DTYPES[dtype])
        else:
            continue
        world.hand_over(value, to)
        if mine:
            got[name] = value
    return got


def _mean(part: _Part) -> torch.Tensor:
    first, *others = part.stored
    value = _read(part.source, first)
    if not others:
        return value
    total = value.double()
    for name in others:
        total += _read(part.source, name)
    return (total / len(part.stored)).to(value.dtype)


def _read(source: Tensors, name: str) -> torch.Tensor:
    return tensor_of(source.tensors[name], source.read(name))
