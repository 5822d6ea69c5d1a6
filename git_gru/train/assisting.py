"""The launcher's side on a node that trains for another: everything but the commits and the record, which are node 0's."""

import shutil

from git_gru.errors import RunFailedError
from git_gru.git.repository import Repository
from git_gru.git.run_control import sweep_runs
from git_gru.git.run_folders import LAUNCHER, hold, run_folder
from git_gru.train.failures import find_cause, stall_cause
from git_gru.train.launch import Watcher, follow_agent, job_of
from git_gru.train.plan import Plan


def assist(repo: Repository, plan: Plan, watcher: Watcher) -> bool:
    """Runs this machine's workers of a planned run; whether they went through to the end, and were not asked to stop.

    Raises `RunFailedError` when one failed here, or lost the others; the logs stay then, in the run's folder.
    """
    assert plan.nodes is not None
    sweep_runs(repo)
    folder = run_folder(repo, plan.run)
    keep_logs = False
    with hold(folder, LAUNCHER):
        try:
            job = job_of(repo, plan)
            ended = follow_agent(job, watcher, lambda event: None)
            if ended.returncode == 0 or ended.killed:
                return not ended.stopped
            keep_logs = True
            cause = (
                find_cause(job, ended.returncode) if ended.stall is None else stall_cause(job, ended.stall)
            )
            who = f"worker {cause.rank}: " if cause.rank is not None else ""
            log = f"The log is {cause.log}. " if cause.log else ""
            raise RunFailedError(
                f"node {plan.nodes.rank} failed: {who}{cause.message}",
                hint=f"{log}What the run made is on node 0: git gru runs",
            )
        finally:
            if not keep_logs:
                shutil.rmtree(folder, ignore_errors=True)
