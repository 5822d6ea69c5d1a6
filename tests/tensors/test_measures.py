"""Gates, differences, summaries and exactness on numbers worked out by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_gru.tensors.arrays import BLOCK
from git_gru.tensors.diff import Measures, TensorComparison
from git_gru.tensors.gates import ElementRange, GruParameter, gate_ranges, gru_parameters
from git_gru.tensors.residual import Exactness, exactness
from git_gru.tensors.summary import TensorSummary


def f32(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def compare(dtype: str, old: bytes, new: bytes) -> Measures:
    comparison = TensorComparison(dtype)
    comparison.add(old, new)
    return comparison.result().total


# ---- gates

GRU = {
    "encoder.weight_ih_l0": (12, 7),
    "encoder.weight_hh_l0": (12, 4),
    "encoder.bias_ih_l0": (12,),
    "encoder.bias_hh_l0": (12,),
    "encoder.weight_ih_l1_reverse": (12, 8),
    "encoder.weight_hh_l1_reverse": (12, 4),
}


def test_a_grus_parameters_are_recognised() -> None:
    found = gru_parameters({"embedding.weight": (256, 7), **GRU})
    assert list(found) == list(GRU)
    assert found["encoder.bias_hh_l0"] == GruParameter("encoder.", "bias_hh", 0, False, 4)
    assert found["encoder.weight_ih_l1_reverse"] == GruParameter("encoder.", "weight_ih", 1, True, 4)


def test_a_cell_and_a_bare_module_are_recognised() -> None:
    assert gru_parameters({"weight_hh": (6, 2), "bias_ih": (6,)})["bias_ih"] == GruParameter(
        "", "bias_ih", 0, False, 2
    )


@pytest.mark.parametrize(
    "shapes",
    [
        {"lstm.weight_hh_l0": (12, 3), "lstm.weight_ih_l0": (12, 5)},
        {"rnn.weight_hh_l0": (3, 3), "rnn.bias_hh_l0": (3,)},
        {"gru.bias_hh_l0": (12,)},
        {"gru.my_weight_hh_l0": (12, 4)},
        {"gru.weight_hh_l0": (0, 0)},
    ],
    ids=["an LSTM whose rows divide by three", "a plain RNN", "a bias alone", "another name", "empty"],
)
def test_others_are_not(shapes: dict[str, tuple[int, ...]]) -> None:
    assert gru_parameters(shapes) == {}


def test_gates_are_thirds_of_the_elements() -> None:
    assert gate_ranges((12, 7)) == (
        ElementRange("r", 0, 28),
        ElementRange("z", 28, 56),
        ElementRange("n", 56, 84),
    )


@given(st.lists(st.integers(0, 40), max_size=8), st.integers(1, 6))
def test_gates_are_the_same_however_the_tensor_is_cut(cuts: list[int], rows: int) -> None:
    shape = (3 * rows, 3)
    old = np.arange(9 * rows, dtype="<f4")
    new = old + np.repeat(np.array([1, 2, 3], "<f4"), 3 * rows)
    comparison = TensorComparison("F32", gate_ranges(shape))
    edges = [0, *sorted(min(cut, old.size) for cut in cuts), old.size]
    for start, stop in pairwise(edges):
        comparison.add(old[start:stop].tobytes(), new[start:stop].tobytes())
    gates = comparison.result().gates
    assert [gates[gate].max_abs for gate in "rzn"] == [1, 2, 3]
    assert [gates[gate].elements for gate in "rzn"] == [3 * rows] * 3
    assert gates["z"].delta_norm == pytest.approx(2 * math.sqrt(3 * rows))


# ---- differences


def test_the_measures_of_a_difference() -> None:
    m = compare("F32", f32(3, 4, 0, 1), f32(3, 0, 3, 1))
    assert (m.elements, m.changed, m.changed_share) == (4, 2, 0.5)
    assert m.delta_norm == 5.0 and m.max_abs == 4.0
    assert m.old_norm == math.sqrt(26) and m.new_norm == math.sqrt(19)
    assert m.relative == 5 / math.sqrt(26)
    assert m.cosine == pytest.approx(10 / math.sqrt(26 * 19), rel=1e-15)


def test_the_ends_of_the_scale() -> None:
    assert compare("F32", f32(1, 2), f32(1, 2)).relative == 0
    assert compare("F32", f32(1, 2), f32(2, 4)).cosine == pytest.approx(1)
    assert compare("F32", f32(1, 2), f32(-1, -2)).cosine == pytest.approx(-1)
    from_zero = compare("F32", f32(0, 0), f32(1, 2))
    assert from_zero.relative is None and from_zero.cosine is None
    empty = compare("F32", b"", b"")
    assert (empty.changed_share, empty.relative, empty.cosine) == (0, 0, None)


def test_non_finite_elements_are_counted_and_do_not_poison() -> None:
    m = compare("F32", f32(math.nan, 1, math.inf, 2), f32(5, -math.inf, math.inf, 4))
    assert (m.old_nan, m.old_inf, m.new_nan, m.new_inf) == (1, 1, 0, 2)
    assert (m.delta_norm, m.old_norm, m.max_abs, m.changed) == (2, 2, 2, 3)


def test_a_sum_that_cancels_infinities_is_still_seen() -> None:
    m = compare("F32", f32(math.inf, -math.inf), f32(0, 0))
    assert (m.old_inf, m.delta_norm) == (2, 0)


def test_changed_means_bits() -> None:
    assert compare("F32", f32(0.0), f32(-0.0)).changed == 1
    assert compare("F32", f32(math.nan), f32(math.nan)).changed == 0


def test_integers_are_measured_and_opaque_bytes_only_compared() -> None:
    m = compare("I64", np.array([5, 9], "<i8").tobytes(), np.array([5, 6], "<i8").tobytes())
    assert (m.delta_norm, m.changed) == (3, 1)
    m = compare("F4", b"\x00\x11\x22", b"\x00\x12\x22")
    assert (m.numeric, m.elements, m.changed, m.delta_norm, m.cosine) == (False, 3, 1, 0, None)


def test_pieces_and_blocks_add_up() -> None:
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(2, 2 * BLOCK + 5)).astype("<f4")
    whole = compare("F32", old.tobytes(), new.tobytes())
    assert whole.delta_norm == pytest.approx(np.linalg.norm(new.astype("f8") - old), rel=1e-12)
    assert whole.changed == old.size


# ---- summaries


def test_a_summary() -> None:
    summary = TensorSummary("F32")
    for piece in (f32(1, 2, 3), f32(math.nan, -6), f32(math.inf), b""):
        summary.add(piece)
    s = summary.result()
    assert (s.elements, s.nan, s.inf, s.max_abs, s.mean) == (6, 1, 1, 6, 0)
    assert s.std == pytest.approx(math.sqrt(50 / 4))


def test_a_summary_does_not_cancel_where_the_mean_is_large() -> None:
    values = 1e8 + np.tile([-1.0, 1.0], BLOCK)
    summary = TensorSummary("F64")
    summary.add(values.tobytes())
    assert summary.result().std == pytest.approx(1.0, rel=1e-9)


def test_summaries_of_nothing_and_of_opaque_bytes() -> None:
    assert TensorSummary("F32").result().std == 0
    opaque = TensorSummary("F6_E2M3")
    opaque.add(b"abc")
    assert (opaque.result().numeric, opaque.result().elements) == (False, 3)


# ---- exactness of a revert


def test_exactness_tells_exact_from_kept() -> None:
    base, ours, theirs = f32(1, 1, 1, 1), f32(1, 1.5, 1, 5), f32(0.5, 0.5, 1, 1)
    assert exactness("F32", base=base, ours=ours, theirs=theirs, result=f32(0.5, 1, 1, 5)) == Exactness(
        elements=4, exact=1, kept=1, unchanged=2, rounded=0, error_norm=0
    )


def test_exactness_measures_the_rounding() -> None:
    tiny = 2.0**-30
    base, ours, theirs = f32(tiny), f32(1), f32(0)
    seen = exactness("F32", base=base, ours=ours, theirs=theirs, result=f32(1))
    assert (seen.kept, seen.rounded, seen.error_norm) == (1, 1, tiny)
    assert (seen + seen).error_norm == pytest.approx(tiny * math.sqrt(2))
