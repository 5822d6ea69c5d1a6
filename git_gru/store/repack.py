"""Repack: older versions become deltas against newer ones, in few packs. Chunk ids and manifests never change.

It works beside readers and writers. Chunks are re-encoded and copied into new packs without a lock; then, holding the store's
lock alone for a moment, the model trees of the state as it is by then are written anew, the reference is moved, and the old
packs are deleted. A reader that misses an object looks at the reference again. Killed at any instant, a repack leaves either
the old state with some garbage or the new one with some; the next repack sweeps it.
"""

import contextlib
import fcntl
import re
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from git_gru.errors import InputError, StoreError
from git_gru.store.codec import encode_plain, inspect
from git_gru.store.columns import DEPTH, WINDOW, Column, Placed, columns_of, place_column
from git_gru.store.lookup import ChunkRow
from git_gru.store.manifest import Manifest
from git_gru.store.objects import Pack
from git_gru.store.packs import Entry, PackWriter, make_entry, sync_folder
from git_gru.store.pipeline import ordered_map
from git_gru.store.store import Store, read_chunk
from git_gru.store.trees import StoreTree, make_model_tree, model_blobs, model_deltas

KEPT_PACK = 1 << 28
"""A pack of at least so many bytes is left as it is while most of it is in use."""

KEPT_SHARE = 0.8
_PACK = re.compile(r"pack-[0-9a-f]{40}\.pack\Z")
DEEPEST = 16
"""Longest chain that may be asked for; readers follow `store.LONGEST_CHAIN`, far more."""

_LEFT = re.compile(r"tmp_(pack|idx|rev)_[0-9A-Za-z]+\Z")
"""What a killed writer leaves, ours or a git that fetched: none is under way while the lock is held alone."""


Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class RepackReport:
    """What a repack did: sizes of all packs in bytes, and how many chunks were encoded anew."""

    models: int
    chunks: int
    rewritten: int
    bytes_before: int
    bytes_after: int
    packs_before: int
    packs_after: int


class RepackRunningError(InputError):
    """Another repack of the same store is under way."""


def repack(
    store: Store,
    lineages: Sequence[Sequence[Manifest]],
    keep_plain: Set[str],
    *,
    depth: int = DEPTH,
    window: int = WINDOW,
    progress: Progress | None = None,
) -> RepackReport:
    """Re-encodes the store. A lineage holds the versions of one model, newest first.

    Models whose digests are in `keep_plain`, and the newest of each lineage, keep plain encodings. Models that no lineage names
    are kept as they are. `progress` is told (done, all) in bytes of raw data. Raises `RepackRunningError`.
    """
    if not 0 <= depth <= DEEPEST:
        raise InputError(
            f"the depth {depth} is not between 0 and {DEEPEST}: longer chains take too long to restore"
        )
    with _one_at_a_time(store):
        return _Repack(store, lineages, keep_plain, depth, window, progress).run()


@contextlib.contextmanager
def _one_at_a_time(store: Store) -> Iterator[None]:
    with open(store.folder / "repack.lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RepackRunningError(
                "another repack of this store is under way", hint="wait for it, then run the command again"
            ) from None
        yield


