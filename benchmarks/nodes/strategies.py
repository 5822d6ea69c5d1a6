"""What is compared: models, strategies as keys of `[sync]`, and what they send over a whole run."""

from collections.abc import Mapping
from typing import Any

from benchmarks.nodes.text import Model
from git_gru.train.recipe import SyncRecipe
from git_gru.train.sync.sparse import GROUP, SPAN
from git_gru.train.sync.topk import density

LARGE = Model(embedding=256, hidden=1024, layers=2, window=32, batch=16)
"""More than ten million weights, for whatever is counted in bytes or seconds."""

SMALL = Model(embedding=32, hidden=128, layers=1, window=32, batch=64)
"""For losses alone."""

LR = 0.016
"""A good learning rate for `SMALL`, as the part on accuracy finds it."""

POWERSGD_EXACT = 3
"""Steps that go before PowerSGD's first one, where there is no warm-up."""

EVERY = 50
"""Steps of a round."""

DILOCO: Mapping[str, Any] = {"strategy": "diloco", "every": EVERY}
OVERLAP = {"fragments": 2, "overlap": 10}
TOPK = {"compress": "topk", "density": 0.0078}

STEPS = 1600
"""Of a whole run of `SMALL`; an eighth of them are the warm-up of the strategies that have one."""

STRATEGIES: Mapping[str, Mapping[str, Any]] = {
    "allreduce": {},
    "allreduce fp16": {"compress": "fp16"},
    "allreduce int8": {"compress": "int8"},
    "allreduce powersgd": {"compress": "powersgd"},
    "allreduce topk": TOPK,
    "local-sgd": {"strategy": "local-sgd", "every": EVERY},
    "diloco": DILOCO,
    "diloco fp16": {**DILOCO, "compress": "fp16"},
    "diloco int8": {**DILOCO, "compress": "int8"},
    "diloco overlapped": {**DILOCO, **OVERLAP},
    "diloco int8 overlapped": {**DILOCO, **OVERLAP, "compress": "int8"},
}


def whole_run_bytes(sent: Mapping[str, float], name: str) -> float:
    """Bytes that a node sends in a run of `STEPS`, its warm-up too, by what each strategy sends in a step after it.

    The warm-up of topk has a falling density, that of the others is allreduce.
    """
    sync, warmup = STRATEGIES[name], STEPS // 8
    if sync.get("compress") == "topk":
        recipe = SyncRecipe(**{**sync, "warmup": warmup})
        chosen, present = (
            2 + 4 / GROUP,
            1 / SPAN,
        )  # bytes for each number that is sent, and for each that there is
        messages = [chosen * density(recipe, step) + present for step in range(1, STEPS + 1)]
        return sent[name] * sum(messages) / messages[-1]
    exact = warmup if "strategy" in sync or sync.get("compress") == "powersgd" else 0
    return exact * sent["allreduce"] + (STEPS - exact) * sent[name]
