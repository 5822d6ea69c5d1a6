"""Running a planned run: the launcher's side, in the CLI's process. Free of torch.

    plan → data prepared from a temporary worktree of the commit → agent started → its events followed → record kept

The workers commit (rank 0); the launcher alone writes the run's record, at every commit and at the end. A first Ctrl-C
(SIGINT, SIGTERM or SIGHUP) asks the workers to stop after the current step and waits for their last commit, a second
one ends them at once; in both cases everything committed stays. Where there are several machines, this is node 0
(`leading`).
"""

import contextlib
import shutil
import socket
import time
from dataclasses import replace
from pathlib import Path

from git_gru.errors import RunDivergedError, RunFailedError
from git_gru.git.repository import Repository
from git_gru.git.run_control import sweep_runs
from git_gru.git.run_folders import LAUNCHER, hold, run_folder
from git_gru.git.sites import round_of
from git_gru.runs.metrics import Event
from git_gru.runs.record import Failure, RunRecord, RunState
from git_gru.train.architecture import Architecture, architecture_of, check_same
from git_gru.train.beginning import forget_snapshot
from git_gru.train.corpus import prepare
from git_gru.train.failures import find_cause, stall_cause
from git_gru.train.following import Ended, Watcher, follow_agent
from git_gru.train.interrupts import counted_interrupts
from git_gru.train.job import Job, data_folder
from git_gru.train.keeping import Keeper, first_record
from git_gru.train.leading import calling, lead
from git_gru.train.plan import Plan
from git_gru.train.recipe import Recipe
from git_gru.train.roll import Roll
from git_gru.train.sharing import publishing


def run_plan(repo: Repository, plan: Plan, watcher: Watcher) -> RunRecord:
    """Does a planned run and returns its last record (finished or stopped).

    Raises `RunFailedError` when a worker failed; the record then says failed, and what was committed stays.
    """
    sweep_runs(repo)
    with hold(run_folder(repo, plan.run), LAUNCHER):
        return run_held(repo, plan, watcher)


def run_held(repo: Repository, plan: Plan, watcher: Watcher) -> RunRecord:
    """As `run_plan`, for a caller who holds the run's lock already."""
    folder = run_folder(repo, plan.run)
    with contextlib.ExitStack() as stack:
        try:
            roll = None if plan.nodes is None else stack.enter_context(calling(plan, plan.nodes))
            job = job_of(repo, plan)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            if plan.before is None:
                forget_snapshot(repo, plan.run)
            raise
        return _run(repo, plan, job, watcher, roll)


def _run(repo: Repository, plan: Plan, job: Job, watcher: Watcher, roll: Roll | None) -> RunRecord:
    """Trains; afterwards only the logs of a run that failed stay in its folder.

    Also where the launcher itself fails, the record says so.
    """
    publisher = keeper = None
    try:
        with publishing(repo, plan, job) as publisher:
            keeper = Keeper(repo, job, plan.before or first_record(plan), publisher)
            return _follow(repo, plan, job, watcher, keeper, roll)
    except BaseException as error:
        if keeper is not None and keeper.has_begun and keeper.record.state is RunState.RUNNING:
            failure = Failure(message=str(error) or type(error).__name__, host=socket.gethostname())
            keeper.keep(replace(keeper.record, state=RunState.FAILED, ended=time.time(), failure=failure))
        raise
    finally:
        if publisher is not None and publisher.failure is not None:
            watcher.event(Event(time=time.time(), step=publisher.step, message=publisher.failure))
        if keeper is not None and keeper.record.state is RunState.FAILED:
            # its logs stay, but not the data, which the commit holds
            shutil.rmtree(job.data, ignore_errors=True)
        else:
            shutil.rmtree(job.folder, ignore_errors=True)


def prepare_data(
    repo: Repository, source: str, recipe: Recipe, known: Architecture | None, folder: Path
) -> Architecture:
    """Prepares the data of the commit `source` in a run's folder; gives the network that they and the recipe ask for."""
    facts = prepare(repo, source, recipe.data, data_folder(folder), known)
    architecture = architecture_of(recipe.model, facts)
    if known is not None:
        check_same(architecture, known, where=f"{source[:10]}:{recipe.model.path}")
    return architecture


