"""Running a planned run: the launcher's side, in the CLI's process. Free of torch.

    plan → data prepared from a temporary worktree of the commit → agent started → its events followed → record kept

The workers commit (rank 0); the launcher alone writes the run's record, at every commit and at the end. A first Ctrl-C
(SIGINT, SIGTERM or SIGHUP) asks the workers to stop after the current step and waits for their last commit, a second
one ends them at once; in both cases everything committed stays.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

from git_gru.errors import GruError, RunDivergedError, RunFailedError
from git_gru.git.repository import Repository
from git_gru.git.run_control import sweep_runs
from git_gru.git.run_folders import LAUNCHER, hold, run_folder
from git_gru.git.run_refs import write_record
from git_gru.git.sites import round_of
from git_gru.runs.metrics import Event, EventFollower
from git_gru.runs.record import Checkpoint, Failure, RunRecord, RunState
from git_gru.train.architecture import Architecture, architecture_of, check_same
from git_gru.train.beginning import environment, forget_snapshot
from git_gru.train.corpus import prepare
from git_gru.train.failures import collect_logs, find_cause, stall_cause
from git_gru.train.heartbeat import Stall, StallWatch
from git_gru.train.interrupts import counted_interrupts
from git_gru.train.job import Job, data_folder
from git_gru.train.plan import Plan
from git_gru.train.processes import worker_threads
from git_gru.train.recipe import Recipe
from git_gru.train.sharing import Publisher, publishing

POLL_SECONDS = 0.1
KILL_AFTER_SECONDS = 3.0


class Watcher(Protocol):
    """Who wants to see a run as it goes; called in the launcher's thread."""

    def started(self, record: RunRecord) -> None:
        """The workers are being started."""

    def event(self, event: Event) -> None:
        """Rank 0 wrote an event."""

    def stopping(self) -> None:
        """The user asked to stop (here, or by `git gru runs stop`); the workers finish their step and make a last commit."""


class Ended(NamedTuple):
    """How the agent ended: whether it was asked to stop, whether it was then killed, and the worker that stood still."""

    returncode: int
    stopped: bool
    killed: bool
    stall: Stall | None


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
    try:
        job = job_of(repo, plan)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if plan.before is None:
            forget_snapshot(repo, plan.run)
        raise
    keep_logs = False
    publisher = None
    try:
        with publishing(repo, plan, job) as publisher:
            return _follow(repo, plan, job, watcher, publisher)
    except RunFailedError:
        keep_logs = True
        raise
    finally:
        if publisher is not None and publisher.failure is not None:
            watcher.event(Event(time=time.time(), step=publisher.step, message=publisher.failure))
        if keep_logs:  # but not the data, which the commit holds
            shutil.rmtree(job.data, ignore_errors=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)


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
        nodes=plan.nodes,
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
    repo: Repository, plan: Plan, job: Job, watcher: Watcher, publisher: Publisher | None
) -> RunRecord:
    """Starts the agent and keeps the record until it ends."""
    record = plan.before or first_record(plan)

    def keep() -> None:
        _keep(repo, job, record)
        if publisher is not None:
            if publisher.ref is not None:
                publisher.ref = f"refs/heads/{record.branch}"
            publisher.tell(record.step)

    def take(event: Event) -> None:
        nonlocal record
        record = _with_event(record, event)
        if event.commit:
            keep()

    keep()
    watcher.started(record)

    ended = follow_agent(job, watcher, take)
    return _settle(repo, job, record, ended)


def follow_agent(job: Job, watcher: Watcher, take: Callable[[Event], None]) -> Ended:
    """Starts the agent and waits until it ends, as the user may ask it to; `take` sees every event before `watcher` does."""
    follower = EventFollower(job.events)
    follower.poll()  # what a resumed run has of the time before
    shutil.rmtree(job.heartbeats, ignore_errors=True)
    stalls, stall = StallWatch(job.heartbeats, job.recipe.guard.stall), None
    with counted_interrupts() as interrupts, _agent(job) as agent:
        told = False
        while True:
            ended = agent.poll() is not None  # before the events are read, so that none of the last is missed
            for event in follower.poll():
                take(event)
                watcher.event(event)
            if ended:
                break
            if not told and (interrupts.count or job.stop.exists()):
                told = True
                job.stop.touch()
                watcher.stopping()
            stall = stall or stalls.poll()
            if interrupts.count > 1 or stall is not None:
                _end(agent)
            time.sleep(POLL_SECONDS)
        return Ended(agent.returncode, told or job.stop.exists(), interrupts.count > 1, stall)


