"""Whether all workers of a run compute by the same means: machines can differ."""

import json
from collections.abc import Mapping

import torch

from git_gru.train.welcome import DisagreementError
from git_gru.train.world import World


def facts_of(world: World) -> dict[str, str]:
    """What must be the same on every rank, and only a worker can tell: the launchers have seen to the rest (`assisting`)."""
    return {"version of torch": torch.__version__, "kind of device": world.device.type}


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
                    hint="All nodes need the same versions and the same kind of device (launch.device).",
                )
