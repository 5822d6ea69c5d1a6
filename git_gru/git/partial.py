"""Partial clones: what they lack, their *promisors* have, the remotes that they were cloned from with a filter."""

from collections.abc import Sequence

from git_gru.git.repository import Repository
from git_gru.git.run import GitCommandError, lines


def promisors(repo: Repository) -> list[str]:
    """The names of the remotes that have what the repository lacks; none where it is no partial clone."""
    named = repo.settings.matching(r"^remote\..*\.promisor$")
    names = [setting.key[len("remote.") : -len(".promisor")] for setting in named if setting.value == "true"]
    first = repo.config("extensions.partialClone")
    return list(dict.fromkeys([*([first] if first else []), *names]))


def complete(repo: Repository, revisions: Sequence[str]) -> None:
    """Fetches all that `revisions` (as for rev-list) reach and that is not here, in a few conversations.

    A push to a remote that is no promisor sends all of it: git fetches the same objects for that. Raises `GitCommandError`.
    """
    before: set[str] = set()
    while missing := _missing(repo, revisions) - before:  # trees first, then what they name
        _fetch(repo, sorted(missing))
        before |= missing


def _missing(repo: Repository, revisions: Sequence[str]) -> set[str]:
    listed = lines(
        "rev-list", "--objects", "--no-object-names", "--missing=print", "--ignore-missing", "--stdin",
        cwd=repo.top,
        env=repo.environment,
        input="\n".join([*revisions, ""]).encode("utf-8", "surrogateescape"),
    )  # fmt: skip
    return {line[1:].decode() for line in listed if line.startswith(b"?")}


def _fetch(repo: Repository, oids: Sequence[str]) -> None:
    """Fetches objects by their names, from the first promisor that gives them."""
    failed: GitCommandError | None = None
    for name in promisors(repo):
        try:
            repo.git(
                "-c", "fetch.negotiationAlgorithm=noop", "fetch", "--quiet", "--no-tags", "--no-write-fetch-head",
                "--no-auto-maintenance", "--recurse-submodules=no", "--filter=blob:none", "--stdin", name,
                input="\n".join([*oids, ""]).encode(),
            )  # fmt: skip
        except GitCommandError as error:
            failed = failed or error
        else:
            return
    if failed is not None:
        raise failed
