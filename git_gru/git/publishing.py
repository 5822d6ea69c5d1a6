"""What a push publishes: the models that the pushed commits reach and the remote lacks, no others.

Which models these are follows from the commits and the remote's own state alone, never from a log kept by hooks (merges, rebases
and stashes run different hooks or none), nor from tracking branches (`confirmed`).
"""

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from git_gru.errors import InputError
from git_gru.git.changes import changes
from git_gru.git.confirmed import Confirmed, read_confirmed, write_confirmed
from git_gru.git.git_remote import Tell
from git_gru.git.history import model_history, versions
from git_gru.git.manifests import ManifestBlobs
from git_gru.git.partial import complete, promisors
from git_gru.git.repository import Repository
from git_gru.git.revisions import ModelReader
from git_gru.git.run import lines
from git_gru.git.selection import PATHS_HINT, NothingMatchesError
from git_gru.git.sources import absolute, fetch_url, push_remote, push_url, push_urls, remote_names
from git_gru.git.transport import shown
from git_gru.store.manifest import Manifest
from git_gru.store.publish import Progress, Published, publish, republish
from git_gru.store.remote import Remote, blamed
from git_gru.store.stamps import Stamps
from git_gru.store.store import REF, Store
from git_gru.store.trees import StoreTree

RELATED = 64
"""So many commits are searched, newest first, for models of the remote that share chunks with the new ones."""

_NONE = "0" * 40
_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class PushedModels:
    """The models to publish: lineages (path -> versions, newest first), and the digests of those at a tip."""

    lineages: dict[str, tuple[Manifest, ...]]
    tips: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class RefUpdate:
    """One line that Git tells a pre-push hook: what is pushed (zeros: `ref` is deleted), and to which reference there."""

    local: str
    ref: str


class RefusedDeletionError(InputError):
    """A push that would take the models away from the remote."""


class _Named(NamedTuple):
    """A manifest in the history: where it stands, its digest, and the blob that holds it."""

    path: str
    digest: str
    blob: bytes


def pushed_models(
    repo: Repository, stamps: Stamps, new: Sequence[str], known: Sequence[str] = (), paths: Sequence[str] = ()
) -> PushedModels:
    """The models that commits reachable from `new` have and those from `known` do not, or all those at `paths` (as for git log).

    Commits in `known` may be missing here. Raises `NothingMatchesError` where no model is at `paths`.
    """
    blobs = ManifestBlobs(repo, stamps)
    named = _named_at(repo, blobs, new, paths) if paths else list(_named(repo, blobs, new, known))
    return _models(repo, blobs, new, named)


def _models(
    repo: Repository,
    blobs: ManifestBlobs,
    new: Sequence[str],
    named: Sequence[_Named],
    held: Set[str] = frozenset(),
) -> PushedModels:
    """Those of the models `named` that are not `held` (digests) by the remote. Manifests that cannot be read are left out."""
    lineages: dict[str, dict[str, Manifest]] = {}
    digests: dict[str, str] = {}
    for path, digest, blob in named:
        manifest = blobs.manifest(blob) if digest not in held else None
        if manifest is not None:
            lineages.setdefault(path, {}).setdefault(digest, manifest)
            digests[blob.hex()] = digest
    # Of the models at the tips only these matter: to read all of a large repository's would take longer than the push
    at_tips = _objects(repo, new, "--no-walk") if digests else ()
    return PushedModels(
        lineages={path: tuple(versions.values()) for path, versions in lineages.items()},
        tips=frozenset(digests[blob] for blob, _ in at_tips if blob in digests),
    )


def _named_at(
    repo: Repository, blobs: ManifestBlobs, new: Sequence[str], paths: Sequence[str]
) -> list[_Named]:
    """The manifests that `new` reaches at `paths`, of newer commits first. Raises `NothingMatchesError` where there is none.

    (rev-list would name each object at one of its paths only, and look for no pattern in folders.)
    """
    found = [_Named(v.path, v.digest, v.name) for v in versions(repo, blobs, new, paths=paths)] if new else []
    if not found:
        raise NothingMatchesError(
            f"no model that these commits reach is at {', '.join(paths)}",
            hint=PATHS_HINT,
        )
    return found


def _named(
    repo: Repository, blobs: ManifestBlobs, new: Sequence[str], known: Sequence[str] = ()
) -> Iterator[_Named]:
    """The manifests that `new` reaches and `known` does not, of newer commits first."""
    objects = _objects(repo, [*new, *(f"^{commit}" for commit in known)]) if new else iter(())
    while some := list(islice(objects, _AT_ONCE)):
        found = blobs.sort(blob for blob, path in some if path).digests
        for name, path in some:
            blob = bytes.fromhex(name)
            if path and blob in found:
                yield _Named(path, found[blob], blob)


def _objects(repo: Repository, revisions: Sequence[str], *options: str) -> Iterator[tuple[str, str]]:
    """(id, path) of the objects that `revisions` reach, of newer commits first; commits have no path."""
    listed = lines(
        "rev-list", "--objects", "--missing=allow-promisor", "--ignore-missing", "--stdin", *options,
        cwd=repo.top,
        env=repo.environment,
        input="\n".join([*revisions, ""]).encode("utf-8", "surrogateescape"),
    )  # fmt: skip
    for line in listed:
        id, _, path = line.decode("utf-8", "surrogateescape").partition(" ")
        yield id, path


