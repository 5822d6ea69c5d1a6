"""Curves in a terminal: exact pictures."""

import math

from git_gru.cli.curves import draw


def test_a_picture():
    lines = draw({"a": [(0, 0.0), (8, 8.0)], "b": [(0, 4.0), (4, 4.0)]}, width=5, height=5)
    assert lines == [
        "8 |    *",
        "  |   *",
        "  |ooo",
        "  | *",
        "0 |*",
        "  +-----",
        "   0   8",
        "   * a",
        "   o b",
    ]


def test_numbers_that_are_none_are_left_out():
    lines = draw({"a": [(0, math.nan), (1, 1.0), (2, math.inf)]}, width=3, height=3)
    assert [line.partition("|")[2] for line in lines[:3]] == ["", "***", ""]


def test_nothing_to_draw():
    assert draw({}) == draw({"a": []}) == draw({"a": [(0, math.nan)]}) == []
