"""Fetching: models of commits brought into the store, or single tensors of them, without touching the worktree."""

from collections.abc import Sequence
from dataclasses import dataclass

from git_gru.git.git_remote import Tell
from git_gru.git.missing import naming_commits
from git_gru.git.publishing import pushed_models
from git_gru.git.repository import Repository
from git_gru.git.revisions import ModelReader, resolve_commit
from git_gru.git.selection import PATHS_HINT, NothingMatchesError, Selection, matches
from git_gru.git.sources import sources
from git_gru.store.bring import Brought, Part, Progress, bring, locate
from git_gru.store.manifest import Manifest
from git_gru.store.store import Store
from git_gru.store.trees import EMPTY_TREE


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to fetch: of the commits `revisions` (or, with `history`, of all commits that they reach) the models at `paths`.

    These are as for git log, from the worktree's top. Without any, what the settings select, or with `history` all.
    """

    revisions: Sequence[str]
    paths: Sequence[str] = ()
    history: bool = False


def branch_tips(repo: Repository) -> list[str]:
    """The tips of all branches, local and of remotes, and HEAD: each commit once."""
    listed = repo.git("for-each-ref", "--format=%(objectname)", "refs/heads", "refs/remotes").decode().split()
    head = repo.completed("rev-parse", "--verify", "--quiet", "HEAD").stdout.decode().split()
    return list(dict.fromkeys([*head, *listed]))


def fetch(
    repo: Repository, wanted: Wanted, *, tell: Tell | None = None, progress: Progress | None = None
) -> Brought:
    """Brings the models wanted into the store. Raises `NothingMatchesError`, and what `bring` and `resolve_commit` raise."""
    store = repo.store()
    try:
        models = _manifests(repo, store, wanted)
        with naming_commits(repo, models):
            return bring(store, sources(repo, store, tell), models, progress)
    finally:
        store.close()


def fetch_tensors(
    repo: Repository, wanted: Wanted, patterns: Sequence[str], *, tell: Tell | None = None
) -> int:
    """Brings the chunks of the tensors whose names match, so that they can be read alone; returns how many tensors.

    Raises as `fetch`, `NothingMatchesError` also where no tensor matches.
    """
    store = repo.store()
    count = 0
    try:
        for manifest in _manifests(repo, store, wanted):
            names = [name for name in manifest.tensors if matches(name, patterns)]
            if names:
                part = _locate(repo, store, manifest, tell)
                part.ensure(id for name in names for id in manifest.tensors[name].chunks)
                count += len(names)
    finally:
        store.close()
    if not count:
        raise NothingMatchesError(f"no tensor of these models matches {', '.join(patterns)}")
    return count


def part_of(repo: Repository, manifest: Manifest, tell: Tell | None = None) -> Part:
    """The model for reading single chunks, wherever it is. Raises `ModelMissingError`, `RemoteError`."""
    return _locate(repo, repo.store(), manifest, tell)


def _locate(repo: Repository, store: Store, manifest: Manifest, tell: Tell | None) -> Part:
    with naming_commits(repo, [manifest]):
        return locate(store, sources(repo, store, tell), manifest)


def _manifests(repo: Repository, store: Store, wanted: Wanted) -> list[Manifest]:
    """The models wanted, each once. Raises `NothingMatchesError` where none is at the paths."""
    commits = [resolve_commit(repo, revision) for revision in wanted.revisions]
    found: dict[str, Manifest] = {}
    if wanted.history:
        lineages = pushed_models(repo, store.stamps, commits, paths=wanted.paths).lineages
        return list({manifest.digest: manifest for line in lineages.values() for manifest in line}.values())
    reader = ModelReader(repo, skip_unreadable=True)
    chosen = Selection.of(repo)
    for commit in dict.fromkeys(commits):
        there = _files(repo, commit, wanted.paths) if wanted.paths else None
        for path, manifest in reader.models(commit).items():
            if chosen.allows(path) if there is None else path in there:
                found.setdefault(manifest.digest, manifest)
    if wanted.paths and not found:
        raise NothingMatchesError(
            f"no model of {', '.join(wanted.revisions)} is at {', '.join(wanted.paths)}", hint=PATHS_HINT
        )
    return list(found.values())


def _files(repo: Repository, commit: str, paths: Sequence[str]) -> set[str]:
    """The files of a commit at `paths`."""
    listed = repo.git("diff-tree", "-r", "-z", "--name-only", EMPTY_TREE.hex(), commit, "--", *paths)
    return set(listed.decode("utf-8", "surrogateescape").split("\0"))
