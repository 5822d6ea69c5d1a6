"""The launcher's side of a run, without one."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from git_gru.runs.record import RunRecord, RunState
from git_gru.train.launch import SAME_REQUEST_SECONDS, Interrupts, fast_forward


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


def test_here_follows_the_branch_that_the_run_came_to(repo: Any) -> None:
    """Not the one that it began with, where somebody else has moved that."""
    repo.commit("source")
    repo.git("checkout", "-q", "-b", "gru/r-2")
    repo.write("a.txt", b"trained")
    trained = repo.commit("train: step 1")
    repo.git("checkout", "-q", "main")
    repo.git("branch", "gru/r")
    record = RunRecord(
        id="r", state=RunState.FINISHED, started=1.0, source="s", branch="gru/r-2", here="main", model="m", recipe_path=None,
        recipe={}, nproc=1, seed=0, steps=1, host="h", pid=1,
    )  # fmt: skip
    assert fast_forward(repo.repository, record)
    assert repo.git("rev-parse", "HEAD").strip() == trained
    assert repo.git("branch", "--format=%(refname:short)").split() == ["gru/r", "main"]
