"""What counts as far off."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_gru.train.judging import FLOOR, LEAST_HISTORY, MAD_TO_DEVIATION, Window


def test_nothing_is_judged_by_too_little() -> None:
    window = Window(100)
    window.add([1.0] * (LEAST_HISTORY - 1))
    assert window.baseline() is None
    window.add([1.0])
    assert window.baseline() is not None


def test_the_robust_z_score_by_hand() -> None:
    window = Window(100)
    window.add([8.0, 9.0, 10.0, 11.0, 12.0] * 4)
    baseline = window.baseline()
    assert baseline is not None
    assert baseline.median == 10.0
    assert baseline.deviation == MAD_TO_DEVIATION * 1.0  # |values - 10| has the median 1
    assert baseline.z(10 + 3 * MAD_TO_DEVIATION) == pytest.approx(3)


def test_constant_values_have_a_floor() -> None:
    window = Window(100)
    window.add([5.0] * 50)
    baseline = window.baseline()
    assert baseline is not None
    assert baseline.z(5 * (1 + FLOOR)) == pytest.approx(1)


@given(st.integers(0, 2**32 - 1), st.integers(0, 9))
def test_a_few_wild_values_move_it_little(seed: int, wild: int) -> None:
    usual = np.random.default_rng(seed).normal(3.0, 0.1, 100)
    window = Window(100)
    window.add([*usual[wild:], *[1e30] * wild])
    baseline = window.baseline()
    assert baseline is not None
    assert abs(baseline.median - 3.0) < 0.1
    assert 0.05 < baseline.deviation < 0.2
    assert baseline.z(6.0) > 12 > baseline.z(3.5)


def test_old_values_leave_the_window() -> None:
    window = Window(20)
    window.add([1.0] * 20)
    window.add([2.0] * 20)
    baseline = window.baseline()
    assert baseline is not None
    assert baseline.median == 2.0
