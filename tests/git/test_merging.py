"""Models merged through a store, without Git: what is taken, computed, kept in conflict, and under which
header.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from git_gru.git.merging import Counts, ModelConflict, ModelMerge, Rules, merge_models
from git_gru.store.chunks import CHUNK_BYTES
from git_gru.store.ingest import ingest
from git_gru.store.manifest import Manifest
from git_gru.store.restore import restore
from git_gru.store.store import Store
from git_gru.tensors.strategies import STRATEGIES, Strategy

Arrays = dict[str, np.ndarray]
AVERAGE = Rules(strategy=STRATEGIES["average"], weights=(0.5, 0.5), labels=("ours", "theirs"))
APPLY = Rules(strategy=STRATEGIES["apply"], weights=(0.5, 0.5), labels=("ours", "theirs"))


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "gru")
    yield opened
    opened.close()


class Models:
    """Puts versions into a store, merges them, and reads what came out."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def put(self, arrays: Arrays | bytes, metadata: dict[str, str] | None = None) -> Manifest:
        data = arrays if isinstance(arrays, bytes) else save(arrays, metadata)
        return ingest(self.store, io.BytesIO(data), expect_safetensors=False).manifest

    def bytes(self, manifest: Manifest) -> bytes:
        return b"".join(bytes(piece) for piece in restore(self.store, manifest))

    def arrays(self, merged: ModelMerge) -> Arrays:
        return load(self.bytes(merged.manifest))

    def merge(self, rules: Rules, base: Arrays | None, *sides: Arrays) -> ModelMerge:
        before = None if base is None else self.put(base)
        merged = merge_models(self.store, before, [self.put(side) for side in sides], rules)
        assert self.store.has_model(merged.manifest.digest)
        return merged


@pytest.fixture
def models(store: Store) -> Models:
    return Models(store)


def test_each_tensor_by_its_own_rule(models: Models) -> None:
    base = {"same": f32(1, 2), "mine": f32(0), "yours": f32(0), "both": f32(0, 0), "steps": np.array(100)}
    ours = {**base, "mine": f32(7), "both": f32(2, 4), "steps": np.array(130), "added": f32(9)}
    theirs = {**base, "yours": f32(8), "both": f32(4, 0), "steps": np.array(105)}
    merged = models.merge(AVERAGE, base, ours, theirs)
    result = models.arrays(merged)
    assert {name: result[name].tolist() for name in result} == {
        "same": [1, 2],
        "mine": [7],
        "yours": [8],
        "both": [3, 2],
        "steps": 135,
        "added": [9],
    }
    assert merged.counts == Counts(unchanged=1, taken=(2, 1), combined=1, counted=1)
    assert merged.conflicts == ()


def test_a_change_is_applied_onto_ours(models: Models) -> None:
    base, ours, theirs = ({"w": f32(*values)} for values in ((1, 1), (5, 1), (2, 0)))
    assert models.arrays(models.merge(APPLY, base, ours, theirs))["w"].tolist() == [6, 0]


def test_weights_count_towards_theirs(models: Models) -> None:
    rules = Rules(strategy=STRATEGIES["average"], weights=(0.75, 0.25), labels=("ours", "theirs"))
    merged = models.merge(rules, {"w": f32(9)}, {"w": f32(0)}, {"w": f32(4)})
    assert models.arrays(merged)["w"].tolist() == [1]


def test_the_mean_of_many_sides(models: Models) -> None:
    rules = Rules(strategy=STRATEGIES["average"], weights=(0.25,) * 4, labels=("a", "b", "c", "d"))
    base = {"w": f32(0), "only": f32(0), "n": np.array(1)}
    sides = [{"w": f32(x), "only": f32(0), "n": np.array(1)} for x in (1, 2, 3)]
    merged = models.merge(rules, base, *sides, {"w": f32(6), "only": f32(5), "n": np.array(4)})
    result = models.arrays(merged)
    assert (result["w"].tolist(), result["only"].tolist(), int(result["n"])) == ([3], [5], 4)
    assert merged.counts == Counts(taken=(0, 0, 0, 2), combined=1)


