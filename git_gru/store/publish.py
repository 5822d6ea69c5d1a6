"""Publish: models of this store become models of a remote, each blob sent once, in batches of bounded size.

What travels: of several versions published together the newest as plain encodings, the older ones as deltas against newer ones;
a chunk that the remote keeps plain already is not sent again. A delta's base is always a chunk of the models published here, so
nobody's other weights travel along. Where the store keeps a chunk as a delta against anything else, it is encoded anew for the
remote, in a pack that is deleted afterwards.

Each batch is one commit on top of the remote's state. When somebody else has moved that state, the same models are put on top of
the new one: both succeed. A model larger than a batch arrives in parts under `incoming` (docs/format.md 5.3), so that an
interrupted push goes on where it stopped.
"""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from git_gru.store.bring import fetch_trees
from git_gru.store.codec import encode_plain, inspect
from git_gru.store.columns import DEPTH, WINDOW, Column, columns_of, place_column
from git_gru.store.lookup import ChunkRow
from git_gru.store.manifest import Manifest
from git_gru.store.objects import ObjectDamagedError, ObjectMissingError
from git_gru.store.packs import Entry, PackWriter, make_entry
from git_gru.store.pipeline import ordered_map
from git_gru.store.remote import BATCH_BYTES, Remote, RemoteError, blamed
from git_gru.store.store import BRING, ChunkMissingError, ModelMissingError, Store
from git_gru.store.trees import StoreTree, TreeError, make_model_tree, model_blobs, model_deltas

PACKED_FROM = 100
"""So many objects, and a Git server keeps a push as a pack (`receive.unpackLimit`); fewer become loose objects."""

PADDED_BYTES = 1 << 20
"""A batch of at least so many bytes is padded to `PACKED_FROM` objects."""

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


class _Kept(NamedTuple):
    """How a chunk is kept on the remote: its blob, its base, and the bytes to send for it (0: it is there)."""

    oid: bytes
    base: str | None
    size: int


@dataclass(slots=True)
class _Batch:
    """What one push carries: model trees by digest, trees of parts, and the bytes of the new blobs below them."""

    models: dict[str, Entry] = field(default_factory=dict)
    parts: dict[str, Entry] = field(default_factory=dict)
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
) -> Published:
    """Makes the models of `lineages` (each newest first) models of the remote; those that it has cost nothing.

    The newest of each lineage and the models whose digests are in `keep_plain` travel as plain encodings. Models that neither
    the remote nor this store has are brought from elsewhere (`Store.supply`). Raises `ModelMissingError` naming models that
    are nowhere, and `RemoteError`; whatever was sent by then stays.
    """
    with store.locked(alone=False):
        work = _Publish(store, remote, progress)
        try:
            return work.run(lineages, keep_plain, related)
        finally:
            work.clean()


