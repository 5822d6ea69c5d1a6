"""Space, with a remote: local copies of what it has are dropped here, and what its references need no more is dropped there."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from git_gru.errors import InputError
from git_gru.git.collecting import parse_duration
from git_gru.git.git_remote import GitRemote
from git_gru.git.history import model_history
from git_gru.git.manifests import ManifestBlobs
from git_gru.git.needs import models_named_by
from git_gru.git.repository import Repository
from git_gru.git.revisions import index_models
from git_gru.git.sources import push_remote, push_url
from git_gru.store.bring import held_by
from git_gru.store.collect import DAY
from git_gru.store.collect_remote import CollectedRemote, collect_remote
from git_gru.store.freeing import set_free
from git_gru.store.locking import one_at_a_time
from git_gru.store.manifest import Manifest
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
    """Drops local copies of models that the remote `name` was just seen to have, whole.

    Those that are checked out, in the index or at a branch's tip stay. A dropped model is fetched again when it is needed.
    Raises `UnknownRemoteError`, `RemoteError`, `RewriteRunningError`.
    """
    store = repo.store()
    try:
        asked = store.stamps.now()
        history = model_history(repo, store.stamps)
        keep = history.keep_plain | {manifest.digest for manifest in index_models(repo).values()}
        versions = {m.digest: m for line in history.lineages.values() for m in line}
        here = store.models()
        candidates = [m for digest, m in versions.items() if digest in here and digest not in keep]
        going = held_by(store, _remote(repo, name, store), candidates) if candidates else frozenset()
        before = sum(pack.size for pack in store.objects.packs())
        if dry_run or not going:
            return Pruned(dropped=going, bytes_before=before, bytes_after=None if dry_run else before)
        dropped = _drop(repo, store, going, versions, asked)
        after = sum(pack.size for pack in store.objects.packs())
        return Pruned(dropped=frozenset(dropped), bytes_before=before, bytes_after=after)
    finally:
        store.close()


def collect_hub(
    repo: Repository, name: str, *, grace: str | None = None, dry_run: bool = False
) -> CollectedRemote:
    """Drops models from the remote `name` that none of its references reaches any more; see `collect_remote`.

    All of its references are fetched for that, and forgotten again. Raises `InputError` in a partial clone, which cannot
    tell what they need, `UnknownRemoteError` and `RemoteError`.
    """
    seconds = REMOTE_GRACE if grace is None else parse_duration(grace, where="--grace")
    store = repo.store()
    try:
        with _references_of(repo, name) as namespace:
            needed, absent = models_named_by(repo, store.stamps, namespace)
        if absent:
            raise InputError(
                f"{absent} objects of {name} are not in this partial clone: which models its references need cannot be told",
                hint="Run this in a full clone.",
            )
        remote = _remote(repo, name, store)
        return collect_remote(
            store, remote, needed, now=int(time.time()), grace=int(seconds), dry_run=dry_run
        )
    finally:
        store.close()


def _drop(
    repo: Repository, store: Store, going: frozenset[str], versions: dict[str, Manifest], asked: float
) -> frozenset[str]:
    """Drops these models, but for those that were used since `asked`; what hangs on their chunks is encoded anew."""
    blobs = ManifestBlobs(repo, store.stamps)

    def own(digest: str) -> list[str] | None:
        manifest = versions.get(digest) or blobs.of_model(digest)
        return None if manifest is None else manifest.chunks()

    def still() -> frozenset[str]:
        used = store.stamps.stamps()
        return frozenset(digest for digest in going if used.get(digest, 0.0) < asked)

    with one_at_a_time(store.folder), Rewrite(store, drop=going) as work:
        set_free(work, own)
        work.copy(free_of_garbage)
        return frozenset(work.swap(still))


def _remote(repo: Repository, name: str, store: Store) -> GitRemote:
    return push_remote(repo, name, push_url(repo, name), store)


@contextmanager
def _references_of(repo: Repository, name: str) -> Iterator[str]:
    """All references of a remote, but for its store's, fetched into a namespace that is deleted afterwards."""
    namespace = f"refs/gru/hub/{name}/"
    specs = (f"+refs/*:{namespace}*", "^refs/gru/store", "^refs/gru/remotes/*", "^refs/gru/hub/*")
    try:
        repo.git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--prune", name, *specs)
        yield namespace
    finally:
        listed = repo.git("for-each-ref", "--format=delete %(refname)", namespace)
        repo.git("update-ref", "--stdin", input=listed)
