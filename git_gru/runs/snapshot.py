"""A run at one moment, as a watcher shows it: made of its record and its events. Free of torch, Git and the terminal."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from git_gru.runs.incidents import Incident
from git_gru.runs.metrics import Event
from git_gru.runs.record import Checkpoint, Failure, RunRecord, RunState

PACE_EVENTS = 20
"""Lines of the log over which the pace is measured that the time left is told by."""

Number = TypeVar("Number", int, float)

Curve = Sequence[tuple[int, float]]
"""(step, value), in the order of the steps."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """See the module. Times in seconds; `left` is None when it cannot be told, as `elapsed` goes on while the run does.

    After a rollback the curves hold what came after it only. `rates` are the newest tokens per second of each rank while it
    computed, by rank, and `shares` the samples of a step that it takes; `sent` and `waited` the bytes that each sent to keep the
    weights together in the whole run, and the seconds that it waited for them. Empty where nobody tells. Of a site that
    trains with others, `round` and `sites` are those of the end of its last round (`git_gru.runs.metrics`).
    """

    id: str
    state: RunState
    branch: str
    host: str
    nproc: int
    step: int
    steps: int | None
    elapsed: float
    left: float | None
    loss: Curve
    val_loss: Curve
    lr: Curve
    tokens_per_s: Curve
    rates: Sequence[float]
    shares: Sequence[int]
    sent: Sequence[int]
    waited: Sequence[float]
    round: int | None
    sites: Mapping[str, Mapping[str, float]]
    checkpoints: Sequence[Checkpoint]
    incidents: Sequence[Incident]
    messages: Sequence[str]
    failure: Failure | None

    def as_json(self) -> dict[str, Any]:
        """The snapshot as plain JSON values."""
        return dataclasses.asdict(self)


def snapshot_of(record: RunRecord, events: Sequence[Event], now: float) -> Snapshot:
    """The run at the time `now`; `events` may reach further than the record, which is written at checkpoints only."""
    kept = _after_rollbacks(events)
    step = max([event.step for event in kept], default=0)
    made = {checkpoint.commit: checkpoint for checkpoint in record.checkpoints}
    for event in events:
        if event.commit is not None:
            made.setdefault(
                event.commit, Checkpoint(step=event.step, commit=event.commit, metrics=event.validation)
            )
    met = next((event for event in reversed(kept) if event.round is not None), None)
    over = record.ended if record.state is not RunState.RUNNING else now
    return Snapshot(
        id=record.id,
        state=record.state,
        branch=record.branch,
        host=record.host,
        nproc=record.nproc,
        step=step if events else record.step,
        steps=record.steps,
        elapsed=max(0.0, (over or _last_time(record, events)) - record.started),
        left=_left(kept, record.steps - step)
        if record.state is RunState.RUNNING and record.steps is not None
        else None,
        loss=_curve(kept, "loss"),
        val_loss=[
            (event.step, event.validation["val_loss"]) for event in kept if "val_loss" in event.validation
        ],
        lr=_curve(kept, "lr"),
        tokens_per_s=_curve(kept, "tokens_per_s"),
        rates=next((event.rates for event in reversed(kept) if event.rates), ()),
        shares=next((event.shares for event in reversed(kept) if event.shares), ()),
        sent=_sums([event.sent for event in events]),
        waited=_sums([event.waited for event in events]),
        round=met.round if met else None,
        sites=met.sites if met else {},
        checkpoints=tuple(made.values()),
        incidents=tuple(event.incident for event in events if event.incident) or record.incidents,
        messages=tuple(event.message for event in events if event.message and not event.incident),
        failure=record.failure,
    )


def _after_rollbacks(events: Sequence[Event]) -> list[Event]:
    """The events that still hold: a rollback takes back those of later steps than it went to."""
    kept: list[Event] = []
    for event in events:
        if event.incident is not None and event.incident.back_to is not None:
            back = event.incident.back_to
            kept = [earlier for earlier in kept if earlier.step <= back]
        elif event.incident is None:
            kept.append(event)
    return kept


def _curve(events: Sequence[Event], key: str) -> Curve:
    """The values of rank 0, who tells of all."""
    return [
        (event.step, value)
        for event in events
        if not event.rank and (value := getattr(event, key)) is not None
    ]


def _sums(by_rank: Iterable[Sequence[Number]]) -> tuple[Number, ...]:
    """Sums over events, by rank."""
    return tuple(map(sum, zip(*filter(None, by_rank), strict=False)))


def _left(events: Sequence[Event], steps: int) -> float | None:
    paced = [event for event in events if event.loss is not None and not event.rank][-PACE_EVENTS:]
    if len(paced) < 2 or paced[-1].step <= paced[0].step:
        return None
    return steps * (paced[-1].time - paced[0].time) / (paced[-1].step - paced[0].step)


def _last_time(record: RunRecord, events: Sequence[Event]) -> float:
    return events[-1].time if events else record.started
