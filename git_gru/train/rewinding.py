"""Going back to a run's last checkpoint, before it goes on from there: its branch, its record, its event log.

What was written of steps after the checkpoint is forgotten: those steps come again. Where a round snapshot is newer, the run goes
on from that: branch and commits are as of the checkpoint, record and event log as of the round's end.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from git_gru.git.commits import free_branch, move_ref
from git_gru.git.repository import Repository
from git_gru.git.run_refs import read_checkpoints
from git_gru.git.run_states import read_states
from git_gru.runs.metrics import Event, parse_events
from git_gru.runs.record import RunRecord
from git_gru.train.job import Start
from git_gru.train.round_snapshots import discard, read_snapshot


def find_start(repo: Repository, run: str) -> Start | None:
    """The last checkpoint of a run that has a resume state; None where it has none."""
    states = read_states(repo, run)
    if states is None:
        return None
    return Start(step=states.newest, commit=states.checkpoint, state=states.blobs[states.newest])


def rewound(repo: Repository, record: RunRecord) -> tuple[RunRecord, Start | None]:
    """The record as of the run's last checkpoint, and that; for a caller who holds the run's locks.

    Moves the run's branch there.
    """
    start = find_start(repo, record.id)
    branch = _branch(repo, record, start)
    checkpoints = read_checkpoints(repo, record.id, record.source, start.commit) if start else []
    known = {made.commit: made for made in record.checkpoints}  # with their metrics in full
    record = replace(
        record,
        branch=branch,
        step=start.step if start else 0,
        checkpoints=tuple(known.get(made.commit, made) for made in checkpoints),
    )
    return record, start


def round_end_after(step: int, folder: Path) -> int | None:
    """The step of the round snapshot in a run's folder, where it is newer than the checkpoint of `step`.

    Deletes one that is not, or is not whole.
    """
    found = read_snapshot(folder)
    if found is not None and found.step > step:
        return found.step
    discard(folder)
    return None


def cut_events(path: Path, record: RunRecord) -> None:
    """Takes out of an event log what `events_until` leaves out; whatever happens, the log is there, the old one or the new."""
    events = parse_events(path.read_bytes()) if path.exists() else []
    beside = path.with_name(f"{path.name}.new")
    beside.write_bytes(events_until(record, events))
    beside.replace(path)


def events_until(record: RunRecord, before: Sequence[Event]) -> bytes:
    """The event log of a run as of its record's step, of the events that were there before."""
    events = [event for event in before if record.step and event.step <= record.step]
    told = {event.commit for event in events}
    events += [  # of the last checkpoint, where the launcher or worker was killed before it was told
        Event(time=time.time(), step=made.step, validation=made.metrics, commit=made.commit)
        for made in record.checkpoints
        if made.commit not in told
    ]
    return b"".join(event.encode() for event in events)


def _branch(repo: Repository, record: RunRecord, start: Start | None) -> str:
    """The branch to go on with, standing at the checkpoint (not there without one).

    It is the run's own unless somebody else has moved it: then it is left alone, and a new one made beside it.
    """
    name = record.branch
    tip = _commit_at(repo, f"refs/heads/{name}")
    if start is None and tip is None:
        return name
    if start is not None:
        if tip == start.commit:
            return name
        # killed before the branch was moved
        if tip is None or (tip != record.source and _is_before(repo, tip, start.commit)):
            move_ref(repo, f"refs/heads/{name}", start.commit, tip, f"resume of the run {record.id}")
            return name
    beside = free_branch(repo, name)
    if start is not None:
        move_ref(repo, f"refs/heads/{beside}", start.commit, None, f"resume of the run {record.id}")
    return beside


def _is_before(repo: Repository, earlier: str, commit: str) -> bool:
    return repo.completed("merge-base", "--is-ancestor", earlier, commit).returncode == 0


def _commit_at(repo: Repository, name: str) -> str | None:
    found = repo.completed("rev-parse", "--verify", "--quiet", name)
    return found.stdout.decode().strip() if found.returncode == 0 else None
