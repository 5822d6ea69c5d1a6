"""Strategies and the copying rules on exact values, and the exactness that facts about float arithmetic
promise.
"""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_gru.tensors.arrays import BLOCK, layout_of
from git_gru.tensors.combine import Job, Tally, WeightsError, combine, normalised, same_chunk
from git_gru.tensors.strategies import STRATEGIES, Sides, Strategy, UnknownStrategyError, strategy_named

AVERAGE, APPLY = STRATEGIES["average"], STRATEGIES["apply"]
NUMPY = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
}


def raw(dtype: str, *values: float) -> bytes:
    return np.array(values, dtype=np.float64).astype(NUMPY[dtype]).tobytes()


def run(
    strategy: Strategy,
    dtype: str,
    base: bytes | None,
    *sides: bytes,
    weights: tuple[float, ...] = (0.5, 0.5),
) -> bytes:
    return combine(Job(tensor="t", dtype=dtype, strategy=strategy, weights=weights), base, sides)[0]


# ---- average


@pytest.mark.parametrize("dtype", NUMPY)
def test_average_of_two(dtype: str) -> None:
    assert run(AVERAGE, dtype, None, raw(dtype, 1, -2, 0), raw(dtype, 3, 2, 4)) == raw(dtype, 2, 0, 2)


def test_average_is_weighted_towards_the_second_side() -> None:
    result = run(AVERAGE, "F32", None, raw("F32", 0, 8), raw("F32", 4, 0), weights=(0.75, 0.25))
    assert result == raw("F32", 1, 6)


def test_average_of_three_and_uneven_weights() -> None:
    sides = [raw("F32", 3, 0), raw("F32", 6, 0), raw("F32", 9, 10)]
    assert run(AVERAGE, "F32", None, *sides, weights=(1 / 3, 1 / 3, 1 / 3)) == raw("F32", 6, 10 / 3)
    assert run(AVERAGE, "F32", None, *sides, weights=(0.5, 0.5, 0)) == raw("F32", 4.5, 0)


def test_a_weight_of_one_is_that_side_exactly() -> None:
    small, huge = raw("F32", 1.0, 0.1), raw("F32", 1e30, math.inf)
    assert run(AVERAGE, "F32", None, huge, small, weights=(0, 1)) == small
    assert run(AVERAGE, "F32", None, small, huge, weights=(1, 0)) == small


def test_average_ignores_the_base() -> None:
    """Elements that only one side changed are averaged like the rest: the rules hold per tensor."""
    base, ours, theirs = raw("F32", 0, 0), raw("F32", 2, 0), raw("F32", 0, 4)
    assert run(AVERAGE, "F32", base, ours, theirs) == raw("F32", 1, 2)


bits = st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=40)


@given(bits, st.sampled_from(["F16", "BF16"]), st.floats(0, 1), st.integers(2, 4))
def test_average_of_equal_sides_is_that_bit_for_bit(
    pattern: list[int], dtype: str, weight: float, count: int
) -> None:
    side = np.array(pattern, dtype="<u2").tobytes()
    weights = normalised([1 - weight, *[weight] * (count - 1)])
    assert run(AVERAGE, dtype, None, *[side] * count, weights=weights) == side


@given(st.lists(st.tuples(st.floats(width=32), st.floats(width=32)), min_size=1, max_size=30))
def test_average_is_symmetric_and_correctly_rounded(pairs: list[tuple[float, float]]) -> None:
    left, right = (raw("F32", *side) for side in zip(*pairs, strict=True))
    forth, back = run(AVERAGE, "F32", None, left, right), run(AVERAGE, "F32", None, right, left)
    for (a, b), x, y in zip(pairs, np.frombuffer(forth, "<f4"), np.frombuffer(back, "<f4"), strict=True):
        if math.isfinite(a) and math.isfinite(b):
            assert x == y
            # The exact mean lies between its neighbours; x must be as near as any float32.
            mean = np.float64(a) + (np.float64(b) - np.float64(a)) / 2
            with np.errstate(over="ignore"):
                assert abs(x - mean) <= abs(np.nextafter(x, np.float32(np.inf)) - mean)
                assert abs(x - mean) <= abs(np.nextafter(x, np.float32(-np.inf)) - mean)
        else:
            assert not math.isfinite(x) and not math.isfinite(y)


