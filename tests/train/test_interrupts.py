"""Ctrl-C once, twice, and again and again."""

from hypothesis import given
from hypothesis import strategies as st

from git_gru.train.interrupts import SAME_REQUEST_SECONDS, Interrupts


@given(st.lists(st.floats(0, 0.9), min_size=1, max_size=40))
def test_who_goes_on_asking_is_heard(pauses: list[float]) -> None:
    """Signals of one moment are one request; a second that is full of them is not."""
    interrupts, now, expected, began = Interrupts(), 0.0, 0, -SAME_REQUEST_SECONDS
    for pause in pauses:
        now += pause
        if now - began >= SAME_REQUEST_SECONDS:
            expected, began = expected + 1, now
        interrupts.add(now)
    assert interrupts.count == expected


def test_a_ctrl_c_that_comes_twice_is_one_request() -> None:
    interrupts = Interrupts()
    interrupts.add(10.0)
    interrupts.add(10.01)
    assert interrupts.count == 1
    interrupts.add(11.5)
    assert interrupts.count == 2
