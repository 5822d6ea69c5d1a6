"""Every three-way rule on descriptors."""

from dataclasses import dataclass

import numpy as np
import pytest

from git_gru.tensors.threeway import (
    Conflict,
    Count,
    CounterOverflowError,
    Decision,
    Delete,
    Merge,
    Take,
    count,
    decide,
    merge_keys,
)


@dataclass(frozen=True)
class T:
    chunks: tuple[str, ...]
    dtype: str = "F32"
    shape: tuple[int, ...] = (2,)


BASE, A, B, C = (T((name,)) for name in "oabc")
LABELS = ("ours", "theirs", "third")


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "expected"),
    [
        (BASE, BASE, BASE, Take(0, unchanged=True)),
        (BASE, A, A, Take(0, unchanged=True)),
        (BASE, A, BASE, Take(0)),
        (BASE, BASE, B, Take(1)),
        (BASE, A, B, Merge((0, 1), base=True)),
        (None, A, None, Take(0)),
        (None, None, B, Take(1)),
        (None, A, A, Take(0, unchanged=True)),
        (None, A, B, Merge((0, 1), base=False)),
        (BASE, None, None, Delete()),
        (BASE, None, BASE, Delete()),
        (BASE, BASE, None, Delete()),
        (BASE, A, None, Conflict("deleted by theirs and changed by ours")),
        (BASE, None, B, Conflict("deleted by ours and changed by theirs")),
    ],
)
def test_two_sides(base: T | None, ours: T | None, theirs: T | None, expected: Decision) -> None:
    assert decide(base, [ours, theirs], LABELS) == expected


@pytest.mark.parametrize(
    ("base", "sides", "expected"),
    [
        (BASE, (BASE, BASE, C), Take(2)),
        (BASE, (A, A, BASE), Merge((0, 1, 2), base=True)),
        (BASE, (A, B, BASE), Merge((0, 1, 2), base=True)),
        (BASE, (A, A, A), Take(0, unchanged=True)),
        (None, (A, None, B), Merge((0, 2), base=False)),
        (None, (None, None, B), Take(2)),
        (BASE, (None, BASE, None), Delete()),
        (BASE, (None, BASE, B), Conflict("deleted by ours and changed by third")),
    ],
)
def test_three_sides(base: T | None, sides: tuple[T | None, ...], expected: Decision) -> None:
    assert decide(base, sides, LABELS) == expected


def test_sides_that_agree_need_no_arithmetic_where_there_is_none() -> None:
    old, new = T(("o",), "I64"), T(("a",), "I64")
    assert decide(old, [old, new, new], LABELS) == Take(1)


def test_counters_are_scalars_of_integers_with_a_base() -> None:
    old, ours, theirs = (T((name,), "I64", ()) for name in "oab")
    assert decide(old, [ours, theirs], LABELS) == Count((0, 1))
    assert isinstance(decide(None, [ours, theirs], LABELS), Conflict)


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "words"),
    [
        (BASE, T(("a",), "BF16"), B, "ours and theirs have different dtypes, BF16 and F32"),
        (BASE, T(("a",), shape=(1, 2)), B, "ours and theirs have different shapes, [1, 2] and [2]"),
        (T(("o",), shape=(3,)), A, B, "all sides turned F32 [3] into F32 [2], with different values"),
        (
            T(("o",), "I32"),
            T(("a",), "I32"),
            T(("b",), "I32"),
            "ours and theirs have different integers (I32)",
        ),
        (
            T(("o",), "BOOL"),
            T(("a",), "BOOL"),
            T(("b",), "BOOL"),
            "ours and theirs have different booleans (BOOL)",
        ),
        (
            T(("o",), "F4"),
            T(("a",), "F4"),
            T(("b",), "F4"),
            "ours and theirs have different values that cannot be computed with (F4)",
        ),
    ],
)
def test_what_cannot_be_computed_is_a_conflict(base: T, ours: T, theirs: T, words: str) -> None:
    assert decide(base, [ours, theirs], LABELS) == Conflict(words)


def test_same_chunks_under_another_shape_are_a_change() -> None:
    assert decide(BASE, [T(("o",), shape=(1, 2)), BASE], LABELS) == Take(0)


def number(value: int, dtype: str = "<i8") -> bytes:
    return np.array(value, dtype).tobytes()


def test_counts_add_up() -> None:
    assert count("I64", number(100), [number(130), number(105)]) == number(135)
    assert count("I64", number(100), [number(90), number(105), number(101)]) == number(96)
    assert count("U8", number(5, "u1"), [number(250, "u1"), number(10, "u1")]) == number(255, "u1")
    big = 2**62 + 1
    assert count("I64", number(big), [number(big + 1), number(big + 2)]) == number(big + 3)


def test_a_count_that_does_not_fit_is_told() -> None:
    with pytest.raises(CounterOverflowError, match="256, which U8 cannot hold"):
        count("U8", number(0, "u1"), [number(255, "u1"), number(1, "u1")])


def test_metadata_merges_key_by_key() -> None:
    base = {"format": "pt", "epoch": "1", "gone": "x", "dropped": "y"}
    ours = {"format": "pt", "epoch": "2", "mine": "m", "dropped": "y"}
    theirs = {"format": "pt", "epoch": "3", "gone": "x", "yours": "t"}
    merged, disputed = merge_keys(base, [ours, theirs])
    assert merged == {"format": "pt", "epoch": "2", "mine": "m", "yours": "t"}
    assert disputed == ("epoch",)


def test_metadata_deleted_here_and_changed_there_is_disputed_and_kept() -> None:
    assert merge_keys({"k": "1"}, [{}, {"k": "2"}]) == ({"k": "2"}, ("k",))
    assert merge_keys({"k": "1"}, [{}, {"k": "1"}]) == ({}, ())
