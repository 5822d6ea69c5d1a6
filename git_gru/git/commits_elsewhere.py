"""Commits that this clone does not have yet: brought from its remotes."""

import re

from git_gru.errors import InputError
from git_gru.git.repository import Repository

_FULL_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class CommitElsewhereError(InputError):
    """A commit that neither this clone nor one of its remotes has."""


def is_full_id(text: str) -> bool:
    """Whether this is the full id of an object: nothing that git would take for an option, a refspec or a branch."""
    return _FULL_ID.fullmatch(text) is not None


def bring_commit(repo: Repository, commit: str) -> None:
    """Makes sure that the commit of this full id is here with its trees and files; asks the remotes for it, `origin` first.

    No branch and no remote-tracking branch changes. Raises `CommitElsewhereError`.
    """
    if not is_full_id(commit):
        raise CommitElsewhereError(f"{commit[:80]!r} is not the full id of a commit")
    if _is_here(repo, commit):
        return
    remotes = sorted(repo.git("remote").decode().split(), key=lambda name: name != "origin")
    said = ["this clone has no remote"] if not remotes else []
    for remote in remotes:
        done = repo.completed("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", remote, commit)
        if done.returncode == 0 and _is_here(repo, commit):
            return
        text = done.stderr.decode("utf-8", "replace").strip().splitlines()
        said.append(f"{remote} does not give it ({text[0] if text else 'without a word'})")
    raise CommitElsewhereError(
        f"the commit {commit[:10]} is not in this clone, and {'; '.join(said)}",
        hint="Push it to the remote that the nodes' clones are of, and see that this machine reaches that.",
    )


def _is_here(repo: Repository, commit: str) -> bool:
    return repo.completed("cat-file", "-e", f"{commit}^{{commit}}").returncode == 0
