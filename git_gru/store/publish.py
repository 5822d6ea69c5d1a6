"""Publish: models of this store become models of a remote, each blob sent once, in batches of bounded size.

How they are kept there is the `plan`'s; a chunk that the remote keeps plain already is not sent again.

Each batch is one commit on top of the remote's state. When somebody else has moved that state, the same models are put on top of
the new one: both succeed. A model larger than a batch arrives in parts under `incoming` (docs/format.md 5.2), so that an
interrupted push goes on where it stopped.
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from git_gru.store.batches import BATCH_BYTES, batches, lengths_of
from git_gru.store.bring import fetch_trees
from git_gru.store.manifest import Manifest
from git_gru.store.objects import ObjectMissingError
from git_gru.store.pack_reader import ObjectDamagedError
from git_gru.store.packs import Entry
from git_gru.store.plan import Kept, Plan
from git_gru.store.promised import keep_promised
from git_gru.store.remote import Remote, RemoteError, blamed
from git_gru.store.store import BRING, ModelMissingError, Store
from git_gru.store.trees import StoreTree, TreeError, model_blobs, model_deltas, tree_of

PACKED_FROM = 100
"""So many objects, and a Git server keeps a push as a pack (`receive.unpackLimit`); fewer become loose objects."""

PADDED_BYTES = 1 << 20
"""A batch of at least so many bytes is padded to `PACKED_FROM` objects."""

PATIENCE = 8
"""After so many of the remote's models in a row with which the new ones share nothing more, no further one is looked at."""

MOST_TRIES = 100
"""How often a batch is put on top of a state that others move meanwhile."""

MOST_REFUSALS = 10
"""How often in a row a remote may refuse a batch without that its state moves: a lock that somebody holds is gone by then."""

Progress = Callable[[int, int], None]
"""Told (done, all) in bytes to send."""

Related = Callable[[], Iterable[Manifest]]
"""Models that may share chunks with those to publish, likeliest first; asked for only where the remote has models."""


@dataclass(frozen=True, slots=True)
class Published:
    """What was sent: models that the remote has now and had not, blobs, and their bytes as kept."""

    models: int
    blobs: int
    bytes: int


@dataclass(slots=True)
class _Batch:
    """What one push carries: model trees by digest, trees of parts, and the bytes of the new blobs below them.

    `shared` says that these trees name other blobs as well, headers apart: such as the remote has by then.
    """

    models: dict[str, Entry] = field(default_factory=dict)
    parts: dict[str, Entry] = field(default_factory=dict)
    shared: bool = False
    blobs: int = 0
    bytes: int = 0


def publish(
    store: Store,
    remote: Remote,
    lineages: Sequence[Sequence[Manifest]],
    *,
    keep_plain: Set[str] = frozenset(),
    related: Related = lambda: (),
    progress: Progress | None = None,
    seen: bytes | None = None,
) -> Published:
    """Makes the models of `lineages` (each newest first) models of the remote; those that it has cost nothing.

    The newest of each lineage and the models whose digests are in `keep_plain` travel as plain encodings. `seen` is the remote's
    state, where the caller has looked while it held the store's lock. Models that neither
    the remote nor this store has are brought from elsewhere (`Store.supply`). Raises `ModelMissingError` naming models that
    are nowhere, and `RemoteError`; whatever was sent by then stays.
    """
    with store.locked(alone=False):
        work = _Publish(store, remote, progress, seen=seen)
        try:
            return work.run(lineages, keep_plain, related)
        finally:
            work.plan.clean()


def republish(
    store: Store,
    remote: Remote,
    lineages: Sequence[Sequence[Manifest]],
    *,
    keep_plain: Set[str] = frozenset(),
    drop: Set[str] = frozenset(),
    progress: Progress | None = None,
) -> Published:
    """Encodes the remote's models of `lineages` anew, older versions as deltas, and drops those with the digests `drop`.

    The models are brought here where they are not. Afterwards the remote's state has no history, so that its own
    housekeeping frees what nothing names any more. Models that others publish meanwhile stay, and so do those of `drop` that
    are not marked as unneeded (`collect_remote`) or that somebody relies on by then. Raises as `publish`.
    """
    with store.locked(alone=False):
        work = _Publish(store, remote, progress, anew=True)
        try:
            done = work.run(lineages, keep_plain, lambda: ())
            work.cut_history(drop)
            return done
        finally:
            work.plan.clean()


