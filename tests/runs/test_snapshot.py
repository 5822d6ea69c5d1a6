"""A run at one moment."""

from typing import Any

from git_gru.runs.incidents import Incident
from git_gru.runs.metrics import Event
from git_gru.runs.record import Checkpoint, RunRecord, RunState
from git_gru.runs.snapshot import snapshot_of


def record(**changes: Any) -> RunRecord:
    fields: dict[str, Any] = {
        "id": "r", "state": RunState.RUNNING, "started": 100.0, "source": "a" * 40, "branch": "b", "model": "m",
        "recipe_path": "gru.toml", "recipe": {}, "nproc": 1, "seed": 0, "steps": 100, "host": "h", "pid": 1,
    }  # fmt: skip
    return RunRecord(**fields | changes)


def logged(step: int, loss: float = 1.0) -> Event:
    return Event(time=100.0 + step / 2, step=step, loss=loss, lr=0.1, tokens_per_s=50.0)


def test_curves_pace_and_time_left() -> None:
    events = [
        Event(time=100, step=0, validation={"val_loss": 5.0}),
        *(logged(n, 9 - n / 10) for n in (10, 20, 40)),
    ]
    snapshot = snapshot_of(record(), events, now=125.0)
    assert snapshot.loss == [(10, 8.0), (20, 7.0), (40, 5.0)]
    assert snapshot.val_loss == [(0, 5.0)]
    assert (snapshot.step, snapshot.elapsed, snapshot.left) == (40, 25.0, 30.0)  # two steps a second


def test_a_finished_run_has_no_time_left() -> None:
    snapshot = snapshot_of(record(state=RunState.FINISHED, ended=180.0), [logged(50), logged(100)], now=1e9)
    assert (snapshot.elapsed, snapshot.left) == (80.0, None)


def test_the_record_speaks_where_no_events_are() -> None:
    snapshot = snapshot_of(record(step=7), [], now=110.0)
    assert (snapshot.step, snapshot.left, snapshot.loss) == (7, None, [])


def test_commits_of_the_log_are_told_before_the_record_knows() -> None:
    made = Checkpoint(step=10, commit="c1", metrics={"val_loss": 2.0})
    events = [Event(time=1, step=n, commit=f"c{n // 10}", validation={"val_loss": 3.0}) for n in (10, 20)]
    snapshot = snapshot_of(record(checkpoints=(made,)), events, now=110.0)
    assert [(one.step, one.commit) for one in snapshot.checkpoints] == [(10, "c1"), (20, "c2")]
    assert snapshot.checkpoints[0] is made


def test_a_rollback_takes_the_curves_back() -> None:
    back = Incident(kind="loss", step=30, message="the loss is nan", action="rollback", back_to=20)
    events = [
        logged(10, 3.0),
        logged(20, 2.0),
        logged(30, 9.0),
        Event(time=1, step=30, incident=back, message="x"),
    ]
    snapshot = snapshot_of(record(), events, now=110.0)
    assert snapshot.loss == [(10, 3.0), (20, 2.0)]
    assert (snapshot.step, snapshot.incidents, snapshot.messages) == (20, (back,), ())
    went_on = snapshot_of(record(), [*events, logged(25, 1.5)], now=110.0)
    assert went_on.loss[-1] == (25, 1.5)


def test_rates_by_rank() -> None:
    other = Event(time=1, step=10, rates=(30.0, 20.0))
    snapshot = snapshot_of(record(), [logged(10), other], now=110.0)
    assert snapshot.rates == (30.0, 20.0)
    assert snapshot.tokens_per_s == [(10, 50.0)]
    assert snapshot.sent == snapshot.waited == ()


def test_bytes_and_waiting_are_summed_by_rank() -> None:
    events = [Event(time=n, step=n, rates=(1.0, 1.0), sent=(5, 7), waited=(0.5, n)) for n in (10, 20)]
    snapshot = snapshot_of(record(), [logged(5), *events], now=110.0)
    assert (snapshot.sent, snapshot.waited) == ((10, 14), (1.0, 30.0))
