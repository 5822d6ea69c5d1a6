"""Node 0's part in a run of several machines, where something of its own goes wrong: no workers, no other nodes."""

from pathlib import Path
from typing import Any

import pytest

from git_gru.errors import GruError
from git_gru.runs.metrics import Event, EventWriter, parse_events
from git_gru.runs.record import RunRecord, RunState
from git_gru.train import leading
from git_gru.train.leading import WaitInterruptedError, lead
from git_gru.train.nodes import JoinError, Nodes, counts_of
from git_gru.train.rewinding import cut_events

RECORD = RunRecord(
    id="r", state=RunState.RUNNING, started=1.0, source="s", branch="gru/r", model="m", recipe_path=None,
    recipe={}, nproc=1, seed=0, steps=9, step=2, host="h", pid=1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), ("failed", "[Errno 28] No space left on device")),
        (GruError("no such commit"), ("failed", "no such commit")),
        (JoinError("only 1 came"), ("failed", "only 1 came")),
        (WaitInterruptedError("stopped while waiting"), ("stopped", "stopped while waiting")),
        (KeyboardInterrupt(), ("failed", "KeyboardInterrupt")),
    ],
)
def test_whatever_ends_node_0_the_others_are_told(
    error: BaseException, told: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, str]] = []

    class Roll:
        def open(self, offer: object) -> None: ...

        def end(self, state: str, message: str) -> None:
            said.append((state, message))

    class Leader:
        def __init__(self, *parts: object) -> None: ...

        def run(self) -> None:
            raise error

    class Job:
        folder = tmp_path

    monkeypatch.setattr(leading, "welcome_of", lambda plan, job: {})
    monkeypatch.setattr(leading, "_Leader", Leader)
    nothing: Any = None
    job: Any = Job()
    roll: Any = Roll()
    with pytest.raises(type(error)) as caught:
        lead(nothing, job, nothing, nothing, roll, nothing, nothing, nothing)
    assert caught.value is error
    assert said == [told]


def test_an_address_that_is_gone_is_told() -> None:
    nodes = Nodes(counts=counts_of("1:2"), number=0, host="192.0.2.1", port=1, address="192.0.2.1")
    with pytest.raises(JoinError, match=r"cannot listen at 192\.0\.2\.1 any more"):
        leading._listening(nodes)


def test_an_event_log_that_cannot_be_written_anew_stays(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    events = EventWriter(log)
    for step in (1, 2, 3):
        events.write(Event(time=1.0, step=step, loss=1.0))
    events.close()
    before = log.read_bytes()
    beside = tmp_path / "metrics.jsonl.new"
    beside.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        cut_events(log, RECORD)
    assert log.read_bytes() == before
    beside.unlink()
    cut_events(log, RECORD)
    assert [event.step for event in parse_events(log.read_bytes()) if event.loss] == [1, 2]
