"""What a push publishes: the models that the pushed commits reach and the remote's side did not, no others.

Which models these are follows from the commits alone, never from a log kept by hooks: merges, rebases and stashes run different
hooks or none.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from git_gru.errors import InputError
from git_gru.git.changes import changes
from git_gru.git.git_remote import Tell
from git_gru.git.history import model_history
from git_gru.git.repository import Repository
from git_gru.git.revisions import ModelReader
from git_gru.git.sources import push_remote, push_url, remote_names
from git_gru.store.manifest import Manifest
from git_gru.store.publish import Progress, Published, publish, republish
from git_gru.store.store import REF

RELATED = 64
"""So many commits are searched, newest first, for models of the remote that share chunks with the new ones."""

_NONE = "0" * 40


@dataclass(frozen=True, kw_only=True)
class PushedModels:
    """The models to publish: lineages (path -> versions, newest first), and the digests of those at a tip."""

    lineages: dict[str, tuple[Manifest, ...]]
    tips: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class RefUpdate:
    """One line that Git tells a pre-push hook: what is pushed (zeros: `ref` is deleted), what the remote has (zeros: nothing)."""

    local: str
    remote: str
    ref: str


class RefusedDeletionError(InputError):
    """A push that would take the models away from the remote."""


def pushed_models(
    repo: Repository,
    new: Sequence[str],
    known: Sequence[str] = (),
    paths: Sequence[str] = (),
    *,
    remote: str | None = None,
) -> PushedModels:
    """The models of `paths` (default: all) that commits reachable from `new` have and those from `known` do not.

    Known is as well what the tracking branches of `remote` reach. Commits in `known` may be missing here.
    """
    if not new:
        return PushedModels(lineages={}, tips=frozenset())
    reader = ModelReader(repo, skip_unreadable=True)
    lineages: dict[str, dict[str, Manifest]] = {}
    digests: dict[str, str] = {}
    tracking = () if remote is None else ("--not", f"--remotes={remote}")
    for blob, path in _objects(repo, [*new, *(f"^{commit}" for commit in known), "--", *paths], *tracking):
        manifest = reader.manifest(blob, path) if path else None
        if manifest is not None:
            lineages.setdefault(path, {}).setdefault(manifest.digest, manifest)
            digests[blob] = manifest.digest
    # Of the models at the tips only these matter: to read all of a large repository's would take longer than the push
    at_tips = _objects(repo, new, "--no-walk") if digests else ()
    return PushedModels(
        lineages={path: tuple(versions.values()) for path, versions in lineages.items()},
        tips=frozenset(digests[blob] for blob, _ in at_tips if blob in digests),
    )


def _objects(repo: Repository, revisions: Sequence[str], *options: str) -> Iterator[tuple[str, str]]:
    """(id, path) of the objects that `revisions` reach, of newer commits first; commits have no path."""
    listed = repo.git(
        "rev-list", "--objects", "--full-history", "--missing=allow-promisor", "--ignore-missing", "--stdin", *options,
        input="\n".join([*revisions, ""]).encode("utf-8", "surrogateescape"),
    )  # fmt: skip
    for line in listed.decode("utf-8", "surrogateescape").splitlines():
        id, _, path = line.partition(" ")
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
            f"refused, because this push would delete {REF}, and with it all models, from {name}",
            hint="git push --mirror deletes what is not here. Send what you have with: git push --all, git push --tags. To "
            "delete the models all the same: --no-verify",
        )
    new = [update.local for update in updates if update.local != _NONE]
    known = [update.remote for update in updates if update.remote != _NONE]
    models = pushed_models(repo, new, known, remote=name if name in remote_names(repo) else None)
    return _publish(repo, name, url, models, new, tell, progress)


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
    """Publishes all models of `paths` (default: all) that these commits reach to the remote `name`.

    Raises `UnknownRemoteError` and what `publish` raises.
    """
    url = push_url(repo, name)
    return _publish(repo, name, url, pushed_models(repo, revisions, paths=paths), revisions, tell, progress)


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
    models: PushedModels,
    tips: Sequence[str],
    tell: Tell | None,
    progress: Progress | None,
) -> Published:
    if not models.lineages:
        return Published(0, 0, 0)
    store = repo.store()

    try:
        return publish(
            store,
            push_remote(repo, name, url, store, tell),
            list(models.lineages.values()),
            keep_plain=models.tips,
            related=_related(repo, tips, list(models.lineages)),
            progress=progress,
        )
    finally:
        store.close()


def _related(repo: Repository, tips: Sequence[str], paths: Sequence[str]) -> Callable[[], Iterator[Manifest]]:
    def related() -> Iterator[Manifest]:
        for change in changes(repo, [f"--max-count={RELATED}", *tips], paths=paths):
            for touched in change.paths:
                yield from (manifest for manifest in (touched.after, touched.before) if manifest is not None)

    return related
