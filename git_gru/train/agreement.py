"""Whether all workers of a run train the same: the commit, the recipe, the versions. Machines can differ in all of it."""

import json
from collections.abc import Mapping

import torch

import git_gru
from git_gru.errors import InputError
from git_gru.train.job import Job
from git_gru.train.world import World


class DisagreementError(InputError):
    """A worker trains something else than the others."""


def facts_of(job: Job, world: World) -> dict[str, str]:
    """What must be the same on every rank; the recipe's section `launch` may differ."""
    facts = {
        "commit": job.source,
        "version of git-gru": git_gru.__version__,
        "version of torch": torch.__version__,
        "kind of device": world.device.type,
    }
    for section, keys in job.recipe.as_json().items():
        if section != "launch":
            facts |= {f"key {section}.{key}": json.dumps(value) for key, value in keys.items()}
    return facts


def require_agreement(world: World, node: str, facts: Mapping[str, str]) -> None:
    """A collective: raises `DisagreementError` on every rank, naming the node that differs, and in what.

    `facts` are this worker's, under the same names on every rank; `node` is how people know its machine.
    """
    mine = json.dumps([node, dict(facts)], ensure_ascii=False).encode()
    every = [
        json.loads(bytes(part.numpy()))
        for part in world.gather(torch.frombuffer(bytearray(mine), dtype=torch.uint8))
    ]
    first, expected = every[0]
    for rank, (other, found) in enumerate(every):
        for name, value in expected.items():
            if found.get(name) != value:
                raise DisagreementError(
                    f"the {name} on {other} (rank {rank}) is {found.get(name)}, and on {first} (rank 0) {value}",
                    hint="All nodes must train the same commit by the same recipe, with the same versions.",
                )
