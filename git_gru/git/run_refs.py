"""Where runs stand in the user's repository: `refs/gru/runs/<id>/record`, `/source`.

`record` points to a commit without a parent whose tree holds `run.json`, `metrics.jsonl` and `logs/`; a new version of
the record replaces it, so a run costs one small commit however often it was updated. Only the run's launcher writes it.
"""

import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from git_gru.errors import InputError
from git_gru.git.repository import Repository
from git_gru.git.run import is_running
from git_gru.git.run_folders import LAUNCHER, is_held, run_folder
from git_gru.runs.metrics import Event, parse_events
from git_gru.runs.record import Checkpoint, Failure, RunRecord, RunState, parse_record
from git_gru.runs.trailers import parse_checkpoint

PREFIX = "refs/gru/runs/"
RECORD_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"


class UnknownRunError(InputError):
    """No run of that id is recorded here."""


def record_ref(run: str) -> str:
    """The ref of a run's record."""
    return f"{PREFIX}{run}/record"


def source_ref(run: str) -> str:
    """The ref that keeps the snapshot of an unclean worktree that a run started from."""
    return f"{PREFIX}{run}/source"


def write_record(repo: Repository, record: RunRecord, metrics: bytes, logs: Mapping[str, bytes]) -> str:
    """Makes the record commit of a run and points its ref at it; returns the commit's id. `logs`: file name → bytes."""
    import pygit2

    objects: Any = repo.pygit2
    blob, tree = pygit2.enums.FileMode.BLOB, pygit2.enums.FileMode.TREE
    top = objects.TreeBuilder()
    top.insert(RECORD_FILE, objects.create_blob(record.encode()), blob)
    top.insert(METRICS_FILE, objects.create_blob(metrics), blob)
    if logs:
        folder = objects.TreeBuilder()
        for name, data in logs.items():
            folder.insert(name, objects.create_blob(data), blob)
        top.insert("logs", folder.write(), tree)
    # now: of two versions of a record the later one holds
    who = pygit2.Signature("git-gru", "git-gru@localhost")
    message = f"run {record.id}: {record.state}, {record.progress}\n"
    commit = str(objects.create_commit(None, who, who, message, top.write(), []))
    repo.git("update-ref", record_ref(record.id), commit)
    return commit


def run_ids(repo: Repository) -> list[str]:
    """The ids of all recorded runs, oldest first."""
    refs = repo.git("for-each-ref", "--format=%(refname)", f"{PREFIX}*/record").decode().split()
    return sorted(ref.removeprefix(PREFIX).removesuffix("/record") for ref in refs)


def find_run(repo: Repository, name: str) -> str:
    """The id of the run that `name` (an id, or the beginning of just one) stands for. Raises `UnknownRunError`."""
    ids = run_ids(repo)
    matches = [run for run in ids if run == name] or [run for run in ids if run.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UnknownRunError(
            f"{name} may mean any of the runs {', '.join(matches)}", hint="Write more of the id."
        )
    raise UnknownRunError(f"there is no run {name} here", hint="See which there are: git gru runs list")


def read_record(repo: Repository, run: str) -> RunRecord:
    """The record of the run with the full id `run`; one whose launcher is gone is told as failed."""
    record = parse_record(_read(repo, run, RECORD_FILE), where=f"{record_ref(run)}:{RECORD_FILE}")
    return _settled(repo, record)


def read_events(repo: Repository, run: str) -> list[Event]:
    """The events of a run, as of its last update of the record."""
    return parse_events(_read(repo, run, METRICS_FILE))


def read_checkpoints(repo: Repository, run: str, source: str, tip: str) -> list[Checkpoint]:
    """The run's checkpoints between its source and the commit `tip`, oldest first; metrics as the messages round them.

    Merges of sites, whose first parent may be another site's, stand between those of a site.
    """
    log = repo.git("log", "--topo-order", "--reverse", "--format=%H%n%B%x00", f"{source}..{tip}")
    found = []
    for entry in log.decode("utf-8", "replace").split("\0"):
        commit, _, message = entry.strip().partition("\n")
        info = parse_checkpoint(message)
        if info is not None and info.run == run:
            found.append(Checkpoint(step=info.step, commit=commit, metrics=info.metrics))
    return found


def read_metrics_log(repo: Repository, run: str) -> bytes:
    """The run's event log as far as it got: that of its working folder where it has one, else the record's."""
    try:
        return (run_folder(repo, run) / METRICS_FILE).read_bytes()
    except FileNotFoundError:
        return _read(repo, run, METRICS_FILE)


def _read(repo: Repository, run: str, name: str) -> bytes:
    try:
        data: bytes = repo.pygit2.revparse_single(f"{record_ref(run)}:{name}").data
    except KeyError as error:
        raise UnknownRunError(
            f"there is no run {run} here", hint="See which there are: git gru runs list"
        ) from error
    return data


def _settled(repo: Repository, record: RunRecord) -> RunRecord:
    """`record`, or the same as failed when it says running and the launcher's process on this host is gone."""
    if record.state is not RunState.RUNNING or record.host != socket.gethostname():
        return record
    held = is_held(run_folder(repo, record.id), LAUNCHER)
    if held or (held is None and is_running(record.pid)):
        return record
    killed = record.trainer or "the launcher of this run"
    hint = f"Go on: git gru train --resume {record.id}" if record.trainer is None else None
    gone = Failure(message=f"{killed} was killed", host=record.host, hint=hint)
    return replace(record, state=RunState.FAILED, failure=gone)
