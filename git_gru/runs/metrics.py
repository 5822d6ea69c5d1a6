"""The event log of a run: `metrics.jsonl`, one JSON object a line, appended as training goes on.

An *event* belongs to a step and carries what became known there. Keys (all but the first two optional):

| key | meaning |
| --- | --- |
| `time` | seconds since the epoch |
| `step` | optimizer steps done when it was written |
| `rank` | the worker that wrote it; left out for rank 0 |
| `loss` | training loss per token (mean over the global batches since the last such event) |
| `lr` | learning rate of that step |
| `tokens_per_s` | throughput of all workers together, evaluation and committing not counted |
| `rates` | tokens per second of each rank while it computed, by rank: what it waited for others is left out |
| `shares` | samples of a step by rank, from now on |
| `sent` | bytes that each rank sent to keep the weights together since the last such event, by rank |
| `waited` | seconds for which each rank stood still meanwhile until they were exchanged, by rank |
| `round` | of a site that trains with others: the rounds that the weights it goes on with have behind them |
| `sites` | with `round`: by site its `round`, its `weight` in the merge, its `val_loss` |
| `val_…` | validation metrics, `val_loss` first |
| `metrics` | what a user's own trainer logs beside these: an object of numbers |
| `commit` | the checkpoint commit made of that step |
| `branch` | with `commit`: the branch that commits go to from this one on, where it is another than before |
| `blocked_s` | with `commit`: seconds that training waited for this checkpoint (copying the weights included) |
| `incident` | what the guard caught there (`git_gru.runs.incidents`); after a rollback, lower steps follow |
| `change` | other nodes train from here on: `nodes`, `lost_at` (step), `from` (the step they go on from), `seconds` it took |
| `message` | a sentence for the user |

A line is written by one `write` to a file opened for appending, so a reader sees whole lines and at most one torn line at
the end, which it leaves for later. Unknown keys are ignored: a newer writer may add some.
"""

import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from git_gru.runs.incidents import Incident, parse_incident

VALIDATION_PREFIX = "val_"
_NUMBERS = ("loss", "lr", "tokens_per_s", "blocked_s")
_TEXTS = ("commit", "branch", "message")
_OBJECTS = ("metrics", "change")
_BY_RANK: dict[str, type[float] | type[int]] = {"rates": float, "shares": int, "sent": int, "waited": float}


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of the log; see the module's table."""

    time: float
    step: int
    rank: int = 0
    loss: float | None = None
    lr: float | None = None
    tokens_per_s: float | None = None
    rates: tuple[float, ...] = ()
    shares: tuple[int, ...] = ()
    sent: tuple[int, ...] = ()
    waited: tuple[float, ...] = ()
    round: int | None = None
    sites: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    validation: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    commit: str | None = None
    branch: str | None = None
    blocked_s: float | None = None
    incident: Incident | None = None
    change: Mapping[str, float] = field(default_factory=dict)
    message: str | None = None

    def encode(self) -> bytes:
        """The line, with its newline; `validation` is laid flat under its own keys."""
        line: dict[str, Any] = {"time": round(self.time, 3), "step": self.step}
        if self.rank:
            line["rank"] = self.rank
        for key in (*_NUMBERS, *_TEXTS):
            if (value := getattr(self, key)) is not None:
                line[key] = value
        if self.incident is not None:
            line["incident"] = self.incident.as_json()
        for key in _BY_RANK:
            if values := getattr(self, key):
                line[key] = list(values)
        for key in _OBJECTS:
            if numbers := getattr(self, key):
                line[key] = dict(numbers)
        if self.round is not None:
            line |= {"round": self.round, "sites": {site: dict(seen) for site, seen in self.sites.items()}}
        line.update(self.validation)
        return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def parse_event(line: bytes) -> Event | None:
    """The event in one line; None when the line is no event (a log is read as far as it is readable)."""
    try:
        data = json.loads(line)
        if not isinstance(data, dict):
            return None
        values: dict[str, Any] = {key: float(data[key]) for key in _NUMBERS if key in data}
        values |= {key: str(data[key]) for key in _TEXTS if key in data}
        for key, kind in _BY_RANK.items():
            if key in data:
                values[key] = tuple(kind(value) for value in data[key])
        for key in _OBJECTS:
            if key in data:
                values[key] = {str(name): float(value) for name, value in data[key].items()}
        if "round" in data:
            values["round"] = int(data["round"])
            values["sites"] = {
                str(site): {str(key): float(value) for key, value in seen.items()}
                for site, seen in data.get("sites", {}).items()
            }
        if "incident" in data:
            values["incident"] = parse_incident(data["incident"])
        return Event(
            time=float(data["time"]),
            step=int(data["step"]),
            rank=int(data.get("rank", 0)),
            validation={
                key: float(value) for key, value in data.items() if key.startswith(VALIDATION_PREFIX)
            },
            **values,
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def parse_events(data: bytes) -> list[Event]:
    """All events in `data`; lines that are none, and a last line without its newline, are left out."""
    whole, _, _ = data.rpartition(b"\n")
    return [event for line in whole.split(b"\n") if (event := parse_event(line)) is not None]


class EventWriter:
    """Appends events to a file; threads may share it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._lock = threading.Lock()
        self._torn = False

    def write(self, event: Event) -> None:
        """Appends one line. Raises OSError when the disk is full; what was written of the line is then no part of the next."""
        line = event.encode()
        with self._lock:
            left = memoryview(b"\n" + line if self._torn else line)
            self._torn = True
            while left:
                left = left[os.write(self._file, left) :]
            self._torn = False

    def close(self) -> None:
        """Closes the file; the writer is of no use afterwards."""
        os.close(self._file)


class EventFollower:
    """Reads a log as it grows. `poll` gives the events that came whole since the last call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self.is_cut = False
        """Whether the last `poll` found the log shorter than before, as a resume makes it, and gave all of it again."""

    def poll(self) -> list[Event]:
        """New events, oldest first; nothing when the file is not there yet."""
        try:
            with self._path.open("rb") as file:
                self.is_cut = os.fstat(file.fileno()).st_size < self._position
                if self.is_cut:
                    self._position = 0
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return []
        end = data.rfind(b"\n") + 1
        self._position += end
        return parse_events(data[:end])


def last_validation(events: Iterable[Event]) -> Mapping[str, float]:
    """The newest validation metrics among `events` (empty when there are none)."""
    newest: Mapping[str, float] = {}
    for event in events:
        newest = event.validation or newest
    return newest
