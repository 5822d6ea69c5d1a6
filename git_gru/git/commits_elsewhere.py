"""Commits that this clone does not have yet: brought from its remotes."""

from git_gru.errors import InputError
from git_gru.git.repository import Repository


class CommitElsewhereError(InputError):
    """A commit that neither this clone nor one of its remotes has."""


def bring_commit(repo: Repository, commit: str) -> None:
    """Makes sure that the commit of this full id is here with its trees and files; asks the remotes for it, `origin` first.

    No branch and no remote-tracking branch changes. Raises `CommitElsewhereError`.
    """
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
