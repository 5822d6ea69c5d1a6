"""What is done to a run from outside: asking it to stop, reading its logs, removing it."""

import contextlib
import shutil
import socket
import time
from collections.abc import Iterator
from typing import Any

from git_gru.errors import InputError
from git_gru.git.repository import Repository
from git_gru.git.run_folders import LAUNCHER, STOP, RunBusyError, hold, is_held, log_files, run_folder
from git_gru.git.run_refs import PREFIX, read_record, record_ref, run_ids
from git_gru.runs.record import RunRecord, RunState
from git_gru.runs.trailers import parse_checkpoint

_POLL_SECONDS = 0.2


class NotRunningError(InputError):
    """The run is not running, or not here."""


class StillRunningError(InputError):
    """The run is running."""


def request_stop(repo: Repository, run: str) -> None:
    """Asks a running run to stop as a Ctrl-C does: after the current step, with a last checkpoint.

    Raises `NotRunningError` for one that is not running on this host.
    """
    record = read_record(repo, run)
    if record.state is not RunState.RUNNING:
        raise NotRunningError(f"the run {run} is not running: it is {record.state}")
    if record.host != socket.gethostname():
        raise NotRunningError(
            f"the run {run} runs on {record.host}, which cannot be reached from here",
            hint=f"There: git gru runs stop {run}",
        )
    if not is_held(run_folder(repo, run), LAUNCHER):
        raise NotRunningError(f"the run {run} has no launcher that could stop it")
    (run_folder(repo, run) / STOP).touch()


def remove_run(repo: Repository, run: str, *, branch: bool = False) -> None:
    """Removes a run's record, resume states, snapshot and folder; with `branch`, its branch too.

    Commits that another branch or tag reaches stay, as ever. Raises `StillRunningError`, `InputError` for a branch that does not
    end in a checkpoint of the run, and `GitCommandError` for one that is checked out.
    """
    record = read_record(repo, run)
    if record.state is RunState.RUNNING and record.host == socket.gethostname():
        raise StillRunningError(f"the run {run} is running", hint=f"Stop it first: git gru runs stop {run}")
    if branch:
        _remove_branch(repo, record)
    forget_run(repo, run)


def forget_run(repo: Repository, run: str) -> None:
    """Removes all references of a run but its branch, and its folder, whatever its state."""
    refs = repo.git("for-each-ref", "--format=delete %(refname)", f"{PREFIX}{run}/")
    repo.git("update-ref", "--stdin", input=refs)
    shutil.rmtree(run_folder(repo, run), ignore_errors=True)


def _remove_branch(repo: Repository, record: RunRecord) -> None:
    found = repo.completed("log", "-1", "--format=%B", f"refs/heads/{record.branch}", "--")
    if found.returncode != 0:
        return  # there is none any more
    last = parse_checkpoint(found.stdout.decode("utf-8", "replace"))
    if last is None or last.run != record.id:
        raise InputError(
            f"the branch {record.branch} ends in a commit that is not of the run {record.id}: it is left alone",
            hint=f"If you want it gone: git branch -D {record.branch}",
        )
    repo.git("branch", "--quiet", "-D", "--", record.branch)


def read_logs(repo: Repository, run: str) -> dict[str, bytes]:
    """What the processes of a run printed, by log: in full while its folder is there, else as far as its record keeps it."""
    live = {name: path.read_bytes() for name, path in log_files(run_folder(repo, run)).items()}
    return {name: data for name, data in live.items() if data} or _recorded(repo, run)


def _recorded(repo: Repository, run: str) -> dict[str, bytes]:
    objects: Any = repo.pygit2
    tree = objects.revparse_single(f"{record_ref(run)}^{{tree}}")
    return {entry.name: bytes(entry.data) for entry in tree["logs"]} if "logs" in tree else {}


def follow_logs(repo: Repository, run: str) -> Iterator[tuple[str, bytes]]:
    """(log, what was appended to it) as it comes, from the beginnings on, until the run is over."""
    shown: dict[str, int] = {}
    running = True
    while running:
        # before the logs: none of the last is missed
        running = read_record(repo, run).state is RunState.RUNNING
        for name, data in read_logs(repo, run).items():
            new = data[shown.get(name, 0) :]
            if new:
                shown[name] = len(data)
                yield name, new
        if running:
            time.sleep(_POLL_SECONDS)


def sweep_runs(repo: Repository) -> None:
    """Removes what is left of runs that were killed before their first record was written, and of reproductions."""
    recorded = set(run_ids(repo))
    refs = repo.git("for-each-ref", "--format=%(refname)", PREFIX).decode().split()
    left = {  # a snapshot alone may be that of a run that is just beginning
        ref.removeprefix(PREFIX).partition("/")[0] for ref in refs if not ref.endswith("/source")
    }
    left |= {path.name for path in run_folder(repo, "").glob("*") if path.is_dir()}
    for run in left - recorded:
        with contextlib.suppress(RunBusyError), hold(run_folder(repo, run), LAUNCHER, patience=0):
            forget_run(repo, run)