def publish_updates(
    repo: Repository,
    name: str,
    url: str,
    updates: Sequence[RefUpdate],
    *,
    tell: Tell | None = None,
    progress: Progress | None = None,
) -> Published:
    """Publishes what a push of `updates` to the remote `name` at `url` needs there, before Git sends the branch.

    Raises `RefusedDeletionError`, and what `publish` raises.
    """
    if any(update.ref == REF and update.local == _NONE for update in updates):
        raise RefusedDeletionError(
            f"refused, because this push would delete {REF}, and with it all models, from {shown(name)}",
            hint="git push --mirror deletes what is not here. Send what you have with: git push --all, git push --tags. To "
            "delete the models all the same: --no-verify",
        )
    new = [update.local for update in updates if update.local != _NONE]
    return _publish(repo, name, url, new, (), tell, progress)


def own_branches(repo: Repository) -> list[str]:
    """The tips of this repository's own branches: what `git push --all` sends. Another remote's branches are not among them."""
    listed = repo.git("for-each-ref", "--format=%(objectname)", "refs/heads").decode().split()
    return list(dict.fromkeys(listed))


def publish_revisions(
    repo: Repository,
    name: str,
    revisions: Sequence[str],
    *,
    paths: Sequence[str] = (),
    tell: Tell | None = None,
    progress: Progress | None = None,
) -> Published:
    """Publishes all models of `paths` (default: all) that these commits reach to the remote `name`, at all of its push addresses.

    Raises `NothingMatchesError`, `UnknownRemoteError` and what `publish` raises.
    """
    done = [_publish(repo, name, url, revisions, paths, tell, progress) for url in push_urls(repo, name)]
    return Published(
        models=sum(each.models for each in done),
        blobs=sum(each.blobs for each in done),
        bytes=sum(each.bytes for each in done),
    )


def repack_remote(
    repo: Repository, name: str, *, tell: Tell | None = None, progress: Progress | None = None
) -> Published:
    """Encodes the models of the remote `name` anew: older versions as deltas, those at the tips of branches plain.

    Which versions are older says the history that this repository has (`git fetch` first); models that it does not know stay
    as they are. Raises `UnknownRemoteError` and what `republish` raises.
    """
    url = push_url(repo, name)
    store = repo.store()
    history = model_history(repo, store.stamps)
    reader = ModelReader(repo, skip_unreadable=True)
    tips = repo.git("for-each-ref", "--format=%(objectname)", f"refs/remotes/{name}/").decode().split()
    plain = {manifest.digest for commit in tips for manifest in reader.models(commit).values()}
    try:
        return republish(
            store,
            push_remote(repo, name, url, store, tell),
            [list(line) for line in history.lineages.values()],
            keep_plain=history.keep_plain | plain,
            progress=progress,
        )
    finally:
        store.close()


def _publish(
    repo: Repository,
    name: str,
    url: str,
    tips: Sequence[str],
    paths: Sequence[str],
    tell: Tell | None,
    progress: Progress | None,
) -> Published:
    """Publishes the models of `paths` that `tips` reach and the remote lacks, and notes what it has then."""
    if not tips:
        return Published(0, 0, 0)
    url = absolute(repo, url)
    store = repo.store()
    try:
        blobs = ManifestBlobs(repo, store.stamps)
        known = Confirmed() if paths else read_confirmed(repo, url)
        _complete(repo, url, tips, known.commits)
        named = (
            _named_at(repo, blobs, tips, paths) if paths else list(_named(repo, blobs, tips, known.commits))
        )
        if not named and not known.models:
            return Published(0, 0, 0)
        remote = push_remote(repo, name, url, store, tell)
        with store.locked(alone=False):
            state, held = _held(store, remote)
            if not known.models <= held:
                known = Confirmed()
                _complete(repo, url, tips)
                named = list(_named(repo, blobs, tips))
            models = _models(repo, blobs, tips, named, held)
            done = publish(
                store,
                remote,
                list(models.lineages.values()),
                keep_plain=models.tips,
                related=_related(repo, tips, list(models.lineages)),
                progress=progress,
                seen=state,
            )
        if not paths:
            sent = {manifest.digest for line in models.lineages.values() for manifest in line}
            there = sent | (held & {each.digest for each in named})
            commits = tuple(dict.fromkeys([*tips, *known.commits]))
            write_confirmed(repo, url, Confirmed(commits=commits, models=known.models | there))
        return done
    finally:
        store.close()


def _complete(repo: Repository, url: str, tips: Sequence[str], known: Sequence[str] = ()) -> None:
    """In a partial clone: brings the manifests (and all else) that a push to `url` sends, unless it was cloned from there."""
    there = remote_names(repo)
    names = [
        name for name in promisors(repo) if name in there
    ]  # one that was taken away left a setting behind
    theirs = [place for name in names for place in (fetch_url(repo, name), *push_urls(repo, name))]
    if names and url not in theirs:
        complete(repo, [*tips, *(f"^{commit}" for commit in known)])


def _held(store: Store, remote: Remote) -> tuple[bytes | None, Set[str]]:
    """The remote's state, and the digests of the models that it has and no collection has marked."""
    with blamed(remote):
        state = StoreTree(store.objects, remote.look())
        return state.commit, state.models().keys() - state.unneeded.keys()


def _related(repo: Repository, tips: Sequence[str], paths: Sequence[str]) -> Callable[[], Iterator[Manifest]]:
    def related() -> Iterator[Manifest]:
        for change in changes(repo, [f"--max-count={RELATED}", *tips], paths=paths):
            for touched in change.paths:
                yield from (manifest for manifest in (touched.after, touched.before) if manifest is not None)

    return related
