"""Checking a repository's models: the store's packs, trees and chunks, and what the repository names against what is here.

Beside what `verify` finds in the store itself:

- A manifest that the repository names and whose model is neither here nor on a remote is *missing*. The remotes are asked now.
- A file that the attributes of a tip make a model, and that was committed without the filter, is *plain*: it is whole, and costs
  its full size in Git in every version.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from git_gru.errors import StoreError
from git_gru.git.collecting import collection_rules, plan_collection
from git_gru.git.elsewhere import Elsewhere, find_elsewhere
from git_gru.git.history import model_history
from git_gru.git.manifests import ManifestBlobs
from git_gru.git.needs import find_needs
from git_gru.git.plain_files import PlainFile, plain_files
from git_gru.git.repository import Repository
from git_gru.store.collect import Unneeded
from git_gru.store.locking import one_at_a_time
from git_gru.store.salvage import is_reference_lost
from git_gru.store.store import REF, Store
from git_gru.store.verify import Finding, Kind, Progress, Verified, verify


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a check found. `paths` are where models stand in the history, by their digests; `elsewhere` says which remotes have
    the models that are not here.
    """

    verified: Verified
    paths: Mapping[str, Sequence[str]]
    elsewhere: Elsewhere
    plain_files: tuple[PlainFile, ...]
    unneeded: tuple[Unneeded, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing or damaged."""
        return not self.verified.findings


def check(repo: Repository, store: Store, *, deep: bool = False, progress: Progress | None = None) -> Checked:
    """Checks all of the repository's models; `deep` decodes every chunk. Raises `RewriteRunningError`."""
    blobs = ManifestBlobs(repo, store.stamps)
    needed = find_needs(repo, store.stamps).digests
    with one_at_a_time(store.folder, to_read=True):
        verified = verify(store, blobs.chunks_of, deep=deep, progress=progress)
    for _, chunk in verified.broken_chunks():
        store.lookup.drop(chunk)  # so that adding its file again writes it anew
    paths = _paths(repo, store)
    elsewhere, missing = _not_here(repo, store, needed, paths)
    return Checked(
        verified=replace(verified, findings=(*verified.findings, *missing)),
        paths=paths,
        elsewhere=elsewhere,
        plain_files=tuple(plain_files(repo, blobs)),
        unneeded=plan_collection(repo, store, collection_rules(repo)).unneeded,
    )


def _paths(repo: Repository, store: Store) -> dict[str, list[str]]:
    """The paths at which each model stands anywhere in the history."""
    found: dict[str, list[str]] = {}
    for path, lineage in model_history(repo, store.stamps).lineages.items():
        for digest in lineage.digests:
            found.setdefault(digest, []).append(path)
    return found


def _not_here(
    repo: Repository, store: Store, needed: Collection[str], paths: Mapping[str, Sequence[str]]
) -> tuple[Elsewhere, list[Finding]]:
    """Of the models that are needed and not here: which are on remotes, and a finding for each of the others."""
    try:
        here = store.models().keys()
    except StoreError:
        return Elsewhere(remotes={}, unreached={}), []  # said already
    absent = sorted(set(needed) - here, key=lambda digest: (tuple(paths.get(digest, ())), digest))
    elsewhere = find_elsewhere(repo, absent)
    where = (
        "the store nor on a remote that could be asked"
        if elsewhere.unreached
        else "the store nor on a remote"
    )
    findings = [
        Finding(kind=Kind.MISSING, digest=digest, text=f"the model {digest[:12]} is neither in {where}")
        for digest in absent
        if digest not in elsewhere.remotes
    ]
    if absent and is_reference_lost(store):
        findings.insert(
            0, Finding(kind=Kind.TREE, text=f"the store has packs, but its reference {REF} is lost")
        )
    return elsewhere, findings