def job_of(repo: Repository, plan: Plan) -> Job:
    """Prepares the data; returns what the workers are told of a planned run."""
    folder = run_folder(repo, plan.run)
    return Job(
        run=plan.run,
        folder=folder,
        repository=repo.top,
        source=plan.source,
        ref=plan.ref,
        parent_model=plan.model.digest if plan.model else None,
        recipe=plan.recipe,
        architecture=prepare_data(repo, plan.source, plan.recipe, plan.known, folder),
        start=plan.start,
        push=plan.push,
        round=round_of(repo, plan.start.commit if plan.start else plan.source),
    )


def fast_forward(repo: Repository, record: RunRecord) -> bool:
    """After a `--here` run: moves the current branch and its worktree to the run's last commit, and drops its own branch.

    False when that is no fast-forward any more (another commit, another branch, changes in the way): the run's branch
    then stays, and nothing is lost.
    """
    current = repo.git("symbolic-ref", "--quiet", "--short", "HEAD", check=False).decode().strip()
    last = f"refs/heads/{record.branch}"
    if current != record.here or repo.completed("merge", "--ff-only", "--quiet", last).returncode != 0:
        return False
    repo.git("branch", "--quiet", "--delete", record.branch)
    return True


def _follow(
    repo: Repository, plan: Plan, job: Job, watcher: Watcher, keeper: Keeper, roll: Roll | None
) -> RunRecord:
    """Has the run trained, on this machine or on several, and settles its record."""
    with counted_interrupts() as interrupts:
        if roll is not None and plan.nodes is not None:
            ended, failure = lead(repo, job, plan, plan.nodes, roll, keeper, watcher, interrupts)
        else:
            keeper.keep(keeper.record)
            watcher.started(keeper.record)
            ended, failure = follow_agent(job, watcher, keeper.take, interrupts), None
    return _settle(job, keeper, ended, failure)


def _settle(job: Job, keeper: Keeper, ended: Ended, failure: Failure | None) -> RunRecord:
    """The record's last version, written down. Raises `RunFailedError` when the workers failed.

    `failure` is what a run of several machines failed with.
    """
    record = replace(keeper.record, ended=time.time())
    if failure is None and (ended.returncode == 0 or ended.killed):
        # without having been asked to, a run leaves before its last step only for want of progress (train.patience)
        done = ended.returncode == 0 and (record.step >= job.recipe.train.steps or not ended.stopped)
        record = replace(record, state=RunState.FINISHED if done else RunState.STOPPED)
        keeper.keep(record)
        return record
    if failure is None:
        stalled = ended.stall
        failure = find_cause(job, ended.returncode) if stalled is None else stall_cause(job, stalled)
    keeper.keep(replace(record, state=RunState.FAILED, failure=failure))
    diverged = bool(record.incidents) and record.incidents[-1].action == "stop"
    kind = RunDivergedError if diverged else RunFailedError
    raise kind(_failure_sentence(record, failure), hint=_failure_hint(record, failure))


def _failure_sentence(record: RunRecord, failure: Failure) -> str:
    who = f"worker {failure.rank}: " if failure.rank is not None else ""
    return f"run {record.id} failed: {who}{failure.message}"


def _failure_hint(record: RunRecord, failure: Failure) -> str:
    kept = f"{_checkpoints(len(record.checkpoints))} on {record.branch}. " if record.checkpoints else ""
    log = f"The log is {failure.log}. " if failure.log else ""
    why = f"{failure.hint} " if failure.hint else ""
    nodes = " --nnodes …, the others with the same command as before" if record.nodes > 1 else ""
    go_on = f"git gru train --resume {record.id}{nodes}"
    return f"{why}{kept}{log}See: git gru runs show {record.id}; go on: {go_on}"


def _checkpoints(count: int) -> str:
    return "1 checkpoint stays" if count == 1 else f"{count} checkpoints stay"