def test_a_tensor_that_only_some_sides_have_is_averaged_among_them(models: Models) -> None:
    rules = Rules(strategy=STRATEGIES["average"], weights=(1.0, 0.0, 0.0), labels=("a", "b", "c"))
    base = {"w": f32(0)}
    merged = models.merge(rules, base, base, {**base, "new": f32(2)}, {**base, "new": f32(6)})
    assert models.arrays(merged)["new"].tolist() == [4]


def test_without_a_base_models_that_differ_conflict(models: Models) -> None:
    merged = models.merge(APPLY, None, {"w": f32(1), "e": f32(1)}, {"w": f32(3), "e": f32(1)})
    assert models.arrays(merged)["w"].tolist() == [1]
    assert merged.counts == Counts(conflicts=1)
    (conflict,) = merged.conflicts
    assert "no version in common" in str(conflict)


def test_a_tensor_that_both_sides_added_is_averaged(models: Models) -> None:
    base = {"w": f32(1)}
    merged = models.merge(APPLY, base, {"w": f32(1), "new": f32(1)}, {"w": f32(1), "new": f32(3)})
    assert models.arrays(merged)["new"].tolist() == [2]
    assert merged.counts == Counts(unchanged=1, taken=(0, 0), averaged=1)


def test_conflicts_keep_ours_and_the_rest_is_merged(models: Models) -> None:
    base = {"w": f32(0), "ids": np.array([1, 2]), "gone": f32(1), "lost": f32(1), "shape": f32(1, 2)}
    ours = {"w": f32(2), "ids": np.array([1, 3]), "gone": f32(2), "shape": f32(1, 2, 3)}
    theirs = {"w": f32(4), "ids": np.array([1, 4]), "lost": f32(2), "shape": f32(9, 9)}
    merged = models.merge(AVERAGE, base, ours, theirs)
    result = models.arrays(merged)
    assert {name: result[name].tolist() for name in result} == {
        "w": [3],
        "ids": [1, 3],
        "gone": [2],
        "shape": [1, 2, 3],
    }
    assert set(merged.conflicts) == {
        ModelConflict("ids", "ours and theirs have different integers (I64)"),
        ModelConflict("gone", "deleted by theirs and changed by ours"),
        ModelConflict("lost", "deleted by ours and changed by theirs"),
        ModelConflict("shape", "ours and theirs have different shapes, [3] and [2]"),
    }
    assert merged.counts.conflicts == 4


def test_a_counter_that_overflows_is_a_conflict(models: Models) -> None:
    base, ours, theirs = ({"n": np.array(value, np.uint8)} for value in (0, 200, 100))
    merged = models.merge(AVERAGE, base, ours, theirs)
    assert models.arrays(merged)["n"] == 200
    assert [str(conflict) for conflict in merged.conflicts] == [
        "tensor n: the counts add up to 300, which U8 cannot hold"
    ]
    assert merged.counts == Counts(taken=(0, 0), conflicts=1)


def test_one_side_that_changed_is_taken_with_every_byte(models: Models) -> None:
    """Header spelling included: here with a padding that no writer of ours makes."""
    plain = save({"w": f32(1)})
    length = int.from_bytes(plain[:8], "little")
    padded = (length + 64).to_bytes(8, "little") + plain[8 : 8 + length] + b" " * 64 + plain[8 + length :]
    base, ours = models.put({"w": f32(0)}), models.put({"w": f32(0)})
    theirs = models.put(padded)
    for sides, taken in (([ours, theirs], (0, 1)), ([theirs, ours], (1, 0))):
        merged = merge_models(models.store, base, sides, APPLY)
        assert models.bytes(merged.manifest) == padded
        assert merged.counts == Counts(taken=taken)


def test_a_merge_keeps_a_header_that_fits(models: Models) -> None:
    keys = {"format": "pt"}  # safetensors writes several in any order
    base, ours, theirs = (models.put({"w": f32(value)}, keys) for value in (0, 2, 4))
    merged = merge_models(models.store, base, [ours, theirs], AVERAGE)
    assert models.bytes(merged.manifest) == save({"w": f32(3)}, keys)
    assert merged.manifest.header == base.header


