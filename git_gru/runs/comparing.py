"""Runs side by side: the keys of their recipes that differ, what they came to, and their curves."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from git_gru.runs.metrics import Event
from git_gru.runs.record import RunRecord

Curve = list[tuple[int, float]]
"""Steps and values, by rising step."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`recipe` and `metrics` hold one value for each of `runs`, None where a run has none.

    `recipe` has the keys (`train.lr`) whose values are not all equal, and `source` where the runs started from several commits;
    `metrics` those of each run's last checkpoint.
    """

    runs: tuple[str, ...]
    recipe: Mapping[str, tuple[Any, ...]]
    metrics: Mapping[str, tuple[float | None, ...]]


def compare(records: Sequence[RunRecord]) -> Comparison:
    """Compares runs, in their order."""
    flat = [_flat(record) for record in records]
    keys = dict.fromkeys(key for values in flat for key in values)
    rows = {key: tuple(values.get(key) for values in flat) for key in keys}
    last = [record.checkpoints[-1].metrics if record.checkpoints else {} for record in records]
    names = dict.fromkeys(name for metrics in last for name in metrics)
    return Comparison(
        runs=tuple(record.id for record in records),
        recipe={key: row for key, row in rows.items() if any(value != row[0] for value in row)},
        metrics={name: tuple(metrics.get(name) for metrics in last) for name in names},
    )


def curve(events: Iterable[Event], metric: str) -> Curve:
    """How `metric` (`loss`, `lr`, `tokens_per_s`, `val_…`, one of a trainer's own) went; of a step told twice, the last value."""
    found: dict[int, float] = {}
    for event in events:
        value = event.validation.get(metric, event.metrics.get(metric))
        if value is None and metric in ("loss", "lr", "tokens_per_s"):
            value = getattr(event, metric)
        if value is not None:
            found[event.step] = value
    return sorted(found.items())


def _flat(record: RunRecord) -> dict[str, Any]:
    recipe = {
        f"{section}.{key}": value for section, table in record.recipe.items() for key, value in table.items()
    }
    return {"source": record.source, **recipe}
