"""Snapshots of a round's end: the file, what makes it useless, and a training that goes on from one."""

from pathlib import Path
from typing import Any

import pytest

from git_gru.runs.incidents import Course
from git_gru.train.rewinding import round_end_after
from git_gru.train.round_snapshots import SNAPSHOT_FILE, SnapshotWriter, discard, read_snapshot

TENSORS = [
    ("weights.a", "F32", (2,), memoryview(b"12345678")),
    ("sync.momentum", "U8", (3,), memoryview(b"abc")),
]


def write(folder: Path, step: int) -> None:
    writer = SnapshotWriter(folder)
    assert writer.is_due()
    writer.write(step, TENSORS)
    writer.settle()
    assert not writer.is_due()


def test_a_snapshot_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_snapshot(tmp_path) is None
    for step in (4, 8):
        write(tmp_path, step)
        found = read_snapshot(tmp_path)
        assert found is not None
        assert found.step == step
        assert (list(found.weights.tensors), list(found.state.tensors)) == (["a"], ["sync.momentum"])
        assert (found.weights.read("a"), found.state.read("sync.momentum")) == (b"12345678", b"abc")
    assert [path.name for path in tmp_path.iterdir()] == [SNAPSHOT_FILE]
    discard(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_part_of_a_snapshot_is_one(tmp_path: Path) -> None:
    write(tmp_path, 8)
    path = tmp_path / SNAPSHOT_FILE
    whole = path.read_bytes()
    for torn in (*(whole[:length] for length in range(len(whole))), whole + b"x"):
        path.write_bytes(torn)
        assert round_end_after(0, tmp_path) is None
        assert not path.exists()


@pytest.mark.parametrize(("checkpoint", "expected"), [(0, 8), (7, 8), (8, None), (9, None)])
def test_only_one_that_is_newer_than_the_checkpoint_counts(
    checkpoint: int, expected: int | None, tmp_path: Path
) -> None:
    write(tmp_path, 8)
    (tmp_path / f"{SNAPSHOT_FILE}.new").write_bytes(b"of one that was killed")
    assert round_end_after(checkpoint, tmp_path) == expected
    assert (read_snapshot(tmp_path) is not None) == (expected is not None)


def test_a_full_disk_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 4)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    write(tmp_path, 8)
    found = read_snapshot(tmp_path)
    assert found is not None
    assert found.step == 4
    assert [path.name for path in tmp_path.iterdir()] == [SNAPSHOT_FILE]


@pytest.mark.parametrize(
    "sync", [{"strategy": "local-sgd"}, {"strategy": "diloco"}, {"strategy": "diloco", "fragments": 2}]
)
def test_a_training_goes_on_from_what_all_ranks_know(sync: dict[str, Any], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from git_gru.train.engine import build_optimizer
    from git_gru.train.recipe import SyncRecipe, TrainRecipe
    from git_gru.train.restoring import Kept, restore
    from git_gru.train.resume import capture_round
    from git_gru.train.sync import build_strategy
    from git_gru.train.sync.local import LocalSteps
    from git_gru.train.world import World

    class Training:
        def __init__(self, seed: int) -> None:
            torch.manual_seed(seed)
            self.network = torch.nn.BatchNorm1d(5)  # it counts batches in integers
            recipe = SyncRecipe(warmup=2, every=3, **sync)
            self.world = World.alone()
            self.strategy = build_strategy(recipe, TrainRecipe(), self.network, self.world)
            self.optimizer = build_optimizer(self.network, TrainRecipe(lr=0.1), self.world.device)

        def train(self, first: int, last: int) -> None:
            for step in range(first, last + 1):
                x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
                self.strategy.module(x).pow(3).sum().backward()
                self.strategy.after_backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
                self.strategy.after_step(step, 4, 4)

        def weights(self) -> dict[str, Any]:
            return {name: value.clone() for name, value in self.network.state_dict().items()}

        def moments(self) -> list[Any]:
            return [self.optimizer.state[one]["exp_avg"] for one in self.network.parameters()]

    course, balance = Course(rollbacks=1, skipped=7, lr_scale=0.3), {"shares": [4.0]}
    training, other = Training(1), Training(9)
    assert isinstance(training.strategy, LocalSteps)
    assert [step for step in range(12) if training.strategy.ends_round(step)] == [2, 5, 8, 11]
    training.train(1, 8)
    own = training.weights()
    with training.strategy.agreed() as shared:
        agreed = training.weights()
        taken = capture_round(training.network, training.optimizer, shared, balance, course)
    assert all(torch.equal(value, own[name]) for name, value in training.weights().items())
    writer = SnapshotWriter(tmp_path)
    writer.write(8, taken)
    writer.settle()
    found = read_snapshot(tmp_path)
    assert found is not None
    kept = Kept(weights=found.weights, state=found.state, where="m")
    restored = restore(other.network, other.optimizer, other.strategy, other.world, kept, seed=3)
    other.strategy.restore(8, restored.sync)
    assert (restored.course, restored.balance, restored.carried) == (course, balance, {})
    assert all(torch.equal(value, agreed[name]) for name, value in other.weights().items())
    assert all(torch.equal(*pair) for pair in zip(training.moments(), other.moments(), strict=True))
    if "fragments" not in sync:  # all that was known: it goes on as if nothing had happened
        for one in (training, other):
            one.train(9, 14)
        assert all(torch.equal(value, training.weights()[name]) for name, value in other.weights().items())
    writer.forget()
    assert read_snapshot(tmp_path) is None
