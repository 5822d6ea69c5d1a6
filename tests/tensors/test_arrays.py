"""Bytes to float64 and back: exact reading, one rounding, no dtype forgotten."""

from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_gru.formats.dtypes import DTYPES
from git_gru.tensors.arrays import LAYOUTS, bits_of, blocks, from_float64, layout_of, to_float64

FLOATS = [name for name, layout in LAYOUTS.items() if layout.kind == "float"]
SHORT = [name for name in FLOATS if layout_of(name).width <= 2]


def test_layouts_agree_with_the_formats_table() -> None:
    for name, layout in LAYOUTS.items():
        assert layout.width == DTYPES[name].coded_width, name
        assert layout.kind == DTYPES[name].kind, name


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F8_E8M0", "F128_OF_THE_FUTURE"])
def test_what_holds_no_numbers_of_its_own_is_opaque(dtype: str) -> None:
    assert layout_of(dtype).kind == "opaque"
    assert bits_of(b"\x01\x02\x03", dtype).tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="no numbers"):
        to_float64(bits_of(b"\x01", dtype), dtype)


@pytest.mark.parametrize("dtype", SHORT)
def test_every_value_survives_the_round_trip(dtype: str) -> None:
    width = layout_of(dtype).width
    bits = np.arange(256**width, dtype=layout_of(dtype).bits)
    values = to_float64(bits, dtype)
    back = from_float64(values, dtype)
    known = ~np.isnan(values)
    assert np.array_equal(back[known], bits[known])
    assert np.isnan(to_float64(back[~known], dtype)).all()


def representable(dtype: str) -> np.ndarray:
    bits = np.arange(256 ** layout_of(dtype).width, dtype=layout_of(dtype).bits)
    values = to_float64(bits, dtype)
    order = np.argsort(values, kind="stable")
    keep = order[np.isfinite(values[order])]
    return bits[keep]


@pytest.mark.parametrize("dtype", SHORT)
def test_rounding_happens_once(dtype: str) -> None:
    """Just beside the middle of two neighbours, by less than float32 can see, the nearer one must win."""
    bits = representable(dtype)
    values = to_float64(bits, dtype)
    low, high = values[:-1], values[1:]
    distinct = low < high
    low, high = low[distinct], high[distinct]
    middle = low + (high - low) / 2
    nudge = (high - low) * 2.0**-40
    assert np.array_equal(to_float64(from_float64(middle + nudge, dtype), dtype), high)
    assert np.array_equal(to_float64(from_float64(middle - nudge, dtype), dtype), low)


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        ("BF16", 1 + 2**-8, 1.0),
        ("BF16", 1 + 3 * 2**-8, 1 + 2**-6),
        ("BF16", 1 + 2**-8 + 2**-40, 1 + 2**-7),
        ("F16", 1 + 2**-11 + 2**-40, 1 + 2**-10),
        ("F8_E4M3", 1 + 2**-4 + 2**-40, 1 + 2**-3),
        ("F8_E5M2", -(1 + 2**-3 + 2**-40), -(1 + 2**-2)),
        ("F32", 1 + 2**-24, 1.0),
        ("BF16", 1e300, np.inf),
        ("BF16", 2.0**-140, 0.0),
        ("F16", 65520.0, np.inf),
    ],
)
def test_ties_go_to_even_and_nothing_is_rounded_twice(dtype: str, value: float, expected: float) -> None:
    assert to_float64(from_float64(np.array([value]), dtype), dtype).tolist() == [expected]


def test_f8_e4m3_has_no_infinity() -> None:
    assert np.isnan(to_float64(from_float64(np.array([1e6]), "F8_E4M3"), "F8_E4M3")).all()


@given(st.floats(width=64, allow_nan=False), st.sampled_from(["F64", "F32"]))
def test_wide_floats_round_as_numpy_does(value: float, dtype: str) -> None:
    with np.errstate(over="ignore"):
        expected = np.array([value]).astype(layout_of(dtype).numpy)
    assert from_float64(np.array([value]), dtype).tobytes() == expected.tobytes()


def test_complex_numbers_are_read_as_halves() -> None:
    data = np.array([1 + 2j, -3j], dtype=np.complex64).tobytes()
    assert to_float64(bits_of(data, "C64"), "C64").tolist() == [1, 2, 0, -3]


def test_integers_and_booleans_are_numbers() -> None:
    assert to_float64(bits_of(np.array([-5, 7], "<i8").tobytes(), "I64"), "I64").tolist() == [-5, 7]
    assert to_float64(bits_of(b"\x01\x00", "BOOL"), "BOOL").tolist() == [1, 0]
    with pytest.raises(ValueError, match="no float"):
        from_float64(np.zeros(1), "I64")


def test_blocks_cover_everything_once() -> None:
    assert list(blocks(0)) == []
    parts = list(blocks(300_000))
    assert parts[0].start == 0 and parts[-1].stop == 300_000
    assert all(a.stop == b.start for a, b in pairwise(parts))


def test_bfloat16_values_are_those_of_ml_dtypes() -> None:
    data = np.array([1.5, -2.25], dtype=ml_dtypes.bfloat16).tobytes()
    assert to_float64(bits_of(data, "BF16"), "BF16").tolist() == [1.5, -2.25]
