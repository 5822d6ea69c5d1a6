"""A training that goes on from a resume state is the training that was never interrupted, bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from git_gru.runs.incidents import Course
from git_gru.store.ingest import ingest_tensors
from git_gru.store.store import Store

torch = pytest.importorskip("torch")

STEPS = 6
COURSE = Course(rollbacks=1, skipped=7, lr_scale=0.3)
BALANCE = {"shares": [3.0, 1.0], "seconds": [], "looked": [4.0]}


class Training:
    """A network with dropout and a carried state, trained on batches that follow from the step."""

    def __init__(self, optimizer: str, dtype: str = "fp32", seed: int = 1) -> None:
        from git_gru.train.architecture import architecture_of
        from git_gru.train.engine import build_optimizer
        from git_gru.train.recipe import ModelRecipe, SyncRecipe, TrainRecipe
        from git_gru.train.sync import build_strategy
        from git_gru.train.tasks import task_of
        from git_gru.train.world import World

        torch.manual_seed(seed)
        self.world, self.dtype = World.alone(), dtype
        self.task = task_of(architecture_of(ModelRecipe(embedding=4, hidden=6, layers=2), {"symbols": 256}))
        self.network = self.task.build(dropout=0.4)
        recipe = TrainRecipe(optimizer=optimizer, lr=0.05)
        self.optimizer = build_optimizer(self.network, recipe, self.world.device)
        self.strategy = build_strategy(SyncRecipe(), recipe, self.network, self.world)

    def train(self, first: int, last: int) -> None:
        for step in range(first, last + 1):
            batch = torch.from_numpy(np.random.default_rng(step).integers(0, 256, (3, 9)))
            rows = torch.arange(3) * 100 + step
            self.task.loss(self.network, (batch, rows)).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def ranks(self) -> dict[str, Any]:
        from git_gru.train.resume import rank_states

        return rank_states(self.network, self.optimizer, self.strategy, self.world, self.task.carried)

    def keep(self, store: Store) -> tuple[Any, Any]:
        from git_gru.train.resume import balance_state, capture
        from git_gru.train.weights import snapshot

        state = capture(self.network, self.ranks() | balance_state(BALANCE), COURSE, self.dtype)
        return ingest_tensors(store, snapshot(self.network, self.dtype), {}), ingest_tensors(store, state, {})

    def go_on(self, store: Store, weights: Any, state: Any) -> None:
        from git_gru.train.restoring import Kept, StoredTensors, restore

        kept = Kept(weights=StoredTensors(store, weights), state=StoredTensors(store, state), where="m")
        restored = restore(self.network, self.optimizer, self.strategy, self.world, kept, seed=3)
        self.task.carried = restored.carried
        self.balance = restored.balance
        assert restored.course == COURSE

    def weights(self) -> list[bytes]:
        return [tensor.numpy().tobytes() for tensor in self.network.state_dict().values()]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_it_goes_on_bit_for_bit(optimizer: str, dtype: str, tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    whole = Training(optimizer, dtype)
    whole.train(1, STEPS // 2)
    kept = whole.keep(store)
    whole.train(STEPS // 2 + 1, STEPS)
    other = Training(optimizer, dtype, seed=9)
    other.train(1, 1)  # it need not be fresh
    other.go_on(store, *kept)
    assert other.balance == BALANCE
    other.train(STEPS // 2 + 1, STEPS)
    assert other.weights() == whole.weights()


def test_a_state_is_a_copy(tmp_path: Path) -> None:
    from git_gru.train.resume import capture

    training = Training("adamw")
    training.train(1, 2)
    taken = capture(training.network, training.ranks(), COURSE, "fp32")
    before = [bytes(data) for *_, data in taken]
    training.train(3, 4)
    assert [bytes(data) for *_, data in taken] == before
    names = {name for name, *_ in taken}
    assert {"optimizer.embedding.weight.exp_avg_sq", "random.0.cpu"} <= names
    assert not any(name.startswith("weights.") for name in names)


@pytest.mark.parametrize("apart", [False, True])
def test_another_number_of_workers_goes_on_from_what_they_had_in_common(apart: bool, tmp_path: Path) -> None:
    from git_gru.train.resume import capture
    from git_gru.train.weights import snapshot

    store = Store.open(tmp_path)
    training = Training("adamw")
    training.train(1, 2)
    ranks = training.ranks()
    moments = {name: ranks[name] for name in ranks if name.startswith("optimizer.")}
    ranks["random.1.cpu"] = ranks["random.0.cpu"]
    if apart:
        ranks = {name: value for name, value in ranks.items() if name not in moments}
        ranks |= {f"apart.0.{name}": value for name, value in moments.items()}
        ranks |= {f"apart.1.{name}": 3 * value for name, value in moments.items()}
        ranks |= {f"apart.{rank}.sync.owed": torch.ones(4) for rank in (0, 1)}
    state = ingest_tensors(store, capture(training.network, ranks, COURSE, "fp32"), {})
    weights = ingest_tensors(store, snapshot(training.network, "fp32"), {})
    others = [Training("adamw", seed=9) for _ in range(2)]
    drawn = []
    for other in others:
        other.go_on(store, weights, state)
        drawn.append(torch.rand(3).tolist())
        assert other.weights() == training.weights()
        assert other.task.carried == {}
        found = {name: value for name, value in other.ranks().items() if name in moments}
        assert found.keys() == moments.keys()
        assert all(torch.equal(found[name], moments[name] * (2 if apart else 1)) for name in moments)
    assert drawn[0] == drawn[1], "of the seed alone"
