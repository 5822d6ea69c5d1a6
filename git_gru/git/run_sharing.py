"""Runs between repositories: a run's commits, models and record are pushed to a remote, and others' records are fetched.

A record is written by its run's launcher alone, and every version of it carries the time at which it was written. So of two
versions of a record the newer one holds, wherever it comes from; of two of one second, in the repository that writes it, its own.
The ids of runs are made so that two people's never meet (`git_gru.train.plan`).
"""

import os
import re
import socket
from dataclasses import dataclass

from git_gru.errors import StoreError
from git_gru.git.publishing import publish_revisions
from git_gru.git.repository import Repository
from git_gru.git.run import GitCommandError
from git_gru.git.run_folders import LAUNCHER, is_held, run_folder
from git_gru.git.run_refs import PREFIX, RECORD_FILE, record_ref
from git_gru.git.sources import fetch_url
from git_gru.runs.record import parse_record

_INCOMING = "refs/gru/incoming/"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}\Z")
_QUIET = {"GIT_TERMINAL_PROMPT": "0"}  # nobody is there to answer
_NONE = "0" * 40


@dataclass(frozen=True)
class Pushed:
    """What the remote has: the commit at the run's branch, None before the first."""

    commit: str | None


def push_run(repo: Repository, remote: str, run: str, ref: str | None, before: Pushed) -> Pushed:
    """Pushes the models of a run, then its branch `ref` and its record; without a `ref` the record alone. `before` is what an
    earlier push gave.

    Raises what `publish_revisions` raises, and `GitCommandError` when the remote refuses.
    """
    tip = None
    if ref is not None:
        found = repo.completed("rev-parse", "--verify", "--quiet", ref)
        tip = found.stdout.decode().strip() if found.returncode == 0 else None
    refs = [
        f"+{record_ref(run)}:{record_ref(run)}"
    ]  # a record has no parent: each version replaces the one before
    if tip is not None and tip != before.commit:
        publish_revisions(repo, remote, [tip])
        refs.append(f"{tip}:{ref}")
    # the models are there already, so that git-gru's own hook would find nothing to do; others are for what people push
    repo.git("push", "--quiet", "--no-verify", remote, *refs, env=_QUIET)
    return Pushed(tip)


def fetch_runs(repo: Repository, remote: str) -> list[str]:
    """Fetches the records of all runs that were pushed to `remote`; returns the ids of those that are new here, or newer.

    Raises `UnknownRemoteError`, and `GitCommandError` when the remote cannot be reached.
    """
    fetch_url(repo, remote)
    incoming = f"{_INCOMING}{os.getpid()}/"
    try:
        repo.git(
            "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", remote, f"+{PREFIX}*/record:{incoming}*/record"
        )  # fmt: skip
        listed = repo.git("for-each-ref", "--format=%(refname) %(objectname)", incoming).decode().split()
        found = dict(zip(listed[::2], listed[1::2], strict=True))
        runs = {ref.removeprefix(incoming).removesuffix("/record"): commit for ref, commit in found.items()}
        return [run for run, commit in sorted(runs.items()) if _take(repo, run, commit)]
    finally:
        refs = repo.git("for-each-ref", "--format=delete %(refname)", incoming)
        repo.git("update-ref", "--stdin", input=refs)


def _take(repo: Repository, run: str, commit: str) -> bool:
    """Makes `commit` the record of a run where it is one, and newer than what is here; whether it did."""
    if not _ID.match(run):
        return False
    try:
        theirs = parse_record(repo.git("cat-file", "blob", f"{commit}:{RECORD_FILE}"), where=run)
    except (StoreError, GitCommandError):
        return False
    if theirs.id != run or is_held(run_folder(repo, run), LAUNCHER):
        return False
    found = repo.completed("rev-parse", "--verify", "--quiet", record_ref(run))
    ours = found.stdout.decode().strip() if found.returncode == 0 else None
    if ours == commit:
        return False
    if ours is not None:
        our_time, their_time = _written(repo, ours), _written(repo, commit)
        if their_time < our_time or (their_time == our_time and theirs.host == socket.gethostname()):
            return False
    repo.git("update-ref", record_ref(run), commit, ours or _NONE)
    return True


def _written(repo: Repository, commit: str) -> int:
    return int(repo.git("log", "-1", "--format=%ct", commit))