# ---- apply


@pytest.mark.parametrize("dtype", NUMPY)
def test_apply_adds_the_change(dtype: str) -> None:
    base, ours, theirs = raw(dtype, 1, 2, 3), raw(dtype, 2, 2, 4), raw(dtype, 1, 4, 5)
    assert run(APPLY, dtype, base, ours, theirs) == raw(dtype, 2, 4, 6)


def test_apply_on_the_same_change_adds_it_twice() -> None:
    assert run(APPLY, "F32", raw("F32", 1), raw("F32", 2), raw("F32", 2)) == raw("F32", 3)


def test_apply_of_three_sides_adds_all_changes() -> None:
    sides = [raw("F32", 2, 1), raw("F32", 5, 1), raw("F32", 0, 9)]
    assert run(APPLY, "F32", raw("F32", 1, 1), *sides) == raw("F32", 5, 9)


def test_apply_without_a_base_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="base"):
        run(APPLY, "F32", None, raw("F32", 1), raw("F32", 2))


words = {
    dtype: st.integers(0, 256 ** layout_of(dtype).width - 1)
    for dtype in ("F64", "F32", "BF16", "F16", "F8_E4M3")
}


@given(st.data(), st.sampled_from(sorted(words)))
def test_reverting_the_newest_change_gives_the_parents_exact_bits(data: st.DataObject, dtype: str) -> None:
    """H == C: whatever C did to P, NaN payloads and signed zeros included, P comes back (every bit pattern
    is tried).
    """
    pairs = data.draw(st.lists(st.tuples(words[dtype], words[dtype]), min_size=1, max_size=50))
    parent, commit = (np.array(side, layout_of(dtype).bits).tobytes() for side in zip(*pairs, strict=True))
    assert run(APPLY, dtype, commit, commit, parent) == parent


@given(st.data(), st.sampled_from(sorted(words)))
def test_each_element_changed_on_one_side_keeps_that_sides_bits(data: st.DataObject, dtype: str) -> None:
    triples = data.draw(
        st.lists(st.tuples(words[dtype], words[dtype], st.booleans()), min_size=1, max_size=50)
    )
    kind = layout_of(dtype).bits
    base = np.array([old for old, _, _ in triples], kind)
    new = np.array([new for _, new, _ in triples], kind)
    mine = np.array([here for _, _, here in triples])
    ours, theirs = np.where(mine, new, base), np.where(mine, base, new)
    assert run(APPLY, dtype, base.tobytes(), ours.tobytes(), theirs.tobytes()) == new.tobytes()


def test_reverting_an_older_change_is_one_rounding_away() -> None:
    rng = np.random.default_rng(1)
    parent = rng.normal(size=1000).astype("<f4")
    commit = (parent + rng.normal(scale=0.01, size=1000)).astype("<f4")
    head = (commit + rng.normal(scale=0.01, size=1000)).astype("<f4")
    result = run(APPLY, "F32", commit.tobytes(), head.tobytes(), parent.tobytes())
    exact = head.astype("f8") - commit + parent
    assert np.array_equal(np.frombuffer(result, "<f4"), exact.astype("<f4"))


# ---- what holds for all


def test_unchanged_non_finite_elements_are_copied() -> None:
    nan = np.array([0x7FC0BEEF, 0x7F800000, 0xFF800000, 0x80000000], "<u4").tobytes()
    zero = raw("F32", 0, 0, 0, 0)
    assert run(AVERAGE, "F32", zero, nan, nan) == nan
    assert run(APPLY, "F32", nan, nan, zero) == zero
    assert run(APPLY, "F32", zero, nan, zero) == nan
    assert run(APPLY, "F32", nan, nan, nan) == nan


