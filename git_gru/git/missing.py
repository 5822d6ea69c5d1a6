"""Models that are nowhere, told by the commits and paths that name them: their digests say nothing to anyone."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from git_gru.git.repository import Repository
from git_gru.store.manifest import Manifest
from git_gru.store.stamps import blob_name
from git_gru.store.store import ModelMissingError

_MOST = 5
"""So many models are told of; each costs a walk through the history."""


@contextmanager
def naming_commits(repo: Repository, manifests: Iterable[Manifest]) -> Iterator[None]:
    """Adds to a `ModelMissingError` in which commit, at which path, each of `manifests` that is missing was made."""
    try:
        yield
    except ModelMissingError as error:
        missing = [manifest for manifest in manifests if manifest.digest in error.digests]
        places = list(filter(None, (_place(repo, manifest) for manifest in missing[:_MOST])))
        if not places:
            raise
        raise ModelMissingError(
            f"{error}; needed for {', '.join(places)}", hint=error.hint, digests=error.digests
        ) from error


def _place(repo: Repository, manifest: Manifest) -> str | None:
    """`PATH in commit ID` of the oldest commit that any reference reaches and that has the manifest."""
    blob = blob_name(manifest.encode()).hex()
    listed = repo.completed(
        "log", "-z", "--raw", "--no-abbrev", "--no-renames", "--root", "--diff-merges=first-parent", "--no-show-signature",
        "--no-notes", "--format=%x02%H", f"--find-object={blob}", "--all",
    ).stdout  # fmt: skip
    tokens = iter(listed.decode("utf-8", "surrogateescape").split("\0"))
    place = commit = None
    for token in tokens:
        if token.startswith("\2"):
            commit = token[1:]
        elif token.lstrip("\n").startswith(":"):
            path = next(tokens)
            if token.split()[3] == blob:
                place = f"{path} in commit {(commit or '')[:10]}"
    return place
