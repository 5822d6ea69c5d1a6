"""Runs side by side: exact rows, exact curves."""

from dataclasses import replace

from git_gru.runs.comparing import compare, curve
from git_gru.runs.metrics import Event
from git_gru.runs.record import Checkpoint, RunRecord, RunState

RECORD = RunRecord(
    id="a",
    state=RunState.FINISHED,
    started=1.0,
    source="s",
    branch="gru/a",
    model="model.safetensors",
    recipe_path="gru.toml",
    recipe={"train": {"lr": 0.1, "steps": 4}, "data": {"files": ["a"]}},
    nproc=1,
    seed=0,
    steps=4,
    checkpoints=(
        Checkpoint(step=2, commit="c", metrics={"val_loss": 3.0}),
        Checkpoint(step=4, commit="d", metrics={"val_loss": 2.0}),
    ),
    host="h",
    pid=1,
)


def test_what_differs_and_what_it_came_to() -> None:
    other = replace(
        RECORD,
        id="b",
        source="t",
        recipe={"train": {"lr": 0.2, "steps": 4, "new": True}, "data": {"files": ["a"]}},
        checkpoints=(Checkpoint(step=2, commit="e", metrics={"val_loss": 1.0, "val_mae": 5.0}),),
    )
    idle = replace(RECORD, id="c", checkpoints=())
    found = compare([RECORD, other, idle])
    assert found.runs == ("a", "b", "c")
    assert found.recipe == {
        "source": ("s", "t", "s"),
        "train.lr": (0.1, 0.2, 0.1),
        "train.new": (None, True, None),
    }
    assert found.metrics == {"val_loss": (2.0, 1.0, None), "val_mae": (None, 5.0, None)}


def test_runs_alike_differ_in_nothing() -> None:
    assert compare([RECORD, replace(RECORD, id="b")]).recipe == {}


def test_a_curve_has_the_last_value_of_each_step() -> None:
    events = [
        Event(time=0, step=0, validation={"val_loss": 5.0}),
        Event(time=1, step=4, loss=2.0, lr=0.1),
        Event(time=2, step=2, validation={"val_loss": 4.0}),
        Event(time=3, step=2, validation={"val_loss": 3.0}),
    ]
    assert curve(events, "val_loss") == [(0, 5.0), (2, 3.0)]
    assert curve(events, "loss") == [(4, 2.0)]
    assert curve(events, "val_mae") == curve(events, "time") == []