def _settle(repo: Repository, job: Job, record: RunRecord, ended: Ended) -> RunRecord:
    """The record's last version, written down. Raises `RunFailedError` when the workers failed."""
    record = replace(record, ended=time.time())
    if ended.returncode == 0 or ended.killed:
        # without having been asked to, a run leaves before its last step only for want of progress (train.patience)
        done = ended.returncode == 0 and (record.step >= job.recipe.train.steps or not ended.stopped)
        record = replace(record, state=RunState.FINISHED if done else RunState.STOPPED)
        _keep(repo, job, record)
        return record
    stalled = ended.stall
    failure = stall_cause(job, stalled) if stalled is not None else find_cause(job, ended.returncode)
    _keep(repo, job, replace(record, state=RunState.FAILED, failure=failure))
    diverged = bool(record.incidents) and record.incidents[-1].action == "stop"
    kind = RunDivergedError if diverged else RunFailedError
    raise kind(_failure_sentence(record, failure), hint=_failure_hint(job, record, failure))


def _failure_sentence(record: RunRecord, failure: Failure) -> str:
    who = f"worker {failure.rank}" if failure.rank is not None else "the run"
    return f"run {record.id} failed: {who}: {failure.message}"


def _failure_hint(job: Job, record: RunRecord, failure: Failure) -> str:
    kept = f"{_checkpoints(len(record.checkpoints))} on {record.branch}. " if record.checkpoints else ""
    log = f"The log is {failure.log}. " if failure.log else ""
    why = f"{failure.hint} " if failure.hint else ""
    see = f"See: git gru runs show {record.id}"
    if record.nodes == 1:
        see += f"; go on: git gru train --resume {record.id}"
    elif record.checkpoints:
        see += f"; go on from its last commit, with the same command on each node: git gru train {record.branch} …"
    return f"{why}{kept}{log}{see}"


def first_record(plan: Plan) -> RunRecord:
    """The record of a run that begins."""
    count = plan.nodes.count if plan.nodes is not None else 1
    return RunRecord(
        id=plan.run,
        state=RunState.RUNNING,
        started=time.time(),
        source=plan.source,
        dirty=plan.dirty,
        branch=plan.branch,
        here=plan.here,
        push=plan.push,
        model=plan.recipe.model.path,
        parent_model=plan.model.digest if plan.model else None,
        recipe_path=plan.recipe_path,
        recipe=plan.recipe.as_json(),
        overrides=plan.overrides,
        nproc=plan.recipe.launch.nproc * count,
        nodes=count,
        seed=plan.recipe.train.seed,
        steps=plan.recipe.train.steps,
        environment=environment(),
        host=socket.gethostname(),
        pid=os.getpid(),
    )


def _with_event(record: RunRecord, event: Event) -> RunRecord:
    changes: dict[str, object] = {"step": max(record.step, event.step)}
    if event.step == 0 and event.validation:
        changes["initial"] = event.validation
    if event.tokens_per_s is not None:
        changes["tokens_per_s"] = event.tokens_per_s
    if event.incident is not None:
        changes["incidents"] = (*record.incidents, event.incident)
        if event.incident.back_to is not None:
            changes["step"] = event.incident.back_to
    if event.commit is not None:
        made = Checkpoint(step=event.step, commit=event.commit, metrics=event.validation)
        changes["checkpoints"] = (*record.checkpoints, made)
    if event.branch is not None:
        changes["branch"] = event.branch
    return replace(record, **changes)  # type: ignore[arg-type]


def _keep(repo: Repository, job: Job, record: RunRecord) -> None:
    """Writes the record. A full disk must not end the launcher while workers still run: they meet it themselves."""
    metrics = job.events.read_bytes() if job.events.exists() else b""
    try:
        write_record(repo, record, metrics, collect_logs(job))
    except (GruError, OSError):
        if record.state is RunState.FINISHED:
            raise


@contextmanager
def _agent(job: Job) -> Iterator["subprocess.Popen[bytes]"]:
    """The agent's process, which ends with this block whatever happens in it."""
    threads = worker_threads(job.recipe.launch)
    command = [
        sys.executable,
        "-P",
        "-m",
        "git_gru.train.agent",
        str(job.write()),
        str(threads),
        str(os.getpid()),
    ]
    with job.agent_log.open("wb") as log:
        agent = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=job.folder, start_new_session=True
        )
        try:
            yield agent
        finally:
            _end(agent)


def _end(agent: "subprocess.Popen[bytes]") -> None:
    """Ends the agent, which ends its workers; by force after a while (the workers then end with it)."""
    if agent.poll() is None:
        agent.send_signal(signal.SIGINT)
        try:
            agent.wait(KILL_AFTER_SECONDS)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()


def _checkpoints(count: int) -> str:
    return "1 checkpoint stays" if count == 1 else f"{count} checkpoints stay"
