"""`run.json`: it comes back as it was, and what is no record is refused with a sentence."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_gru.runs.record import Checkpoint, Failure, RecordError, RunRecord, RunState, parse_record

RECORD = RunRecord(
    id="260412-101530-k3f",
    state=RunState.FAILED,
    started=10.5,
    ended=20.5,
    source="a" * 40,
    branch="gru/x",
    model="model.safetensors",
    recipe_path="gru.toml",
    recipe={"train": {"steps": 3}},
    overrides=("train.steps=3",),
    nproc=2,
    seed=7,
    steps=3,
    step=2,
    initial={"val_loss": 5.5},
    checkpoints=(Checkpoint(step=2, commit="b" * 40, metrics={"val_loss": 1.5}),),
    tokens_per_s=100.5,
    environment={"python": "3.11"},
    host="here",
    pid=1,
    failure=Failure(message="was killed", rank=1, host="here", log=None),
)


def test_a_record_comes_back_as_it_was() -> None:
    assert parse_record(RECORD.encode(), where="run.json") == RECORD
    running = replace(RECORD, state=RunState.RUNNING, ended=None, failure=None, checkpoints=())
    assert parse_record(running.encode(), where="run.json") == running


def test_a_newer_version_asks_for_an_upgrade() -> None:
    fields = json.loads(RECORD.encode()) | {"git-gru-run": 2}
    with pytest.raises(RecordError, match=r"x/run\.json: .* version 2") as caught:
        parse_record(json.dumps(fields).encode(), where="x/run.json")
    assert caught.value.hint == "Upgrade git-gru."


@pytest.mark.parametrize("key", ["state", "overrides", "checkpoints", "failure", "nproc"])
def test_a_record_without_a_key_is_refused(key: str) -> None:
    fields = json.loads(RECORD.encode())
    del fields[key]
    with pytest.raises(RecordError, match=r"run\.json"):
        parse_record(json.dumps(fields).encode(), where="run.json")


@given(st.binary() | st.recursive(st.none() | st.integers(), st.lists).map(lambda v: json.dumps(v).encode()))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(RecordError, match=r"run\.json"):
        parse_record(data, where="run.json")
