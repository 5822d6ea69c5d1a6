"""A run's metrics as CSV and as plain JSON values, for spreadsheets and notebooks."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from git_gru.runs.metrics import Event

_FIRST = ("time", "step", "rank", "loss", "lr", "tokens_per_s")
_LAST = ("commit", "blocked_s", "incident", "message")


def metrics_json(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Each event as the object that stands in the run's log; `rank` is always there."""
    return [{"rank": event.rank, **json.loads(event.encode())} for event in events]


def metrics_csv(events: Sequence[Event]) -> str:
    """A header and a row for each event; what an event does not have is empty, of an incident stands its kind.

    Columns: `time` (seconds since the epoch), `step`, `rank`, `loss`, `lr`, `tokens_per_s`, the validation metrics, `commit`,
    `blocked_s`, `incident`, `message`. After a rollback lower steps follow on higher ones.
    """
    validation = list(dict.fromkeys(name for event in events for name in event.validation))
    out = io.StringIO()
    writer = csv.DictWriter(out, [*_FIRST, *validation, *_LAST], restval="", lineterminator="\n")
    writer.writeheader()
    for row in metrics_json(events):
        if "incident" in row:
            row["incident"] = row["incident"]["kind"]
        writer.writerow(row)
    return out.getvalue()
