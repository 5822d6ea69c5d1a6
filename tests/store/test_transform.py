"""The transforms: C and numpy give the same bytes, each undoes the other, and wrong arguments are errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from git_gru.store import transform
from git_gru.store.transform import (
    join_delta,
    join_delta_numpy,
    join_plain,
    join_plain_numpy,
    split_delta,
    split_delta_numpy,
    split_plain,
    split_plain_numpy,
)

native = pytest.importorskip("git_gru.store._transform", reason="the C extension was not built")

WIDTHS = st.sampled_from([1, 2, 4, 8])
WRONG = (ValueError, TypeError, BufferError)


def elements(width: int, seed: int, count: int, spread: int) -> bytes:
    """Random elements; a small spread gives few distinct values, so that groups are long and the order is tested."""
    x = np.random.default_rng(seed).integers(0, 1 << min(spread, 63), count, dtype=np.uint64)
    x = x << np.uint64(8 * width - min(spread, 8 * width)) if seed % 2 else x
    return x.astype(f"<u{width}").tobytes()


CASES = (WIDTHS, st.booleans(), st.integers(0, 2**32), st.integers(0, 5000), st.integers(1, 64))


def test_the_extension_is_in_use() -> None:
    assert transform.NATIVE


@given(*CASES)
@example(4, True, 0, 0, 8)
@example(8, True, 1, 1, 64)
@example(2, False, 3, 3, 16)
@settings(deadline=None, max_examples=100)
def test_plain_is_the_same_in_both_and_undone_by_both(
    width: int, rotated: bool, seed: int, count: int, spread: int
) -> None:
    data = elements(width, seed, count, spread)
    planes = split_plain(data, width, rotated)
    assert planes == split_plain_numpy(data, width, rotated)
    assert [len(plane) for plane in planes] == [count] * width
    assert bytes(join_plain(planes, rotated)) == data
    assert bytes(join_plain_numpy(planes, rotated)) == data


@given(*CASES)
@example(4, True, 0, 0, 8)
@example(8, True, 1, 1, 64)
@example(2, True, 5, 7, 3)
@settings(deadline=None, max_examples=100)
def test_delta_is_the_same_in_both_and_undone_by_both(
    width: int, rotated: bool, seed: int, count: int, spread: int
) -> None:
    data, base = elements(width, seed, count, spread), elements(width, seed + 1, count, 64 - spread // 2)
    planes = split_delta(data, base, width, rotated)
    assert planes == split_delta_numpy(data, base, width, rotated)
    assert bytes(join_delta(planes, base, rotated)) == data
    assert bytes(join_delta_numpy(planes, base, rotated)) == data


@given(*CASES)
@settings(deadline=None, max_examples=60)
def test_any_planes_join_and_split_back(
    width: int, rotated: bool, seed: int, count: int, spread: int
) -> None:
    planes = [bytearray(elements(1, seed + b, count, spread)) for b in range(width)]
    base = elements(width, seed, count, spread)
    assert split_plain(join_plain(planes, rotated), width, rotated) == planes
    assert split_delta(join_delta(planes, base, rotated), base, width, rotated) == planes


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_a_whole_chunk(width: int) -> None:
    count = (1 << 22) // width
    data, base = elements(width, 11, count, 64), elements(width, 12, count, 40)
    assert split_plain(data, width, True) == split_plain_numpy(data, width, True)
    planes = split_delta(data, base, width, True)
    assert planes == split_delta_numpy(data, base, width, True)
    assert bytes(join_delta(planes, base, True)) == data


def test_exact_values() -> None:
    # 1.0 is 3f800000: rotated left by one, 7f000000. -2.0 is c0000000: rotated, 80000001.
    data = np.array([1.0, -2.0], "<f4").tobytes()
    assert [bytes(plane) for plane in split_plain(data, 4, True)] == [b"\0\1", b"\0\0", b"\0\0", b"\x7f\x80"]
    assert [bytes(plane) for plane in split_plain(data, 4, False)] == [
        b"\0\0",
        b"\0\0",
        b"\x80\0",
        b"\x3f\xc0",
    ]
    # Differences 1, -1, 2, -2 fold to 2, 1, 4, 3; the bases' top bytes 9, 0, 9, 0 put the second and fourth first.
    base = np.array([0x0900, 0x0001, 0x0902, 0x0003], "<u2")
    new = (base + np.array([1, 0xFFFF, 2, 0xFFFE], "<u2")).astype("<u2")
    planes = split_delta(new.tobytes(), base.tobytes(), 2, False)
    assert [bytes(plane) for plane in planes] == [b"\1\3\2\4", b"\0\0\0\0"]


def test_differences_wrap_around() -> None:
    low, high = b"\0\0\0\0", b"\xff\xff\xff\xff"
    for data, base in ((low, high), (high, low), (b"\0\0\0\x80", low), (low, b"\0\0\0\x80")):
        planes = split_delta(data, base, 4, True)
        assert planes == split_delta_numpy(data, base, 4, True)
        assert bytes(join_delta(planes, base, True)) == data


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, lambda b: memoryview(bytearray(b))[0:]])
def test_any_buffer_is_taken(wrap: Callable[[bytes], Any]) -> None:
    data, base = elements(4, 1, 9, 32), elements(4, 2, 9, 32)
    planes = split_delta(wrap(data), wrap(base), 4, True)
    assert bytes(join_delta([wrap(bytes(plane)) for plane in planes], wrap(base), True)) == data
    assert bytes(join_plain([wrap(bytes(p)) for p in split_plain(wrap(data), 4, True)], True)) == data


# ---- wrong arguments: errors, never a crash ---------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0, 3, 5, 16, -1])
def test_a_width_that_there_is_not(width: int) -> None:
    with pytest.raises(WRONG):
        native.split_plain(bytes(32), width, 0, (bytearray(32),) * max(width, 0))


@pytest.mark.parametrize(
    ("data", "base", "planes"),
    [
        (9, 9, (2, 2, 2, 2)),
        (8, 12, (2, 2, 2, 2)),
        (8, 4, (2, 2, 2, 2)),
        (8, 0, (2, 2, 2, 2)),
        (8, 8, (2, 2, 2)),
        (8, 8, (2, 2, 2, 2, 2)),
        (8, 8, (2, 2, 2, 1)),
        (8, 8, (3, 2, 2, 2)),
        (8, 8, (0, 0, 0, 0)),
        (0, 0, (1, 0, 0, 0)),
    ],
)
def test_lengths_that_do_not_fit(data: int, base: int, planes: tuple[int, ...]) -> None:
    parts = tuple(bytearray(length) for length in planes)
    calls = [
        lambda: native.split_delta(bytes(data), bytes(base), 4, 1, parts),
        lambda: native.join_delta(parts, bytes(base), 4, 1, bytearray(data)),
    ]
    if data != 8 or base == data:
        calls += [
            lambda: native.split_plain(bytes(data), 4, 1, parts),
            lambda: native.join_plain(parts, 4, 1, bytearray(data)),
        ]
    for call in calls:
        with pytest.raises(ValueError, match=r"fit|width"):
            call()


def test_a_target_that_cannot_be_written() -> None:
    with pytest.raises(WRONG):
        native.join_plain((bytes(2),) * 4, 4, 1, bytes(8))
    with pytest.raises(WRONG):
        native.split_plain(bytes(8), 4, 1, (bytes(2),) * 4)
    with pytest.raises(WRONG):
        native.split_plain(bytes(8), 4, 1, (memoryview(bytearray(2)).toreadonly(),) * 4)


def test_buffers_with_gaps() -> None:
    gaps = memoryview(bytearray(16))[::2]
    for call in (
        lambda: native.split_plain(gaps, 4, 1, tuple(bytearray(2) for _ in range(4))),
        lambda: native.join_plain((bytes(8),), 1, 0, gaps),
        lambda: native.split_delta(bytes(8), gaps, 4, 1, tuple(bytearray(2) for _ in range(4))),
        lambda: native.join_plain((gaps,), 1, 0, bytearray(8)),
    ):
        with pytest.raises(WRONG):
            call()


@pytest.mark.parametrize(
    "planes", [[bytearray(2)] * 4, None, (None,) * 4, ("ab",) * 4, (bytearray(2), 1, 2, 3)]
)
def test_planes_that_are_no_tuple_of_buffers(planes: object) -> None:
    with pytest.raises(WRONG):
        native.split_plain(bytes(8), 4, 1, planes)
    with pytest.raises(WRONG):
        native.join_plain(planes, 4, 1, bytearray(8))


@pytest.mark.parametrize("value", [None, "text", 7])
def test_data_that_is_no_buffer(value: object) -> None:
    planes = tuple(bytearray(2) for _ in range(4))
    with pytest.raises(WRONG):
        native.split_plain(value, 4, 1, planes)
    with pytest.raises(WRONG):
        native.split_delta(bytes(8), value, 4, 1, planes)
    with pytest.raises(WRONG):
        native.split_plain()


def test_buffers_are_released_after_an_error() -> None:
    data, plane = bytearray(8), bytearray(3)
    with pytest.raises(ValueError, match="fit"):
        native.split_delta(data, data, 4, 1, (plane,) * 4)
    data.append(0)  # raises BufferError while anything still holds the buffer
    plane.append(0)


@pytest.mark.parametrize("base", [4, 12, 0])
def test_the_wrappers_and_the_twins_refuse_alike(base: int) -> None:
    for split in (split_delta, split_delta_numpy):
        with pytest.raises(ValueError, match="fit"):
            split(bytes(8), bytes(base), 4, True)
    for join in (join_delta, join_delta_numpy):
        with pytest.raises(ValueError, match="fit"):
            join([bytes(2)] * 4, bytes(base), True)
    with pytest.raises(ValueError, match="fit"):
        split_plain_numpy(bytes(9), 4, True)
    with pytest.raises(ValueError, match="fit"):
        split_plain(bytes(9), 4, True)
