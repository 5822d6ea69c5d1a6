"""How a run begins, whoever trains: its id, the commit that it starts from, the branch that it commits to. Free of torch."""

import contextlib
import datetime
import importlib.util
import os
import platform
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from git_gru.errors import InputError
from git_gru.git.attributes import with_filter
from git_gru.git.commits import snapshot_dirty
from git_gru.git.repository import Repository
from git_gru.git.revisions import resolve_commit
from git_gru.git.run_refs import record_ref, source_ref
from git_gru.runs.record import RunRecord, RunState

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


class DirtyWorktreeError(InputError):
    """Tracked files have changes that no commit holds."""


class BranchError(InputError):
    """The run's branch cannot be what the user asked for."""


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What a new run begins with: `source` is the full id of a commit (`dirty`: a snapshot of the worktree)."""

    run: str
    source: str
    dirty: bool
    branch: str

    @property
    def ref(self) -> str:
        """The full name of the run's branch."""
        return f"refs/heads/{self.branch}"

    def record(self, **fields: Any) -> RunRecord:
        """The record of the run as it begins, in this process; `fields` are those of `RunRecord` that the trainer knows."""
        return RunRecord(
            id=self.run,
            state=RunState.RUNNING,
            started=time.time(),
            source=self.source,
            dirty=self.dirty,
            branch=self.branch,
            **this_process(),
            **fields,
        )


@contextlib.contextmanager
def beginning(repo: Repository, commit: str, branch: str | None, *, allow_dirty: bool) -> Iterator[Beginning]:
    """A new run from `commit`, onto a new branch (by default `gru/<run id>`).

    A snapshot of an unclean worktree, where that is allowed, is dropped again if the block raises. Raises `DirtyWorktreeError`,
    `BranchError`, and `UnknownRevisionError` for a commit that is none.
    """
    source = resolve_commit(repo, commit)
    run = _new_run_id(repo)
    dirty = _is_dirty(repo, source)
    if dirty and not allow_dirty:
        raise DirtyWorktreeError(
            "tracked files have uncommitted changes, and a run starts from a commit",
            hint="Commit or stash them, or train from a snapshot of them (--allow-dirty; in Python allow_dirty=True).",
        )
    name = _new_branch(repo, branch or f"gru/{run}")
    if dirty:
        source = snapshot_dirty(repo, source_ref(run))
    try:
        yield Beginning(run=run, source=source, dirty=dirty, branch=name)
    except BaseException:
        if dirty:
            forget_snapshot(repo, run)
        raise


def forget_snapshot(repo: Repository, run: str) -> None:
    """Drops the snapshot of an unclean worktree, if one was made, for a run that does not start."""
    repo.git("update-ref", "-d", source_ref(run))


def is_tracked(repo: Repository, path: str) -> bool:
    """Whether git-gru tracks a path: without its filter, commits would hold manifests that nothing turns back."""
    return bool(with_filter(repo, [path]))


def track_hint(path: str) -> str:
    """What to do about a path that is not tracked."""
    return f"Run: git gru track '{path}' (or a pattern such as '*.safetensors'), then commit .gitattributes."


def this_process() -> dict[str, Any]:
    """The fields of a run's record that say where its launcher is."""
    return {"environment": environment(), "host": socket.gethostname(), "pid": os.getpid()}


def environment() -> dict[str, str]:
    """What this machine is, as far as results may depend on it."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": str(os.cpu_count()),
        **{name: metadata.version(name) for name in ("torch", "numpy") if importlib.util.find_spec(name)},
    }


def _new_run_id(repo: Repository) -> str:
    """A fresh id: UTC date and time, so that ids sort by age, and six letters, so that two people's never meet."""
    while True:
        now = datetime.datetime.now(datetime.UTC)
        run = f"{now:%y%m%d-%H%M%S}-" + "".join(secrets.choice(_ALPHABET) for _ in range(6))
        if repo.completed("rev-parse", "--verify", "--quiet", record_ref(run)).returncode != 0:
            return run


def _is_dirty(repo: Repository, source: str) -> bool:
    """Whether the run starts from HEAD and tracked files differ from it."""
    if repo.worktree is None or resolve_commit(repo, "HEAD") != source:
        return False
    return bool(repo.git("status", "--porcelain", "--untracked-files=no"))


def _new_branch(repo: Repository, name: str) -> str:
    if repo.completed("check-ref-format", "--branch", name).returncode != 0:
        raise BranchError(
            f"{name!r} cannot be the name of a branch", hint="Choose another name for --branch."
        )
    if in_the_way := _in_the_way(repo, name):
        raise BranchError(
            f"there cannot be a branch {name} beside the branch {in_the_way}: Git takes one name for a folder of the other",
            hint="Choose another name for --branch.",
        )
    if repo.completed("rev-parse", "--verify", "--quiet", f"refs/heads/{name}").returncode == 0:
        raise BranchError(
            f"the branch {name} is there already",
            hint="Choose another name for --branch; to go on with the current branch, use --here.",
        )
    return name


def _in_the_way(repo: Repository, name: str) -> str | None:
    """A branch whose name is the beginning of `name` (up to a slash), or begins with it."""
    parts = name.split("/")
    above = [f"refs/heads/{'/'.join(parts[:count])}" for count in range(1, len(parts))]
    listed = repo.git("for-each-ref", "--format=%(refname)", f"refs/heads/{name}/", *above).decode()
    found = [ref for ref in listed.splitlines() if ref in above or ref.startswith(f"refs/heads/{name}/")]
    return found[0].removeprefix("refs/heads/") if found else None
