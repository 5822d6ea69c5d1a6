"""Runs that go on without a terminal: the launcher in a process and session of its own, which nobody waits for.

The run's first record is written here, and the process resumes the run; what it prints goes to `launcher.log` in the run's
folder, one of the run's logs.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO

from git_gru.errors import GruError
from git_gru.git.repository import Repository
from git_gru.git.run import start_apart
from git_gru.git.run_control import forget_run
from git_gru.git.run_folders import LAUNCHER_LOG, run_folder
from git_gru.git.run_refs import read_record, write_record
from git_gru.runs.record import RunRecord
from git_gru.train.keeping import first_record
from git_gru.train.plan import Plan
from git_gru.train.resuming import check_resumable

_POLL_SECONDS = 0.05
_PROGRAM = (sys.executable, "-P", "-m", "git_gru", "train", "--resume")


class DetachError(GruError):
    """The detached process ended before the run began; the message is what it said."""

    def __init__(self, said: str, returncode: int) -> None:
        told, _, hint = said.strip().rpartition("\nhint: ") if "\nhint: " in said else (said.strip(), "", "")
        last = told.splitlines()[-1:] or [f"it ended with exit status {returncode}"]
        super().__init__(f"the run did not begin: {last[0].removeprefix('git gru: ')}", hint=hint or None)
        self.exit_code = max(returncode, 1)


def detach_plan(repo: Repository, plan: Plan, options: Sequence[str] = ()) -> RunRecord:
    """Starts a planned run, detached; returns its record once its workers are being started.

    `options` are further ones of `git gru train --resume`. Raises `DetachError` when it does not come to that; nothing of it
    stays then.
    """
    write_record(repo, first_record(plan), b"", {})
    try:
        return detach_run(repo, plan.run, options)
    except BaseException:
        forget_run(repo, plan.run)
        raise


def detach_run(
    repo: Repository, run: str, options: Sequence[str] = (), program: Sequence[str] = _PROGRAM
) -> RunRecord:
    """Resumes the run of this full id, detached; see `detach_plan`. Raises `ResumeRefusedError` too."""
    check_resumable(repo, run)
    folder = run_folder(repo, run)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LAUNCHER_LOG, "w+b") as log:
        process = start_apart([*program, run, *options], cwd=repo.top, log=log)
        try:
            return _begun(repo, run, process, log)
        except BaseException:
            process.terminate()
            process.wait()
            raise


def _begun(repo: Repository, run: str, process: "subprocess.Popen[bytes]", log: IO[bytes]) -> RunRecord:
    while True:
        ended = process.poll()
        record = read_record(repo, run)
        if record.pid == process.pid:
            return record
        if ended is not None:
            log.seek(0)
            raise DetachError(log.read().decode("utf-8", "replace"), ended)
        time.sleep(_POLL_SECONDS)
