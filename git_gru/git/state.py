"""What Git is in the middle of: merges, reverts and cherry-picks begun and not finished, and what they
stopped at.
"""

import subprocess

from git_gru.errors import InputError
from git_gru.git.attributes import paths
from git_gru.git.repository import Repository
from git_gru.git.run import GitCommandError

_OPERATIONS = {
    "MERGE_HEAD": "merge",
    "REVERT_HEAD": "revert",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "rebase-merge": "rebase",
    "rebase-apply": "rebase",
}


class OperationInProgressError(InputError):
    """Another merge, revert, cherry-pick or rebase has not been finished."""


class DirtyWorktreeError(InputError):
    """Files in the worktree or index differ from HEAD, and the operation would overwrite them."""


def in_progress(repo: Repository) -> str | None:
    """The operation that was begun in this worktree and not finished: "merge", "revert", …, or None."""
    return next((name for mark, name in _OPERATIONS.items() if (repo.git_dir / mark).exists()), None)


def require_idle(repo: Repository) -> None:
    """Raises `OperationInProgressError` while another operation is unfinished; in a bare repository another
    `InputError`.
    """
    repo.require_worktree()
    name = in_progress(repo)
    if name is not None:
        finish = "git commit" if name == "merge" else f"git {name} --continue"
        raise OperationInProgressError(
            f"a {name} is not finished here", hint=f"Finish it: {finish}; or give it up: git {name} --abort"
        )


def unmerged(repo: Repository) -> list[str]:
    """The paths in conflict, sorted."""
    listed = repo.git("diff", "--name-only", "--diff-filter=U", "--no-relative", "-z")
    return sorted(set(paths(listed)))


def driver_sentences(stderr: bytes) -> list[str]:
    """What the merge driver said about conflicts and warnings, without its prefix, out of what git wrote on
    stderr.
    """
    lines = stderr.decode("utf-8", "replace").splitlines()
    said = [line.removeprefix("git-gru: ") for line in lines if line.startswith(("git-gru: ", "hint: "))]
    return [line for line in said if ": tensors: " not in line]


def refused(verb: str, done: subprocess.CompletedProcess[bytes]) -> InputError | GitCommandError:
    """The error for a git command that refused to begin."""
    stderr = done.stderr.decode("utf-8", "replace")
    if "would be overwritten" in stderr or "not possible because you have unmerged" in stderr:
        names = [line.strip() for line in stderr.splitlines() if line.startswith("\t")]
        what = f": {', '.join(names)}" if names else ""
        return DirtyWorktreeError(
            f"uncommitted changes would be overwritten by the {verb}{what}",
            hint="Commit them, or put them aside: git stash",
        )
    return GitCommandError((verb,), done.returncode, stderr)