def test_metadata_is_merged_key_by_key(models: Models) -> None:
    base = models.put({"w": f32(0)}, {"format": "pt", "lr": "1"})
    ours = models.put({"w": f32(2)}, {"format": "pt", "lr": "2", "mine": "m"})
    theirs = models.put({"w": f32(4)}, {"format": "pt", "lr": "3", "yours": "y"})
    merged = merge_models(models.store, base, [ours, theirs], AVERAGE)
    assert models.store.header(merged.manifest).metadata == {
        "format": "pt",
        "lr": "2",
        "mine": "m",
        "yours": "y",
    }
    assert merged.disputed == ("lr",) and merged.conflicts == ()


def test_tensors_added_on_both_sides_get_a_header_of_their_own(models: Models) -> None:
    base = {"w": f32(0), "empty": np.zeros((0, 3), np.float32)}
    merged = models.merge(AVERAGE, base, {**base, "a": f32(1)}, {**base, "b": np.array([2.5])})
    result = models.arrays(merged)
    assert result["a"].tolist() == [1] and result["b"].tolist() == [2.5]
    assert result["empty"].shape == (0, 3)
    assert models.put(models.bytes(merged.manifest)) == merged.manifest


def test_files_that_are_not_safetensors_conflict_unless_one_changed(models: Models) -> None:
    base, ours, theirs = (models.put(data) for data in (b"old", b"mine", b"yours"))
    merged = merge_models(models.store, base, [ours, theirs], AVERAGE)
    assert merged.manifest == ours and merged.counts == Counts(conflicts=1)
    assert str(merged.conflicts[0]) == "ours and theirs differ, and not all versions are safetensors files"
    assert merge_models(models.store, base, [base, theirs], AVERAGE).manifest == theirs
    assert merge_models(models.store, None, [ours, ours], AVERAGE).manifest == ours


def test_chunks_that_need_no_arithmetic_are_never_read(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four chunks: changed by nobody, by ours, by theirs, by both. Applying reads the last alone, averaging
    three.
    """
    each = CHUNK_BYTES // 4
    base, ours, theirs = (np.zeros(4 * each, np.float32) for _ in range(3))
    for index in range(4):  # no two chunks are equal by chance
        for side in (base, ours, theirs):
            side[index * each] = index
    ours[each : 2 * each] += 1
    theirs[2 * each : 3 * each] += 2
    ours[3 * each :] += 4
    theirs[3 * each :] += 8
    versions = [models.put({"w": side}) for side in (base, ours, theirs)]
    reads: list[str] = []
    original = Store.chunk

    def chunk(self: Store, id: str) -> bytes:
        reads.append(id)
        return original(self, id)

    monkeypatch.setattr(Store, "chunk", chunk)
    for rules, expected in ((APPLY, ours + theirs - base), (AVERAGE, (ours + theirs) / 2)):
        reads.clear()
        merged = merge_models(models.store, versions[0], versions[1:], rules)
        of_tensor = [id for id in reads if id in {c for v in versions for c in v.tensors["w"].chunks}]
        assert len(of_tensor) == (3 if rules is APPLY else 6)
        assert np.array_equal(models.arrays(merged)["w"], expected)
        assert merged.manifest.tensors["w"].chunks[0] == versions[0].tensors["w"].chunks[0]


def test_a_strategy_for_whole_tensors_is_given_them_whole(models: Models) -> None:
    seen: list[int] = []

    def first_minus_mean(sides):  # type: ignore[no-untyped-def]
        seen.append(len(sides.values[0]))
        return sides.values[0] - sides.values[0].mean()

    strategy = Strategy(name="x", summary="", verb="x", combine=first_minus_mean, whole_tensor=True)
    rules = Rules(strategy=strategy, weights=(0.5, 0.5), labels=("ours", "theirs"))
    count = CHUNK_BYTES // 4 + 3
    ours, theirs = np.full(count, 5, np.float32), np.full(count, 6, np.float32)
    merged = models.merge(rules, {"w": np.zeros(count, np.float32)}, {"w": ours}, {"w": theirs})
    assert seen == [count]
    assert not models.arrays(merged)["w"].any()
    assert len(merged.manifest.tensors["w"].chunks) == 2
