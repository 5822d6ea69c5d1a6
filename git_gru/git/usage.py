"""Where the bytes of models go: by path, by tensor, by commit, and what each of the store's means saves.

- *raw*: as in the files; every version counts in full.
- *distinct*: each chunk once, however many versions, tensors and paths it stands in: what deduplication leaves.
- *plain*: the distinct chunks in plain encodings, as they were added. Of deltas it is known where this store made them.
- *stored*: as they are kept now.

A chunk belongs to the oldest commit that has it. A path's and a tensor's stored bytes count what they share with others in each.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from git_gru.git.collecting import collection_rules, plan_collection
from git_gru.git.history import versions
from git_gru.git.manifests import ManifestBlobs
from git_gru.git.repository import Repository
from git_gru.git.revisions import resolve_commit
from git_gru.store.lookup import ChunkRow
from git_gru.store.manifest import Manifest
from git_gru.store.store import Store


@dataclass(kw_only=True)
class Share:
    """Bytes of a part of the history: `raw` of `versions` versions, and the distinct chunks' `stored` bytes."""

    versions: int = 0
    raw: int = 0
    stored: int = 0


@dataclass(frozen=True, kw_only=True)
class CommitShare:
    """What one commit added: `raw` and `stored` bytes of the chunks that no older commit has."""

    commit: str
    time: int
    subject: str
    raw: int
    stored: int


@dataclass(frozen=True, kw_only=True)
class Totals:
    """All of it together, shared chunks once. `plain_unknown` are stored bytes of deltas whose plain size is not known."""

    versions: int
    raw: int
    distinct: int
    plain: int
    plain_unknown: int
    stored: int
    missing: int


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Where the bytes go. `tensors` is by (path, name); `commits` newest first, only those that added anything."""

    paths: dict[str, Share]
    tensors: dict[tuple[str, str], Share]
    commits: tuple[CommitShare, ...]
    totals: Totals
    unneeded_models: int
    unneeded_bytes: int
    packs: int
    pack_bytes: int


def usage(repo: Repository, store: Store, revisions: Sequence[str]) -> Usage:
    """The usage of the models reachable from `revisions` (none: from all references). Raises `UnknownRevisionError`."""
    commits = [resolve_commit(repo, rev) for rev in revisions]
    blobs = ManifestBlobs(repo, store.stamps)
    store.sync()
    count = _Count(store.lookup.rows())
    made = [version for version in versions(repo, blobs, commits, all_refs=not commits) if version.is_made]
    for version in reversed(made):
        if not count.knows(version.path, version.digest):
            manifest = blobs.manifest(version.name)
            if manifest is not None:
                count.add(version.commit, version.path, manifest)
    order = dict.fromkeys(version.commit for version in made)
    unneeded = plan_collection(repo, store, collection_rules(repo)).unneeded
    packs = store.objects.packs()
    return Usage(
        paths=dict(sorted(count.paths.items(), key=lambda item: -item[1].stored)),
        tensors=dict(sorted(count.tensors.items(), key=lambda item: -item[1].stored)),
        commits=tuple(
            _described(repo, [commit for commit in order if commit in count.commits], count.commits)
        ),
        totals=count.totals(store.lookup.plain_sizes()),
        unneeded_models=len(unneeded),
        unneeded_bytes=sum(model.frees for model in unneeded),
        packs=len(packs),
        pack_bytes=sum(pack.size for pack in packs),
    )


@dataclass
class _Count:
    """Adds up models, oldest first."""

    rows: Mapping[str, ChunkRow]
    paths: dict[str, Share] = field(default_factory=dict)
    tensors: dict[tuple[str, str], Share] = field(default_factory=dict)
    commits: dict[str, Share] = field(default_factory=dict)
    _seen: dict[object, set[str]] = field(default_factory=dict)
    _versions: dict[object, set[object]] = field(default_factory=dict)
    _raw: int = 0
    _missing: set[str] = field(default_factory=set)

    def knows(self, path: str, digest: str) -> bool:
        """Whether this version of the path was counted."""
        return digest in self._versions.get(path, ())

    def add(self, commit: str, path: str, manifest: Manifest) -> None:
        """Counts one version of one path."""
        chunks = manifest.chunks()
        self._part(self.paths.setdefault(path, Share()), path, manifest.digest, manifest.size, chunks)
        for name, entry in manifest.tensors.items():
            place = (path, name)
            self._part(
                self.tensors.setdefault(place, Share()), place, entry.chunks, entry.nbytes, entry.chunks
            )
        if manifest.digest not in self._versions.setdefault(None, set()):
            self._versions[None].add(manifest.digest)
            self._raw += manifest.size
        new = self._new(None, chunks)
        if new:
            share = self.commits.setdefault(commit, Share())
            share.raw += sum(row.raw for row in new)
            share.stored += sum(row.stored for row in new)

    def totals(self, plain_sizes: Mapping[str, int]) -> Totals:
        """All of it together."""
        distinct = plain = unknown = stored = 0
        for id in self._seen.get(None, ()):
            row = self.rows[id]
            distinct += row.raw
            stored += row.stored
            if row.base is None:
                plain += row.stored
            elif id in plain_sizes:
                plain += plain_sizes[id]
            else:
                unknown += row.stored
        return Totals(
            versions=len(self._versions.get(None, ())),
            raw=self._raw,
            distinct=distinct,
            plain=plain,
            plain_unknown=unknown,
            stored=stored,
            missing=len(self._missing),
        )

    def _part(self, share: Share, place: object, version: object, raw: int, chunks: Iterable[str]) -> None:
        versions = self._versions.setdefault(place, set())
        if version not in versions:
            versions.add(version)
            share.versions += 1
            share.raw += raw
            share.stored += sum(row.stored for row in self._new(place, chunks))

    def _new(self, place: object, chunks: Iterable[str]) -> list[ChunkRow]:
        """The rows of the chunks that were not seen at `place` before."""
        seen = self._seen.setdefault(place, set())
        new = []
        for id in chunks:
            row = self.rows.get(id)
            if row is None:
                self._missing.add(id)
            elif id not in seen:
                seen.add(id)
                new.append(row)
        return new


def _described(
    repo: Repository, commits: Sequence[str], shares: Mapping[str, Share]
) -> Iterator[CommitShare]:
    if not commits:
        return
    feed = "".join(f"{commit}\n" for commit in commits).encode()
    text = repo.git("log", "--no-walk=unsorted", "-z", "--format=%H %at %s", "--stdin", input=feed)
    for line in text.decode("utf-8", "replace").split("\0"):
        if line:
            commit, time, subject = line.split(" ", 2)
            share = shares[commit]
            yield CommitShare(
                commit=commit, time=int(time), subject=subject, raw=share.raw, stored=share.stored
            )
