"""Early stopping: `train.patience`."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from git_gru.train.patience import Patience

LOSSES = st.lists(st.floats(min_value=0, max_value=9).map(lambda loss: round(loss, 1)), max_size=30)


@given(losses=LOSSES, limit=st.integers(0, 4), cut=st.integers(0, 30))
def test_it_ends_after_so_many_without_progress_whatever_interrupted_it(
    losses: list[float], limit: int, cut: int
) -> None:
    expected = next(
        (
            at
            for at in range(len(losses))
            if limit and at >= limit and min(losses[at - limit + 1 : at + 1]) >= min(losses[: at - limit + 1])
        ),
        None,
    )
    patience, found = Patience(limit), None
    for at, loss in enumerate(losses):
        if at == cut:
            patience = Patience(limit, losses[:at])
        patience.saw(loss)
        if patience.is_over and found is None:
            found = at
    assert found == expected


def test_a_run_without_progress_ends_early(project: Any) -> None:
    options = ("--set", "train.lr=1e-30", "--set", "train.checkpoint_every=1", "--set", "train.patience=2")
    run = project.train("--nproc", "1", *options)
    assert (run["state"], run["step"], len(run["checkpoints"])) == ("finished", 3, 3)
    shown = json.loads(project.gru("runs", "show", run["id"], "--metrics", "json").stdout)["metrics"]
    (message,) = (event["message"] for event in shown if "message" in event)
    assert message.startswith("ends early: val_loss has not fallen below")
    assert message.endswith("for 2 checkpoints (train.patience)")
    assert "finished: step 3 of 6" in project.refused("train", "--resume", run["id"])
