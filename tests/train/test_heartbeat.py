"""Who stands still, and that signs of life are seen from another process's point of view."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_gru.train.heartbeat import SURE_AFTER, Beat, Heartbeat, Phase, StallWatch, find_stall

NOW = 1000.0


def beat(step: int, phase: Phase, since: float, alive: float = NOW, local_rank: int = 0) -> Beat:
    return Beat(alive, since, step, phase, local_rank)


@pytest.mark.parametrize(
    ("beats", "rank", "step"),
    [
        # rank 1 is stopped: no sign of life, whatever the others do
        ({0: beat(7, Phase.COMPUTE, 980), 1: beat(7, Phase.COMPUTE, 980, alive=980)}, 1, 7),
        # rank 1 hangs in its data, rank 0 waits for its gradients
        ({0: beat(7, Phase.COMPUTE, 985), 1: beat(7, Phase.DATA, 984)}, 1, 7),
        # a rank that is a step behind
        ({0: beat(8, Phase.COMPUTE, 985), 1: beat(7, Phase.UPDATE, 984)}, 1, 7),
        # all at the same point: nobody is to blame
        ({0: beat(7, Phase.COMPUTE, 985), 1: beat(7, Phase.COMPUTE, 984)}, None, 7),
    ],
)
def test_the_blame(beats: dict[int, Beat], rank: int | None, step: int) -> None:
    stall = find_stall(beats, 10, NOW, elsewhere=False)
    assert stall is not None
    assert (stall.rank, stall.step) == (rank, step)


@pytest.mark.parametrize(
    "beats",
    [
        {},
        {0: beat(7, Phase.COMPUTE, 995), 1: beat(7, Phase.DATA, 995)},
        # a long checkpoint of rank 0, for which the other one waits
        {0: beat(7, Phase.CHECKPOINT, 100), 1: beat(8, Phase.COMPUTE, 101)},
        # rank 1 has just got on
        {0: beat(8, Phase.COMPUTE, 900), 1: beat(8, Phase.DATA, 999)},
    ],
)
def test_no_stall(beats: dict[int, Beat]) -> None:
    assert find_stall(beats, 10, NOW, elsewhere=False) is None


@given(step=st.floats(0, 9.9), stopped=st.booleans(), into=st.floats(0, 1), after=st.floats(0, 30))
def test_of_two_machines_the_one_at_fault_tells_first(
    step: float, stopped: bool, into: float, after: float
) -> None:
    # worker 5 stands still from some moment on of the step that worker 0 began at NOW, and then waits in
    end = NOW + into * step
    waits = {0: beat(7, Phase.COMPUTE, NOW, alive=end + after)}
    faulty = beat(7, Phase.COMPUTE, NOW, end, 1) if stopped else beat(7, Phase.DATA, end, end + after, 1)
    there = find_stall({5: faulty}, 10, end + after, elsewhere=True)
    here = find_stall(waits, 10, end + after, elsewhere=True)
    if there is not None:
        assert (there.rank, there.local_rank) == (5, 1)
    if here is not None:
        assert there is not None
        assert here.rank is None, "and if that does not tell, nobody is blamed"


def test_the_file_tells_and_goes_away(tmp_path: Path) -> None:
    watch = StallWatch(tmp_path / "beats", 1e-9, elsewhere=False)
    assert watch.poll() is None
    with Heartbeat(tmp_path / "beats" / "3", 1) as heart:
        heart.at(12, Phase.DATA)
        found = [watch.poll() for _ in range(SURE_AFTER)]
    assert found[:-1] == [None] * (SURE_AFTER - 1)
    stall = found[-1]
    assert stall is not None
    assert (stall.rank, stall.local_rank, stall.step) == (3, 1, 12)
    assert watch.poll() is None
    assert StallWatch(tmp_path / "beats", 0, elsewhere=False).poll() is None