@dataclass(slots=True)
class _Tally:
    done: int = 0
    all: int = 0
    rewritten: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Repack:
    def __init__(
        self,
        store: Store,
        lineages: Sequence[Sequence[Manifest]],
        keep_plain: Set[str],
        depth: int,
        window: int,
        progress: Progress | None,
    ) -> None:
        self.store, self.depth, self.window, self.progress = store, depth, window, progress
        with store.locked(alone=True):
            # No writer stands between its pack and the reference: what no tree names in these packs is garbage.
            self.packs = store.objects.packs()
            store.sync()
            self.rows = store.lookup.rows()
            _require_whole(store, self.rows)
        self.blob_of = {id: row.oid for id, row in self.rows.items()}
        present = [[manifest for manifest in line if store.has_model(manifest.digest)] for line in lineages]
        self.columns = columns_of(present, self.rows)
        self.own = {manifest.digest: manifest.chunks() for line in present for manifest in line}
        self.plain = {
            id
            for line in present
            for at, manifest in enumerate(line)
            if at == 0 or manifest.digest in keep_plain
            for id in manifest.chunks()
        }
        self.bases = {id: row.base for id, row in self.rows.items()}
        self.tally = _Tally(all=sum(self.rows[id].raw for column in self.columns for id in column.ids))
        self.writer: PackWriter | None = None
        self.written: Path | None = None

    def run(self) -> RepackReport:
        before = [pack.size for pack in self.packs]
        folder = self.store.repository / "objects/pack"
        large = any(pack.size >= KEPT_PACK for pack in self.packs)
        self.writer = PackWriter(folder, 0 if large else len(self.rows))
        try:
            for _ in ordered_map(self.store.pool, self._place, self.columns, ahead=self.store.cores + 1):
                pass
            self._shorten()
            kept = self._copy_live()
            self.written = self.writer.finish()
        except BaseException:
            self.writer.abandon()
            raise
        with self.store.locked(alone=True):
            self._swap(kept)
        after = [pack.size for pack in self.store.objects.packs()]
        return RepackReport(
            models=len(self.store.models()),
            chunks=len(self.rows),
            rewritten=self.tally.rewritten,
            bytes_before=sum(before),
            bytes_after=sum(after),
            packs_before=len(before),
            packs_after=len(after),
        )

    def _shorten(self) -> None:
        """Cuts chains that grew: a chunk that no lineage names keeps its encoding while its base may get a base itself."""
        depths: dict[str, int] = {}
        for id in self.bases:
            chain = []
            wanted: str | None = id
            while wanted is not None and wanted not in depths:
                chain.append(wanted)
                wanted = self.bases[wanted]
            for link in reversed(chain):
                base = self.bases[link]
                depths[link] = 0 if base is None else depths[base] + 1
        cuts: dict[str, None] = {}
        for id, depth in depths.items():
            if depth > self.depth + DEPTH:
                # The first link beyond the chosen encodings: what hangs below it keeps its own.
                while depths[id] > self.depth + 1 and (base := self.bases[id]) is not None:
                    id = base
                cuts[id] = None
        for id in cuts:
            self._make_plain(id)

    def _make_plain(self, id: str) -> None:
        row = self.rows[id]
        dtype = inspect(self.store.objects.expect(row.oid, "blob"), where=f"chunk {id[:12]}").dtype
        data = read_chunk(self.store.objects, lambda id: self.rows[id].oid, id)
        self._note(Placed(id, None, 0, None), make_entry("blob", encode_plain(data, dtype)))

    def _place(self, column: Column) -> None:
        """Chooses the encodings of one column; new blobs go to the pack at once, so that memory stays bounded."""
        placed = place_column(
            column,
            self.rows.__getitem__,
            lambda id: read_chunk(self.store.objects, lambda id: self.rows[id].oid, id),
            self.plain,
            depth=self.depth,
            window=self.window,
        )
        for chunk in placed:
            entry = make_entry("blob", chunk.parts) if chunk.parts is not None else None
            with self.tally.lock:
                self._note(chunk, entry)

    def _note(self, chunk: Placed, entry: Entry | None) -> None:
        self.bases[chunk.id] = chunk.base
        if entry is not None:
            assert self.writer is not None
            self.writer.add(entry)
            self.blob_of[chunk.id] = entry.oid
            self.tally.rewritten += 1
        self.tally.done += chunk.raw
        if self.progress is not None:
            self.progress(self.tally.done, self.tally.all)

    def _copy_live(self) -> list[Pack]:
        """Copies the blobs in use into the new pack, but for those in packs that are well used; these are returned."""
        assert self.writer is not None
        left = {oid for oid in self.blob_of.values() if oid not in self.writer}
        kept = []
        for pack in sorted(self.packs, key=lambda pack: -pack.size):
            if pack.size < KEPT_PACK:
                break
            inside = left.intersection(pack.oids())
            size = sum(self.store.objects.head(oid, 1)[0] for oid in inside)
            if size >= KEPT_SHARE * pack.size:
                kept.append(pack)
                left -= inside
        copies = ordered_map(
            self.store.pool, lambda oid: _copied(self.store, oid), sorted(left), ahead=self.store.cores + 1
        )
        for entry in copies:
            self.writer.add(entry)
        return kept

    def _swap(self, kept: Sequence[Pack]) -> None:
        """Makes the new encodings the state of the store. The lock is held alone: no writer is under way."""
        store = self.store
        folder = store.repository / "objects/pack"
        old = store.tip()
        if old is None:
            return
        state = StoreTree(store.objects, old)
        trees = {digest: self._model_tree(digest, tree) for digest, tree in state.models().items()}
        new, entries = state.write({digest: entry.oid for digest, entry in trees.items()})
        writer = PackWriter(folder, len(trees) + len(entries))
        for entry in (*trees.values(), *entries):
            writer.add(entry)
        written = writer.finish()
        if new != old and not store.update_ref(new, old):
            raise AssertionError("the reference moved under the lock")
        store.forget_remotes()
        # Packs are named after their content: a repack that changes nothing writes the old names again.
        spared = {pack.path for pack in kept} | {written, self.written}
        for pack in self.packs:
            if pack.path not in spared:
                for suffix in (".idx", ".pack", ".promisor", ".rev", ".keep"):
                    pack.path.with_suffix(suffix).unlink(missing_ok=True)
        for path in folder.iterdir():
            lost = _PACK.match(path.name) and not path.with_suffix(".idx").exists()
            if lost or _LEFT.match(path.name):
                path.unlink(missing_ok=True)
        sync_folder(folder)
        store.sync()

    def _model_tree(self, digest: str, tree: bytes) -> Entry:
        """The model tree as it is to be: the model's chunks and the bases that they need now."""
        before = model_blobs(self.store.objects, tree)
        deltas = {id for id in model_deltas(self.store.objects, tree) if id not in self.bases}
        needed: dict[str, bytes] = {}
        wanted = list(self.own.get(digest, before))
        while wanted:
            id = wanted.pop()
            if id not in needed:
                needed[id] = self.blob_of.get(id) or before[id]
                base = self.bases.get(id)
                if base is not None:
                    deltas.add(id)
                    wanted.append(base)
        return make_model_tree(needed, deltas)


def _require_whole(store: Store, rows: Mapping[str, ChunkRow]) -> None:
    """Raises `StoreError` where a model of the store lacks chunks: repacking would carry the hole on and delete the evidence."""
    for digest, tree in store.models().items():
        try:
            whole = model_blobs(store.objects, tree).keys() <= rows.keys()
        except StoreError:
            whole = False
        if not whole:
            raise StoreError(
                f"chunks of the model {digest[:12]} are missing or damaged: a store is repacked only when whole",
                hint="add the file again where you still have it (touch PATH; git add PATH), or restore a backup of "
                ".git/gru; then repack",
            )


def _copied(store: Store, oid: bytes) -> Entry:
    """A blob as an entry for a new pack, copied as it stands where that can be done."""
    packed = store.objects.packed(oid)
    if packed is None:
        return make_entry("blob", [store.objects.expect(oid, "blob")])
    return Entry(oid, packed, zlib.crc32(packed))