def test_the_tally_counts_what_was_computed_and_what_overflowed() -> None:
    job = Job(tensor="t", dtype="F16", strategy=APPLY, weights=(0.5, 0.5))
    base, ours, theirs = raw("F16", 1, 1, 0, math.inf), raw("F16", 2, 1, 6e4, 5), raw("F16", 3, 2, 6e4, 6)
    result, tally = combine(job, base, [ours, theirs])
    assert tally == Tally(elements=4, computed=3, overflowed=1)
    assert np.frombuffer(result, "<f2")[:3].tolist() == [4, 2, math.inf]


def test_blocks_do_not_show() -> None:
    count = BLOCK + 17
    ours, theirs = np.arange(count, dtype="<f4"), np.arange(count, 0, -1, dtype="<f4")
    result = run(AVERAGE, "F32", None, ours.tobytes(), theirs.tobytes())
    assert np.array_equal(np.frombuffer(result, "<f4"), np.full(count, count / 2, "<f4"))


def test_a_strategy_sees_positions_or_the_whole_tensor() -> None:
    seen: list[tuple[str, int, int]] = []

    def record(sides: Sides) -> np.ndarray:
        seen.append((sides.tensor, sides.start, len(sides.values[0])))
        return sides.values[0].copy()

    data = np.arange(BLOCK + 1, dtype="<f4").tobytes()
    for whole in (False, True):
        strategy = Strategy(name="x", summary="", verb="", combine=record, whole_tensor=whole)
        combine(
            Job(tensor="t", dtype="F32", strategy=strategy, weights=(0.5, 0.5)), None, [data, data], start=10
        )
    assert seen == [("t", 10, BLOCK), ("t", 10 + BLOCK, 1), ("t", 10, BLOCK + 1)]


@pytest.mark.parametrize(
    ("base", "sides", "average", "apply"),
    [
        ("o", ("a", "a"), 0, None),
        ("o", ("o", "b"), None, 1),
        ("o", ("a", "o"), None, 0),
        ("o", ("o", "o"), 0, 0),
        ("o", ("a", "b"), None, None),
        (None, ("a", "a"), 0, 0),
        (None, ("a", "b"), None, None),
        ("o", ("o", "o", "c"), None, 2),
    ],
)
def test_chunks_copied_by_their_ids(
    base: str | None, sides: tuple[str, ...], average: int | None, apply: int | None
) -> None:
    assert same_chunk(AVERAGE, base, sides) == average
    assert same_chunk(APPLY, base, sides) == apply


@given(st.data(), st.sampled_from([AVERAGE, APPLY]))
def test_copying_a_chunk_and_computing_it_give_the_same(data: st.DataObject, strategy: Strategy) -> None:
    pool = [np.array(data.draw(bits.filter(lambda x: len(x) >= 2))[:2], "<u2").tobytes() for _ in range(3)]
    base, ours, theirs = (data.draw(st.integers(0, 2)) for _ in range(3))
    index = same_chunk(strategy, str(base), (str(ours), str(theirs)))
    if index is not None:
        result = run(strategy, "BF16", pool[base], pool[ours], pool[theirs])
        assert result == pool[(ours, theirs)[index]]


def test_weights_are_normalised() -> None:
    assert normalised([1, 3]) == (0.25, 0.75)
    for bad in ([], [0, 0], [-1, 2], [math.nan, 1], [math.inf, 1]):
        with pytest.raises(WeightsError):
            normalised(bad)


def test_an_unknown_strategy_is_named_with_those_there_are() -> None:
    with pytest.raises(UnknownStrategyError) as caught:
        strategy_named("blend")
    assert "'blend'" in str(caught.value) and "average" in (caught.value.hint or "")
    assert all(strategy_named(name).name == name for name in STRATEGIES)
