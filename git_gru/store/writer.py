"""Writing models into a store: add chunks, then commit manifests.

A `Writer` holds the store's lock (shared) from its first look at what is known until its models are reachable, so that
maintenance cannot take away a chunk that it decided not to write again. `commit` returns only when every chunk of the manifest
is durable and reachable from `refs/gru/store`; of two writers at once, the one that loses the compare-and-swap puts its models
on top of the other's state and tries again.
"""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from git_gru.errors import StoreError
from git_gru.ids import Buffer, digest
from git_gru.store.codec import encode_planes, may_be_nonfinite, plain_planes
from git_gru.store.lookup import ChunkRow
from git_gru.store.manifest import Manifest
from git_gru.store.packs import Entry, PackWriter, make_entry
from git_gru.store.pipeline import OrderedSink
from git_gru.store.trees import StoreTree, make_model_tree

if TYPE_CHECKING:
    from git_gru.store.store import Store

TREE_OBJECTS = 6
"""Objects that a commit to a store adds beside the chunks: model tree, group, format, models, root, commit."""


class Writer:
    """Adds chunks and commits models, as a context manager. For one thread; encoding runs on the store's threads."""

    def __init__(self, store: "Store", expected: int) -> None:
        self._store = store
        self._expected = expected
        self._known = 0
        self._rows: dict[str, ChunkRow] = {}
        self._queued: set[str] = set()
        self._pack: PackWriter | None = None
        self._sink: OrderedSink[_Encoded] | None = None
        self._may_be_nonfinite = False
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as entered:
            entered.enter_context(self._store.locked(alone=False))
            self._store.sync()
            self._exit = entered.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._sink is not None:
                self._sink.cancel()
            if self._pack is not None:
                self._pack.abandon()
        finally:
            self._exit.close()

    def expect(self, chunks: int) -> None:
        """Says how many chunks will be added, before the first: if no more of them are known by then than come before the
        first new one (the header, mostly), the pack's checksum costs no second pass.
        """
        self._expected = chunks

    def add(self, data: Buffer, dtype: str) -> str:
        """Adds a chunk and returns its id; a chunk that the store has is not written again.

        `data` must not change until the writer is left.
        """
        id = digest(data)
        if id in self._queued or self._has(id):
            self._known += 1
            return id
        if self._pack is None:
            self._pack = PackWriter(self._packs, max(self._expected - self._known, 0) + TREE_OBJECTS)
        if self._sink is None:
            self._sink = OrderedSink(self._store.pool, self._keep, ahead=2 * self._store.cores + 2)
        self._queued.add(id)
        self._sink.submit(_encode, id, data, dtype)
        return id

    def commit(self, *manifests: Manifest) -> frozenset[str]:
        """Makes models durable and reachable, all at once; returns the digests of those that the store did not have.

        Raises `StoreError` where a chunk of one was not added.
        """
        if self._sink is not None:
            self._sink.drain()
        # A known model is written anew only where chunks of it had been lost: adding a file again repairs the store.
        known = {manifest.digest for manifest in manifests if self._store.has_model(manifest.digest)}
        models = {
            manifest.digest: self._model_tree(manifest)
            for manifest in manifests
            if manifest.digest not in known or not self._rows.keys().isdisjoint(manifest.chunks())
        }
        for manifest in manifests:
            if manifest.digest not in models:
                self._store.stamps.stamp(manifest.digest, manifest.encode())
        if not models:
            return frozenset()
        if self._may_be_nonfinite:
            self._store.note_nonfinite()
        trees = {digest: entry.oid for digest, entry in models.items()}
        pack, self._pack = self._pack, None
        old, new = link(self._store, trees, list(models.values()), pack)
        if known & models.keys() and pack is not None and pack.written is not None:
            # the mended copies shall be found before the damaged ones
            self._store.objects.prefer(pack.written)
        self._store.lookup.put(self._rows, trees, old.hex() if old else "", new.hex())
        for manifest in manifests:
            if manifest.digest in models:
                self._store.stamps.stamp(manifest.digest, manifest.encode())
        return frozenset(models.keys() - known)

    @property
    def _packs(self) -> Path:
        return self._store.repository / "objects/pack"

    def _keep(self, encoded: "_Encoded") -> None:
        assert self._pack is not None
        self._pack.add(encoded.entry)
        self._rows[encoded.id] = ChunkRow(encoded.entry.oid, None, encoded.raw, encoded.stored, 0)
        self._may_be_nonfinite |= encoded.may_be_nonfinite

    def _has(self, id: str) -> bool:
        row = self._store.lookup.get(id)
        return row is not None and self._store.objects.has(row.oid)

    def _row(self, id: str) -> ChunkRow:
        row = self._rows.get(id) or self._store.lookup.get(id)
        if row is None:
            self._store.sync()  # another process may have brought the cache to an older state in between
            row = self._store.lookup.get(id)
        if row is None:
            raise StoreError(f"chunk {id[:12]} of the new model was never added to the store")
        return row

    def _model_tree(self, manifest: Manifest) -> Entry:
        blobs: dict[str, bytes] = {}
        deltas: set[str] = set()
        wanted = list(manifest.chunks())
        while wanted:
            id = wanted.pop()
            if id in blobs:
                continue
            row = self._row(id)
            blobs[id] = row.oid
            if row.base is not None:
                deltas.add(id)
                wanted.append(row.base)
        return make_model_tree(blobs, deltas)


def link(
    store: "Store", models: Mapping[str, bytes], entries: Sequence[Entry], pack: PackWriter | None = None
) -> tuple[bytes | None, bytes]:
    """Makes models (digest -> model tree) durable and reachable, whose blobs are in the store or in `pack`.

    `entries` are the objects that are in neither yet. The caller holds the store's lock, shared. Returns the store's commit
    before and after. `pack` is finished, or thrown away where that fails.
    """
    while True:
        old = store.tip()
        new, upper = StoreTree(store.objects, old).write(models)
        pack = pack or PackWriter(store.repository / "objects/pack", len(entries) + len(upper))
        try:
            for entry in (*entries, *upper):
                pack.add(entry)
        except BaseException:
            pack.abandon()
            raise
        pack.finish()
        if store.update_ref(new, old):
            return old, new
        pack = None


class _Encoded(NamedTuple):
    """A chunk on its way into the pack; `raw` and `stored` are its lengths in bytes, before and after."""

    id: str
    raw: int
    entry: Entry
    stored: int
    may_be_nonfinite: bool


def _encode(id: str, data: Buffer, dtype: str) -> _Encoded:
    planes = plain_planes(data, dtype)
    parts = encode_planes(planes, dtype)
    return _Encoded(
        id, len(data), make_entry("blob", parts), sum(map(len, parts)), may_be_nonfinite(planes, dtype)
    )
