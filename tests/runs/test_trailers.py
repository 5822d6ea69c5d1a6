"""The message of a checkpoint: exact, read back by us and by Git."""

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_gru.runs.trailers import CheckpointInfo, SiteRound, checkpoint_message, parse_checkpoint

INFO = CheckpointInfo(
    run="260412-101530-k3f",
    step=400,
    metrics={"val_loss": 1.4703125, "val_accuracy": 0.5},
    parent_model="c" * 64,
    resume="e" * 64,
    site=SiteRound(site="lab-2", round=8, samples=1600),
)
MESSAGE = f"""train: step 400, val_loss 1.470

Gru-Run: 260412-101530-k3f
Gru-Step: 400
Gru-Metric-val-loss: 1.470312
Gru-Metric-val-accuracy: 0.5
Gru-Parent-Model: {"c" * 64}
Gru-Resume: {"e" * 64}
Gru-Site: lab-2
Gru-Round: 8
Gru-Samples: 1600
"""


def test_the_message_of_a_checkpoint() -> None:
    assert checkpoint_message(INFO) == MESSAGE


def test_git_sees_all_trailers() -> None:
    parsed = subprocess.run(
        ["git", "interpret-trailers", "--parse"], input=MESSAGE, capture_output=True, text=True, check=True
    )
    assert parsed.stdout == MESSAGE.partition("\n\n")[2]


@given(
    st.integers(0, 10**9),
    st.dictionaries(st.sampled_from(["val_loss", "val_mae"]), st.floats(-1e6, 1e6)),
    st.none() | st.just("d" * 64),
    st.none() | st.just("f" * 64),
)
def test_a_message_is_read_back(
    step: int, metrics: dict[str, float], parent: str | None, resume: str | None
) -> None:
    info = CheckpointInfo(run="r", step=step, metrics=metrics, parent_model=parent, resume=resume)
    found = parse_checkpoint(checkpoint_message(info))
    assert found is not None
    assert (found.run, found.step, found.parent_model, found.resume) == ("r", step, parent, resume)
    assert found.metrics == pytest.approx(metrics, rel=1e-6)


@pytest.mark.parametrize(
    "name", ["val_f1/macro", "val_top-5", "val_größe", "val_a\nGru-Run: other", "val_a b"]
)
def test_any_name_of_a_metric_leaves_the_trailers_whole(name: str) -> None:
    message = checkpoint_message(CheckpointInfo(run="r", step=1, metrics={name: 0.5}))
    parsed = subprocess.run(
        ["git", "interpret-trailers", "--parse"], input=message, capture_output=True, text=True, check=True
    )
    assert parsed.stdout == message.partition("\n\n")[2]
    assert parsed.stdout.count("\n") == 3
    found = parse_checkpoint(message)
    assert found is not None
    assert (found.run, list(found.metrics.values())) == ("r", [0.5])


@pytest.mark.parametrize(
    "message", ["", "a subject", "a\n\nGru-Run: x\n", "a\n\nGru-Run: x\nGru-Step: many\n"]
)
def test_other_messages_are_no_checkpoints(message: str) -> None:
    assert parse_checkpoint(message) is None