class _Publish:
    def __init__(self, store: Store, remote: Remote, progress: Progress | None) -> None:
        self.store, self.remote, self.progress = store, remote, progress
        self.tip = remote.look()
        self.plan: dict[str, _Kept] = {}
        self.there: set[bytes] = set()
        self.fresh: PackWriter | None = None
        self.fresh_pack: Path | None = None
        self.lock = threading.Lock()
        self.models = self.blobs = self.bytes = self.all = 0

    def run(
        self,
        lineages: Sequence[Sequence[Manifest]],
        keep_plain: Set[str],
        related: Related,
    ) -> Published:
        state, there = self._state()
        lines = [[m for m in line if m.digest not in there] for line in lineages]
        models = {manifest.digest: manifest for line in lines for manifest in line}
        if not models:
            return Published(0, 0, 0)
        self.store.require(models.values())
        self._require_here(models.values())
        if there:
            with blamed(self.remote):
                self._find_kept(models.values(), there, related)
        self._find_arrived(state, models)
        self._encode(lines, keep_plain)
        self.all = sum(kept.size for kept in self.plan.values() if kept.oid not in self.there)
        for batch in self._batches(models):
            self._move(batch)
        return Published(self.models, self.blobs, self.bytes)

    def _state(self) -> tuple[StoreTree, Mapping[str, bytes]]:
        """The remote's state as it was last seen, and its models."""
        with blamed(self.remote):
            state = StoreTree(self.store.objects, self.tip)
            return state, state.models()

    def clean(self) -> None:
        """Deletes the blobs that were encoded for this remote alone."""
        if self.fresh is not None:
            self.fresh.abandon()
        if self.fresh_pack is not None:
            self.fresh_pack.with_suffix(".idx").unlink(missing_ok=True)
            self.fresh_pack.unlink(missing_ok=True)

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
        for manifest in related():
            tree = there.get(manifest.digest)
            found = wanted.intersection(manifest.chunks()) if tree is not None else set()
            if tree is not None and found:
                shared[tree] = sorted(found)
                wanted -= found
            if not wanted:
                break
        fetch_trees(self.store.objects, self.remote, shared)
        for tree, ids in shared.items():
            blobs, deltas = model_blobs(self.store.objects, tree), model_deltas(self.store.objects, tree)
            for id in ids:
                if id in blobs and id not in deltas:
                    self.plan[id] = _Kept(blobs[id], None, 0)
                    self.there.add(blobs[id])

    def _find_arrived(self, state: StoreTree, models: Mapping[str, Manifest]) -> None:
        """Notes the blobs that an interrupted push has brought to the remote. A tree that is none is replaced."""
        for digest, tree in state.incoming.items():
            if digest in models:
                with contextlib.suppress(ObjectMissingError, ObjectDamagedError, TreeError):
                    self.there.update(model_blobs(self.store.objects, tree).values())

    def _encode(self, lines: Sequence[Sequence[Manifest]], keep_plain: Set[str]) -> None:
        """Plans how each chunk that the remote lacks is kept there; what must be encoded anew goes to the fresh pack."""
        self.store.sync()
        rows: dict[str, ChunkRow] = {}
        for id in dict.fromkeys(id for line in lines for manifest in line for id in manifest.chunks()):
            row = self.store.lookup.get(id) if id not in self.plan else None
            if row is not None:
                rows[id] = row
            elif id not in self.plan:
                raise ChunkMissingError(
                    f"chunk {id[:12]} is not in the store {self.store.folder}", hint=BRING
                )
        plain = {
            id
            for line in lines
            for at, manifest in enumerate(line)
            if at == 0 or manifest.digest in keep_plain
            for id in manifest.chunks()
        }
        columns = columns_of(lines, rows)
        for _ in ordered_map(
            self.store.pool,
            lambda column: self._place(column, rows, plain),
            columns,
            ahead=self.store.cores + 1,
        ):
            pass
        for id in rows.keys() - self.plan.keys():  # headers and raw chunks stand in no column
            self._keep(id, rows[id])
        if self.fresh is not None:
            self.fresh_pack, self.fresh = self.fresh.finish(), None

    def _place(self, column: Column, rows: Mapping[str, ChunkRow], plain: Set[str]) -> None:
        for placed in place_column(column, rows.__getitem__, self._read, plain, depth=DEPTH, window=WINDOW):
            if placed.parts is None:
                row = rows[placed.id]
                self.plan[placed.id] = _Kept(row.oid, placed.base, row.stored)
            else:
                self._freshen(placed.id, placed.base, placed.parts)

    def _keep(self, id: str, row: ChunkRow) -> None:
        if row.base is None:
            self.plan[id] = _Kept(row.oid, None, row.stored)
            return
        dtype = inspect(self.store.objects.expect(row.oid, "blob"), where=f"chunk {id[:12]}").dtype
        self._freshen(id, None, encode_plain(self._read(id), dtype))

    def _freshen(self, id: str, base: str | None, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        entry = make_entry("blob", parts)
        with self.lock:
            if self.fresh is None:
                self.fresh = PackWriter(self.store.repository / "objects/pack", 0)
            self.fresh.add(entry)
            self.plan[id] = _Kept(entry.oid, base, sum(map(len, parts)))

    def _read(self, id: str) -> bytes:
        return self.store.chunk(id)

    def _batches(self, models: Mapping[str, Manifest]) -> Iterator[_Batch]:
        """The batches in order: newest models first, with all that they need."""
        batch = _Batch()
        for digest, manifest in models.items():
            needed = self._closure(manifest)
            new = {id: kept for id, kept in needed.items() if kept.oid not in self.there}
            size = sum(kept.size for kept in new.values())
            if batch.models and batch.bytes + size > BATCH_BYTES:
                yield batch
                batch = _Batch()
            if size > BATCH_BYTES:
                yield from self._parts(digest, needed, new)
                new, size = {}, 0
            batch.models[digest] = self._tree(needed)
            batch.blobs += len(new)
            batch.bytes += size
            self.there.update(kept.oid for kept in new.values())
        yield batch

    def _parts(self, digest: str, needed: Mapping[str, _Kept], new: Mapping[str, _Kept]) -> Iterator[_Batch]:
        """The blobs of a model that is too large for one batch."""
        batch = _Batch()
        arrived = {id: kept for id, kept in needed.items() if id not in new}
        for id, kept in new.items():
            if batch.blobs and batch.bytes + kept.size > BATCH_BYTES:
                batch.parts[digest] = self._tree(arrived)
                yield batch
                batch = _Batch()
            arrived[id] = kept
            self.there.add(kept.oid)
            batch.blobs += 1
            batch.bytes += kept.size
        batch.parts[digest] = self._tree(arrived)
        yield batch

    def _closure(self, manifest: Manifest) -> dict[str, _Kept]:
        needed: dict[str, _Kept] = {}
        for id in manifest.chunks():
            wanted: str | None = id
            while wanted is not None and wanted not in needed:
                needed[wanted] = self.plan[wanted]
                wanted = needed[wanted].base
        return needed

    @staticmethod
    def _tree(needed: Mapping[str, _Kept]) -> Entry:
        deltas = {id for id, kept in needed.items() if kept.base is not None}
        return make_model_tree({id: kept.oid for id, kept in needed.items()}, deltas)

    def _move(self, batch: _Batch) -> None:
        """Sends a batch, on top of whatever the remote's state is by then."""
        refusals = 0
        for attempt in range(MOST_TRIES):
            state, there = self._state()
            models = {digest: tree for digest, tree in batch.models.items() if digest not in there}
            arriving = {d: t for d, t in state.incoming.items() if d not in batch.models and d not in there}
            arriving |= {digest: entry.oid for digest, entry in batch.parts.items()}
            if not models and not batch.parts:
                return
            new = self._write(state, models, arriving, batch)
            if self.remote.move(new, self.tip):
                self.tip = new
                break
            # Whoever lost moves again after a while that differs from the others'
            time.sleep(random.uniform(0, min(2.0, 0.05 * 2 ** min(attempt, 6))))
            seen, self.tip = self.tip, self.remote.look()
            refusals = refusals + 1 if self.tip == seen else 0
            if refusals == MOST_REFUSALS:
                raise RemoteError(
                    f"{self.remote.name} takes no new models, although nobody else moves its refs/gru/store",
                    hint="Look there for a refs/gru/store.lock that a killed git has left, and who may write; then run the "
                    "command again",
                )
        else:
            raise RemoteError(
                f"others publish to {self.remote.name} all the time: gave up after {MOST_TRIES} tries",
                hint="What was sent so far stays there; run the command again",
            )
        self.models += len(batch.models)
        self.blobs += batch.blobs
        self.bytes += batch.bytes
        if self.progress is not None:
            self.progress(self.bytes, self.all)

    def _write(
        self, state: StoreTree, models: Mapping[str, Entry], arriving: Mapping[str, bytes], batch: _Batch
    ) -> bytes:
        """Writes the commit that puts a batch on top of `state`, and returns it."""
        trees = {**models, **batch.parts}
        padding = PACKED_FROM - batch.blobs - len(trees) if batch.bytes >= PADDED_BYTES else 0
        new, entries = state.write_child(
            {digest: entry.oid for digest, entry in models.items()}, arriving, padding
        )
        pack = PackWriter(self.store.repository / "objects/pack", len(entries) + len(trees))
        for entry in (*trees.values(), *entries):
            pack.add(entry)
        written = pack.finish()
        if written is not None:
            # Tells git that what these trees name may be absent: blobs that only the remote has, or that `clean` deletes
            written.with_suffix(".promisor").touch()
        return new
