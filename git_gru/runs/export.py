"""A run's metrics as CSV and as plain JSON values, for spreadsheets and notebooks."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from git_gru.runs.metrics import Event

_FIRST = ("time", "step", "rank", "loss", "lr", "tokens_per_s")
_LAST = ("commit", "branch", "blocked_s", "incident", "message")
_BY_RANK = {"rates": "rate", "shares": "share", "sent": "sent", "waited": "waited"}
"""Keys of events that hold a value for each rank, and how their columns begin."""


def metrics_json(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Each event as the object that stands in the run's log; `rank` is always there."""
    return [{"rank": event.rank, **json.loads(event.encode())} for event in events]


def metrics_csv(events: Sequence[Event]) -> str:
    """A header and a row for each event; what an event does not have is empty, of an incident stands its kind.

    Columns: `time` (seconds since the epoch), `step`, `rank`, `loss`, `lr`, `tokens_per_s`, the validation metrics, what else
    a trainer logged, `rate_0`, `share_0`, `sent_0`, `waited_0` and so on (each rank's tokens per second, samples of a step,
    bytes, seconds), `round` (of a site that trains with others), `commit`, `branch`, `blocked_s`, `incident`, `message`.
    After a rollback lower steps follow on higher ones.
    """
    more = list(dict.fromkeys(name for event in events for name in event.validation))
    more += dict.fromkeys(_column(name) for event in events for name in event.metrics)
    ranks = max((len(event.rates) for event in events), default=0)
    more += [f"{column}_{rank}" for column in _BY_RANK.values() for rank in range(ranks)]
    more += ["round"] if any(event.round is not None for event in events) else []
    out = io.StringIO()
    writer = csv.DictWriter(out, [*_FIRST, *more, *_LAST], restval="", lineterminator="\n")
    writer.writeheader()
    for row in metrics_json(events):
        if "incident" in row:
            row["incident"] = row["incident"]["kind"]
        row.pop("sites", None)  # a table of its own: the JSON has it
        others = {_column(name): value for name, value in row.pop("metrics", {}).items()}
        for key, column in _BY_RANK.items():
            others |= {f"{column}_{rank}": value for rank, value in enumerate(row.pop(key, ()))}
        writer.writerow(row | others)
    return out.getvalue()


def _column(metric: str) -> str:
    """The column of what a trainer logged by itself: its name, unless a column of ours has that."""
    return (
        f"metrics.{metric}"
        if metric in (*_FIRST, *_LAST) or metric.startswith(tuple(f"{what}_" for what in _BY_RANK.values()))
        else metric
    )
