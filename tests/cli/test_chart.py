"""Curves as text."""

import math

from hypothesis import given
from hypothesis import strategies as st

from git_gru.cli.chart import chart


def test_a_rising_line() -> None:
    assert chart([0, 3], width=7, height=2) == [" 3│  ⡠⠊", " 0│⡠⠊"]


def test_the_present_stands_where_the_forecast_begins() -> None:
    rows = chart([5, 5, 5, 5], width=9, height=3, present=2)
    assert [row.index("┊") for row in rows if "┊" in row] == [5, 5]
    assert rows[0].startswith(" 5│")


def test_gaps_and_constants() -> None:
    assert chart([math.nan, math.nan], width=10, height=2) == [" 0│", " 0│"]
    assert chart([2.0], width=10, height=2) == [" 2│", " 2│⠁"]


@given(st.lists(st.floats(allow_nan=True, width=32), max_size=300), st.integers(10, 200), st.integers(2, 30))
def test_any_curve_fits(values: list[float], width: int, height: int) -> None:
    rows = chart(values, width=width, height=height, present=len(values) // 2)
    assert len(rows) == height
    assert all(len(row) <= max(width, 16) for row in rows)