class _Publish:
    """One publication. `anew`: of models that the remote has, not of those that it lacks."""

    def __init__(
        self,
        store: Store,
        remote: Remote,
        progress: Progress | None,
        *,
        anew: bool = False,
        seen: bytes | None = None,
    ) -> None:
        self.store, self.remote, self.progress, self.anew = store, remote, progress, anew
        self.tip = seen if seen is not None else remote.look()
        self.relied: Set[str] = frozenset()
        self.plan = Plan(store)
        self.there: set[bytes] = set()
        self.models = self.blobs = self.bytes = self.all = self.refusals = 0

    def run(
        self,
        lineages: Sequence[Sequence[Manifest]],
        keep_plain: Set[str],
        related: Related,
    ) -> Published:
        state, there = self._state()
        lines = [[m for m in line if (m.digest in there) is self.anew] for line in lineages]
        models = {manifest.digest: manifest for line in lines for manifest in line}
        self.relied = {manifest.digest for line in lineages for manifest in line}
        if not models and not self.relied & state.unneeded.keys():
            return Published(0, 0, 0)
        self.store.require(models.values())
        self._require_here(models.values())
        with blamed(self.remote):
            if self.anew:
                self._find_all(there)
            elif there:
                self._find_kept(models.values(), there, related)
        self._find_arrived(state, models)
        self.plan.encode(lines, keep_plain)
        self.all = sum(kept.size for kept in self.plan.kept.values() if kept.oid not in self.there)
        for batch in self._batches(models):
            self._move(batch)
        return Published(self.models, self.blobs, self.bytes)

    def _state(self) -> tuple[StoreTree, Mapping[str, bytes]]:
        """The remote's state as it was last seen, and its models."""
        with blamed(self.remote):
            state = StoreTree(self.store.objects, self.tip)
            return state, state.models()

    def _require_here(self, models: Iterable[Manifest]) -> None:
        absent = [manifest.digest[:12] for manifest in models if not self.store.has_model(manifest.digest)]
        if absent:
            raise ModelMissingError(
                f"{len(absent)} of the models to publish are not in the store {self.store.folder}: "
                f"{', '.join(absent[:5])}{' …' if len(absent) > 5 else ''}",
                hint=BRING,
            )

    def _find_kept(self, models: Iterable[Manifest], there: Mapping[str, bytes], related: Related) -> None:
        """Plans the use of chunks that the remote keeps plain in models that we know."""
        wanted = {id for manifest in models for id in manifest.chunks()}
        shared: dict[bytes, list[str]] = {}
        in_vain = 0
        for manifest in related():
            tree = there.get(manifest.digest)
            if tree is None:
                continue
            found = wanted.intersection(manifest.chunks())
            if found:
                shared[tree] = sorted(found)
                wanted -= found
            in_vain = 0 if found else in_vain + 1
            if not wanted or in_vain == PATIENCE:
                break
        fetch_trees(self.store.objects, self.remote, shared)
        for tree, ids in shared.items():
            blobs, deltas = model_blobs(self.store.objects, tree), model_deltas(self.store.objects, tree)
            for id in ids:
                if id in blobs and id not in deltas:
                    self.plan.kept[id] = Kept(blobs[id], None, 0)
                    self.there.add(blobs[id])

    def _find_all(self, there: Mapping[str, bytes]) -> None:
        """Notes all blobs that the remote has."""
        fetch_trees(self.store.objects, self.remote, there.values())
        for tree in there.values():
            self.there.update(model_blobs(self.store.objects, tree).values())

    def _find_arrived(self, state: StoreTree, models: Mapping[str, Manifest]) -> None:
        """Notes the blobs that an interrupted push has brought to the remote. A tree that is none is replaced."""
        for digest, tree in state.incoming.items():
            if digest in models:
                with contextlib.suppress(ObjectMissingError, ObjectDamagedError, TreeError):
                    self.there.update(model_blobs(self.store.objects, tree).values())

    def _batches(self, models: Mapping[str, Manifest]) -> Iterator[_Batch]:
        """The batches in order: newest models first, with all that they need."""
        batch = _Batch()
        for digest, manifest in models.items():
            needed = self.plan.closure(manifest)
            new = {id: kept for id, kept in needed.items() if kept.oid not in self.there}
            size = sum(kept.size for kept in new.values())
            if batch.models and batch.bytes + size > BATCH_BYTES:
                yield batch
                batch = _Batch()
            if size > BATCH_BYTES:
                yield from self._parts(manifest, needed, new)
                new, size = {}, 0
            batch.models[digest] = tree_of(needed)
            batch.shared |= any(id not in new and id != manifest.header for id in needed)
            batch.blobs += len(new)
            batch.bytes += size
            self.there.update(kept.oid for kept in new.values())
        yield batch

    def _parts(
        self, manifest: Manifest, needed: Mapping[str, Kept], new: Mapping[str, Kept]
    ) -> Iterator[_Batch]:
        """The blobs of a model that is too large for one batch."""
        arrived = {id: kept for id, kept in needed.items() if id not in new}
        for ids in batches(lengths_of(manifest, new), BATCH_BYTES):
            arrived |= {id: new[id] for id in ids}
            self.there.update(new[id].oid for id in ids)
            yield _Batch(
                parts={manifest.digest: tree_of(arrived)},
                shared=True,
                blobs=len(ids),
                bytes=sum(new[id].size for id in ids),
            )

    def _move(self, batch: _Batch) -> None:
        """Sends a batch, on top of whatever the remote's state is by then."""
        for attempt in range(MOST_TRIES):
            state, there = self._state()
            models = {
                digest: tree
                for digest, tree in batch.models.items()
                if (there.get(digest) not in (None, tree.oid) if self.anew else digest not in there)
            }
            arriving = {d: t for d, t in state.incoming.items() if d not in batch.models and d not in there}
            arriving |= {digest: entry.oid for digest, entry in batch.parts.items()}
            if not models and not batch.parts and not self.relied & state.unneeded.keys():
                return
            new = self._write(state, models, arriving, batch)
            if self.remote.move(new, self.tip, shared=batch.shared):
                self.tip = new
                break
            self._wait(attempt)
        self.models += len(models)
        self.blobs += batch.blobs
        self.bytes += batch.bytes
        if self.progress is not None:
            self.progress(self.bytes, self.all)

    def cut_history(self, drop: Set[str]) -> None:
        """Makes the remote's state a commit without a parent, without those of the models `drop` that are unneeded still."""
        for attempt in range(MOST_TRIES):
            state, there = self._state()
            if state.commit is None:
                return
            gone = drop & state.unneeded.keys() & there.keys()
            new, entries = state.write(
                dict.fromkeys(gone),
                incoming=state.incoming,
                unneeded={d: when for d, when in state.unneeded.items() if d not in gone},
            )
            keep_promised(self.store.repository, entries)
            if new == self.tip or self.remote.move(new, self.tip, replace=True):
                return
            self._wait(attempt)

    def _wait(self, attempt: int) -> None:
        """After a lost compare-and-swap: waits a while that differs from the others', and looks again."""
        if attempt == MOST_TRIES - 1:
            raise RemoteError(
                f"others publish to {self.remote.name} all the time: gave up after {MOST_TRIES} tries",
                hint="What was sent so far stays there; run the command again",
            )
        time.sleep(random.uniform(0, min(2.0, 0.05 * 2 ** min(attempt, 6))))
        seen, self.tip = self.tip, self.remote.look()
        self.refusals = self.refusals + 1 if self.tip == seen else 0
        if self.refusals == MOST_REFUSALS:
            raise RemoteError(
                f"{self.remote.name} takes no new models, although nobody else moves its refs/gru/store",
                hint="Look there for a refs/gru/store.lock that a killed git has left, and who may write; then run the "
                "command again",
            )

    def _write(
        self, state: StoreTree, models: Mapping[str, Entry], arriving: Mapping[str, bytes], batch: _Batch
    ) -> bytes:
        """Writes the commit that puts a batch on top of `state`, and returns it."""
        trees = {**models, **batch.parts}
        padding = PACKED_FROM - batch.blobs - len(trees) if batch.bytes >= PADDED_BYTES else 0
        new, entries = state.write(
            {digest: entry.oid for digest, entry in models.items()},
            parent=state.commit,
            incoming=arriving,
            # Whoever relies on a model says so to a collector that was about to drop it
            unneeded={d: when for d, when in state.unneeded.items() if d not in self.relied},
            padding=padding,
        )
        # What these trees name, the remote has, or `Plan.clean` deletes it here
        keep_promised(self.store.repository, [*trees.values(), *entries])
        return new
