"""The history of each model path over all refs: what `repack` chooses deltas by.

A *lineage* is one path's versions, newest first, each once. Versions at HEAD (of every worktree) and at branch tips are to
*stay plain*: they are what is checked out and cloned. Versions whose manifest cannot be read are left out.
"""

from dataclasses import dataclass

from git_gru.git.changes import changes
from git_gru.git.repository import Repository
from git_gru.git.revisions import ModelReader
from git_gru.store.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class History:
    """Path → lineage, sorted by path, and the digests of the models that stay plain."""

    lineages: dict[str, tuple[Manifest, ...]]
    keep_plain: frozenset[str]


def model_history(repo: Repository) -> History:
    """The history over HEAD and all refs (branches, tags, runs, the stash); empty before the first commit."""
    reader = ModelReader(repo, skip_unreadable=True)
    tips = _tips(repo)
    if not tips and not repo.git("rev-list", "--all", "--max-count=1"):
        return History(lineages={}, keep_plain=frozenset())
    lineages: dict[str, dict[str, Manifest]] = {}
    for change in changes(repo, [*sorted(tips), "--all"], reader=reader):
        for touched in change.paths:
            # `before` as well: where history is shallow, nothing shows the parent's version as an `after`
            for manifest in (touched.after, touched.before):
                if manifest is not None:
                    lineages.setdefault(touched.path, {}).setdefault(manifest.digest, manifest)
    plain = {manifest.digest for tip in tips for manifest in reader.models(tip).values()}
    return History(
        lineages={path: tuple(versions.values()) for path, versions in sorted(lineages.items())},
        keep_plain=frozenset(plain),
    )


def _tips(repo: Repository) -> set[str]:
    """The commits at HEAD, in every worktree, and at branch tips."""
    listed = repo.git("for-each-ref", "--format=%(objectname)", "refs/heads").decode().split()
    worktrees = repo.git("worktree", "list", "--porcelain").decode("utf-8", "surrogateescape").splitlines()
    heads = [text.removeprefix("HEAD ") for text in worktrees if text.startswith("HEAD ")]
    return {commit for commit in (*listed, *heads) if set(commit) != {"0"}}
