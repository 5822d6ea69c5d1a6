"""Running a planned run: the launcher's side, in the CLI's process. Free of torch.

    plan → data prepared from a temporary worktree of the commit → agent started → its events followed → record kept

The workers commit (rank 0); the launcher alone writes the run's record, at every commit and at the end. A first Ctrl-C
(SIGINT, SIGTERM or SIGHUP) asks the workers to stop after the current step and waits for their last commit, a second
one ends them at once; in both cases everything committed stays.
"""

import math
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from types import FrameType
from typing import Protocol

from git_gru.errors import GruError, RunDivergedError, RunFailedError
from git_gru.git.repository import Repository
from git_gru.git.run_refs import write_record
from git_gru.runs.metrics import Event, EventFollower
from git_gru.runs.record import Checkpoint, Failure, RunRecord, RunState
from git_gru.train.corpus import TRAIN_FILE, VALIDATION_FILE, prepare
from git_gru.train.failures import collect_logs, find_cause, stall_cause
from git_gru.train.heartbeat import Stall, StallWatch
from git_gru.train.job import Job
from git_gru.train.plan import Plan, forget_snapshot
from git_gru.train.processes import worker_threads

POLL_SECONDS = 0.1
KILL_AFTER_SECONDS = 3.0
SAME_REQUEST_SECONDS = 1.0


class Watcher(Protocol):
    """Who wants to see a run as it goes; called in the launcher's thread."""

    def started(self, record: RunRecord) -> None:
        """The workers are being started."""

    def event(self, event: Event) -> None:
        """Rank 0 wrote an event."""

    def stopping(self) -> None:
        """The user asked to stop; the workers finish their step and make a last commit."""


@dataclass
class Interrupts:
    """How often the user asked to stop.

    Signals that come within a second are one request: run as `git gru train`, a Ctrl-C reaches us from the terminal, and
    once more from git, which passes it on to its child.
    """

    count: int = 0
    last: float = -math.inf

    def add(self, now: float) -> None:
        """A signal came at `now`, in seconds of a monotonic clock."""
        if now - self.last >= SAME_REQUEST_SECONDS:
            self.count += 1
        self.last = now


def run_plan(repo: Repository, plan: Plan, watcher: Watcher) -> RunRecord:
    """Does a planned run and returns its last record (finished or stopped).

    Raises `RunFailedError` when a worker failed; the record then says failed, and what was committed stays.
    """
    folder = repo.gru_dir / "runs" / plan.run
    folder.mkdir(parents=True)
    job = Job(
        run=plan.run,
        folder=folder,
        repository=repo.top,
        source=plan.source,
        ref=plan.ref,
        parent_model=plan.model.digest if plan.model else None,
        recipe=plan.recipe,
    )
    try:
        prepare(repo, plan.source, plan.recipe.data, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        forget_snapshot(repo, plan.run)
        raise
    keep_logs = False
    try:
        return _follow(repo, plan, job, watcher)
    except RunFailedError:
        keep_logs = True
        raise
    finally:
        if keep_logs:  # but not the data, which the commit holds
            for name in (TRAIN_FILE, VALIDATION_FILE):
                (folder / name).unlink(missing_ok=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def fast_forward(repo: Repository, plan: Plan) -> bool:
    """After a `--here` run: moves the current branch and its worktree to the run's last commit, and drops its own branch.

    False when that is no fast-forward any more (another commit, another branch, changes in the way): the run's branch
    then stays, and nothing is lost.
    """
    current = repo.git("symbolic-ref", "--quiet", "--short", "HEAD", check=False).decode().strip()
    if current != plan.here or repo.completed("merge", "--ff-only", "--quiet", plan.ref).returncode != 0:
        return False
    repo.git("branch", "--quiet", "--delete", plan.branch)
    return True


def _follow(repo: Repository, plan: Plan, job: Job, watcher: Watcher) -> RunRecord:
    """Starts the agent and keeps the record until it ends."""
    record = _first_record(plan)
    _keep(repo, job, record)
    watcher.started(record)
    follower = EventFollower(job.events)
    shutil.rmtree(job.heartbeats, ignore_errors=True)
    stalls, stall = StallWatch(job.heartbeats, plan.recipe.guard.stall), None
    with _interrupts() as interrupts, _agent(job) as agent:
        told = False
        while True:
            ended = agent.poll() is not None  # before the events are read, so that none of the last is missed
            for event in follower.poll():
                record = _with_event(record, event)
                watcher.event(event)
                if event.commit:
                    _keep(repo, job, record)
            if ended:
                break
            if interrupts.count and not told:
                told = True
                job.stop.touch()
                watcher.stopping()
            stall = stall or stalls.poll()
            if interrupts.count > 1 or stall is not None:
                _end(agent)
            time.sleep(POLL_SECONDS)
        killed = interrupts.count > 1
    return _settle(repo, job, record, agent.returncode, killed=killed, stall=stall)


def _settle(
    repo: Repository, job: Job, record: RunRecord, returncode: int, *, killed: bool, stall: Stall | None
) -> RunRecord:
    """The record's last version, written down. Raises `RunFailedError` when the workers failed."""
    record = replace(record, ended=time.time())
    if returncode == 0 or killed:
        done = record.step >= record.steps and returncode == 0
        record = replace(record, state=RunState.FINISHED if done else RunState.STOPPED)
        _keep(repo, job, record)
        return record
    failure = stall_cause(job, stall) if stall is not None else find_cause(job, returncode)
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
    return f"{why}{kept}{log}See: git gru runs show {record.id}"


def _first_record(plan: Plan) -> RunRecord:
    versions = {name: metadata.version(name) for name in ("torch", "numpy")}
    return RunRecord(
        id=plan.run,
        state=RunState.RUNNING,
        started=time.time(),
        source=plan.source,
        dirty=plan.dirty,
        branch=plan.branch,
        model=plan.recipe.model.path,
        parent_model=plan.model.digest if plan.model else None,
        recipe_path=plan.recipe_path,
        recipe=plan.recipe.as_json(),
        overrides=plan.overrides,
        nproc=plan.recipe.launch.nproc,
        seed=plan.recipe.train.seed,
        steps=plan.recipe.train.steps,
        environment={
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": str(os.cpu_count()),
            **versions,
        },
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
        agent.terminate()
        try:
            agent.wait(KILL_AFTER_SECONDS)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()


@contextmanager
def _interrupts() -> Iterator[Interrupts]:
    """Counts SIGINT, SIGTERM and SIGHUP instead of letting them end the process (in the main thread only)."""
    seen = Interrupts()

    def count(number: int, frame: FrameType | None) -> None:
        seen.add(time.monotonic())

    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    before = {
        number: signal.signal(number, count) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _checkpoints(count: int) -> str:
    return "1 checkpoint stays" if count == 1 else f"{count} checkpoints stay"
