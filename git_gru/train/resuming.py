"""Resuming a run that was stopped, failed or was killed: its record says what it was, its last checkpoint where it goes on.

    the record → recipe, source, branch;   refs/gru/runs/<id>/resume → the last checkpoint and its state   → a plan

A run without a checkpoint begins again at its source. A run of several machines is resumed where its record is: on node 0.
"""

import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import replace

from git_gru.errors import InputError
from git_gru.git.repository import Repository
from git_gru.git.revisions import models_at
from git_gru.git.run_folders import LAUNCHER, LAUNCHER_LOG, WORKER, RunBusyError, hold, is_held, run_folder
from git_gru.git.run_refs import METRICS_FILE, find_run, read_metrics_log, read_record
from git_gru.git.run_states import read_states
from git_gru.runs.metrics import Event, parse_events
from git_gru.runs.record import RunRecord, RunState
from git_gru.train.beginning import this_process
from git_gru.train.following import Watcher
from git_gru.train.launch import run_held
from git_gru.train.nodes import Nodes
from git_gru.train.plan import Plan, known_architecture, require_torch
from git_gru.train.recipe_file import DEFAULT_PATH, overridden
from git_gru.train.rewinding import events_until, rewound

_LAST_BREATH = 30.0
"""Seconds for which a worker of a launcher that was killed is waited for."""

_STAYS = (LAUNCHER, WORKER, LAUNCHER_LOG)


class ResumeRefusedError(InputError):
    """A run that cannot be resumed."""


def resume(
    repo: Repository,
    name: str,
    watcher: Watcher,
    *,
    nodes: Nodes | None = None,
    overrides: Sequence[str] = (),
) -> tuple[Plan, RunRecord]:
    """Goes on with the run that `name` stands for; returns what was planned and the run's last record.

    `nodes` are the machines that it goes on with, None for this one alone; `overrides` are of its recipe's section `launch`.

    Raises `UnknownRunError`, `ResumeRefusedError` and what `run_plan` raises.
    """
    require_torch()
    run = find_run(repo, name)
    check_resumable(repo, run)
    folder = run_folder(repo, run)
    try:
        with hold(folder, LAUNCHER):
            with hold(folder, WORKER, patience=_LAST_BREATH):
                plan = plan_resume(repo, run, nodes=nodes, overrides=overrides)
            return plan, run_held(repo, plan, watcher)
    except RunBusyError as error:
        raise _still_running(run) from error


def check_resumable(repo: Repository, run: str) -> None:
    """Raises `ResumeRefusedError` for a run that is finished, still running, or somebody else's."""
    record = read_record(repo, run)
    elsewhere = record.host != socket.gethostname()
    if record.trainer is not None:
        raise ResumeRefusedError(
            f"the run {run} was trained by {record.trainer}, which git-gru cannot start",
            hint=f"Start it again on the run's last commit: git switch {record.branch}",
        )
    if record.state is RunState.FINISHED:
        raise ResumeRefusedError(
            f"the run {run} is finished: {record.progress}",
            hint=f"Train on from its last commit: git gru train {record.branch}",
        )
    if is_held(run_folder(repo, run), LAUNCHER):
        raise _still_running(run)
    if elsewhere and record.state is RunState.RUNNING:
        raise ResumeRefusedError(
            f"the run {run} is running on {record.host}, as far as its record here says",
            hint="If it was pushed, its record can be fetched anew: git gru runs fetch REMOTE",
        )
    if elsewhere and read_states(repo, run) is None:
        raise ResumeRefusedError(
            f"what a resume of the run {run} needs is on {record.host}, and not here",
            hint=f"Resume it there, or train on from its last commit: git gru train {record.branch}",
        )


def _still_running(run: str) -> ResumeRefusedError:
    return ResumeRefusedError(
        f"the run {run} is still running", hint=f"Stop it first: git gru runs stop {run}"
    )


def plan_resume(
    repo: Repository, run: str, *, nodes: Nodes | None = None, overrides: Sequence[str] = ()
) -> Plan:
    """How a run goes on, for a caller who holds its locks; see `resume`.

    Moves its branch to the last checkpoint, and leaves in its folder what is true of that.
    """
    record = read_record(repo, run)
    recipe = overridden(record.recipe, overrides, where=f"the recipe of the run {run}")
    record, start = rewound(repo, record)
    record = replace(
        record,
        state=RunState.RUNNING,
        ended=None,
        failure=None,
        recipe=recipe.as_json(),
        overrides=(*record.overrides, *overrides),
        nproc=recipe.launch.nproc,
        nodes=1,
        **this_process(),
    )
    _renew_folder(repo, record)
    return Plan(
        run=run,
        source=record.source,
        dirty=record.dirty,
        branch=record.branch,
        here=record.here,
        recipe_path=record.recipe_path or DEFAULT_PATH,
        recipe=recipe,
        overrides=record.overrides,
        model=models_at(repo, record.source).get(recipe.model.path),
        known=known_architecture(repo, start.commit if start else record.source, recipe),
        before=record,
        start=start,
        push=record.push,
        nodes=nodes,
    )


def _renew_folder(repo: Repository, record: RunRecord) -> None:
    """Leaves in the run's folder its event log up to the checkpoint, and nothing else of the time before."""
    before = parse_events(read_metrics_log(repo, record.id)) if record.step else []
    folder = run_folder(repo, record.id)
    for path in folder.iterdir():
        if path.name in _STAYS:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    message = f"resumed after step {record.step}, commits go to {record.branch}"
    event = Event(time=time.time(), step=record.step, message=message)
    (folder / METRICS_FILE).write_bytes(events_until(record, before) + event.encode())
