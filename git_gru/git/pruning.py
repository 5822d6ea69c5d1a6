"""Space, with a remote: local copies of what it has are dropped here, and what its references need no more is dropped there."""

import time
from dataclasses import dataclass

from git_gru.errors import InputError
from git_gru.git.collecting import parse_duration
from git_gru.git.history import model_history
from git_gru.git.hub_references import hub_references
from git_gru.git.manifests import ManifestBlobs
from git_gru.git.needs import models_named_by
from git_gru.git.repository import Repository
from git_gru.git.revisions import index_models
from git_gru.git.sources import fetch_remote, push_remote, push_url
from git_gru.store.bring import held_by
from git_gru.store.collect import DAY
from git_gru.store.collect_remote import CollectedRemote, collect_remote
from git_gru.store.freeing import set_free
from git_gru.store.locking import one_at_a_time
from git_gru.store.rewrite import Rewrite, free_of_garbage
from git_gru.store.store import Store

REMOTE_GRACE = 14 * DAY


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What a prune did, or would do: the digests dropped, and the bytes of all packs before and after (None: not done)."""

    dropped: frozenset[str]
    bytes_before: int
    bytes_after: int | None


def prune(repo: Repository, name: str, *, dry_run: bool = False) -> Pruned:
    """Drops local copies of models that the remote `name` was just seen to have, whole, where it is fetched from.

    Not counted are those that a collection there has marked. Those that are checked out, in the index or at a branch's tip stay.
    A dropped model is fetched again when it is needed. Raises `UnknownRemoteError`, `RemoteError`, `RewriteRunningError`.
    """
    store = repo.store()
    try:
        remote = fetch_remote(repo, name, store)
        asked = store.stamps.now()
        history = model_history(repo, store.stamps)
        keep = history.keep_plain | {manifest.digest for manifest in index_models(repo).values()}
        versions = {m.digest: m for line in history.lineages.values() for m in line}
        here = store.models()
        candidates = [m for digest, m in versions.items() if digest in here and digest not in keep]
        going = held_by(store, remote, candidates) if candidates else frozenset()
        before = sum(pack.size for pack in store.objects.packs())
        if dry_run or not going:
            return Pruned(dropped=going, bytes_before=before, bytes_after=None if dry_run else before)
        dropped = _drop(repo, store, going, asked)
        after = sum(pack.size for pack in store.objects.packs())
        return Pruned(dropped=frozenset(dropped), bytes_before=before, bytes_after=after)
    finally:
        store.close()


def collect_hub(
    repo: Repository, name: str, *, grace: str | None = None, dry_run: bool = False
) -> CollectedRemote:
    """Drops models from the remote `name` that none of its references reaches any more; see `collect_remote`.

    Looked at is the repository that pushes go to: its references are fetched, and forgotten again. Raises `InputError` where they
    name no model at all, `UnknownRemoteError`, `GitCommandError` and `RemoteError`.
    """
    seconds = REMOTE_GRACE if grace is None else parse_duration(grace, where="--grace")
    url = push_url(repo, name)
    store = repo.store()
    try:
        with hub_references(repo, name, url) as hub:
            needed, absent = models_named_by(hub, store.stamps)
        if absent:
            raise InputError(
                f"{name} lacks {absent} objects: which models its references need cannot be told"
            )
        if not needed:
            raise InputError(
                f"no reference of {name} names a model: nothing there would be kept",
                hint="Where it is the store of other repositories (.gruconfig), only these can tell what is needed.",
            )
        remote = push_remote(repo, name, url, store)
        return collect_remote(
            store, remote, needed, now=int(time.time()), grace=int(seconds), dry_run=dry_run
        )
    finally:
        store.close()


def _drop(repo: Repository, store: Store, going: frozenset[str], asked: float) -> frozenset[str]:
    """Drops these models, but for those that were used since `asked`; what hangs on their chunks is encoded anew."""

    def still() -> frozenset[str]:
        used = store.stamps.stamps()
        return frozenset(digest for digest in going if used.get(digest, 0.0) < asked)

    with one_at_a_time(store.folder), Rewrite(store, drop=going) as work:
        set_free(work, ManifestBlobs(repo, store.stamps).chunks_of)
        work.copy(free_of_garbage)
        return frozenset(work.swap(still))
